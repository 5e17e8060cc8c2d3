"""Tests of data/feed/batch_counts.py."""

import dataclasses
import itertools

import pytest
from synthetic_cache import make_cache

from distill_jax.data.feed import batch as batch_lib
from distill_jax.data.feed import batch_counts, pipeline


@pytest.fixture(name="batches", scope="module")
def fixture_batches(tmp_path_factory):
  """Two batches of pairs; one pair has no rationale."""
  cache = make_cache(tmp_path_factory.mktemp("cache"), 20, num_rationales=19)
  config = pipeline.FeedConfig({"inputs": 24, "targets": 16}, 4)
  iterator = pipeline.make_train_iterator(cache, config, with_example_ids=True)
  yield list(itertools.islice(iterator, 2))
  iterator.close()


def test_tokens_padding_and_examples_are_counted(batches):
  for batch in batches:
    counts = batch_counts.count(batch)
    num_tokens = sum(
      (batch[key] > 0).sum()
      for key in ("encoder_input_tokens", "decoder_target_tokens")
    )
    assert counts.tokens == num_tokens
    assert counts.places == 4 * (24 + 16)
    assert counts.padding_share == pytest.approx(1 - num_tokens / 160)
    assert counts.segments == sum(map(len, batch[batch_lib.EXAMPLE_IDS]))
    # A pair is one example.
    names = set(itertools.chain(*batch[batch_lib.EXAMPLE_IDS]))
    assert counts.examples == counts.labels == len(names)


def test_counts_of_rows_add_up_to_those_of_the_batch(batches):
  first, second = batches
  parts = [
    batch_lib.take_rows(first, slice(0, 1)),
    batch_lib.take_rows(first, slice(1, 4)),
    second,
  ]
  total = sum(map(batch_counts.count, parts), batch_counts.BatchCounts())
  expected = [batch_counts.count(batch) for batch in batches]
  for field in dataclasses.fields(total):
    values = [getattr(counts, field.name) for counts in expected]
    assert getattr(total, field.name) == sum(values)


def test_without_labels_every_segment_is_an_example():
  counts = batch_counts.BatchCounts(tokens=3, places=4, segments=2)
  assert counts.examples == 2
  assert counts.padding_share == 0.25
