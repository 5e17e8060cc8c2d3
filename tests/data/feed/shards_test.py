"""Tests of data/feed/shards.py.

Batches made in parts, by whoever needs them.
"""

import itertools

import numpy as np
import pytest
from synthetic_cache import make_cache

from distill_jax.data.feed import batch as batch_lib
from distill_jax.data.feed import pipeline, shards

LENGTHS = {"inputs": 24, "targets": 16}
NUM_EXAMPLES = 24


@pytest.fixture(name="cache", scope="module")
def fixture_cache(tmp_path_factory):
  folder = tmp_path_factory.mktemp("cache")
  return make_cache(folder, NUM_EXAMPLES, rates=(3.0, 1.0))


def make_config(**changes):
  return pipeline.FeedConfig(LENGTHS, 16, num_shards=4, **changes)


def take(cache, config, count, made=None, state=None):
  iterator = pipeline.make_train_iterator(
    cache, config, with_example_ids=True, shards=made
  )
  if state is not None:
    iterator.set_state(state)
  batches = list(itertools.islice(iterator, count))
  state = iterator.get_state()
  iterator.close()
  return batches, state


def assert_same(found, expected, rows=slice(None)):
  found, ids = batch_lib.split_example_ids(batch_lib.take_rows(found, rows))
  expected, wanted_ids = batch_lib.split_example_ids(
    batch_lib.take_rows(expected, rows)
  )
  assert ids == wanted_ids
  assert found.keys() == expected.keys()
  for key in expected:
    np.testing.assert_array_equal(found[key], expected[key])


def is_padding(batch, rows):
  arrays, ids = batch_lib.split_example_ids(batch_lib.take_rows(batch, rows))
  return not any(map(np.any, arrays.values())) and not any(ids)


@pytest.mark.parametrize("pairing", ["paired", "mixed"])
@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("made", [[0], [3], [1, 2], [0, 1, 3]])
def test_a_shard_is_the_same_whoever_makes_it(cache, pairing, packed, made):
  config = make_config(pairing=pairing, packed=packed)
  whole, _ = take(cache, config, 6)
  parts, _ = take(cache, config, 6, made)
  rows = shards.list_rows(made, 4, 16)
  others = sorted(set(range(16)) - set(rows))
  for part, expected in zip(parts, whole, strict=True):
    batch_lib.validate(batch_lib.split_example_ids(part)[0])
    assert_same(part, expected, rows)
    assert is_padding(part, others)
    assert not is_padding(expected, others)


def test_rows_of_shards():
  assert shards.list_rows([2, 0], 4, 8).tolist() == [0, 1, 4, 5]
  assert shards.list_rows(range(4), 4, 8).tolist() == list(range(8))


@pytest.mark.parametrize(
  "holders,made,told",
  [
    ([[0], [0], [1], [1]], [[0, 1], [2, 3]], [[0, 1], [2, 3]]),
    # Copies of all rows; a shard that lies on two; one that tells nothing.
    ([[0, 1], [0, 1]], [[0, 1], [0, 1]], [[0, 1], []]),
    ([[0, 1], [1, 2]], [[0], [0, 1], [1]], [[0], [1], []]),
  ],
)
def test_every_shard_is_made_where_it_is_held_and_told_once(
  holders, made, told
):
  processes = range(len(made))
  assert [shards.list_made(holders, process) for process in processes] == made
  assert [shards.list_told(holders, process) for process in processes] == told


def test_shards_share_an_epoch_and_no_example_twice(cache):
  """Twenty-four examples in four shards of two rows, each one pair a batch."""
  config = pipeline.FeedConfig(LENGTHS, 8, packed=False, num_shards=4)
  batches, _ = take(cache, config, 12)
  for epoch in (batches[:6], batches[6:]):
    seen = [
      batch[batch_lib.EXAMPLE_IDS][row][0]
      for batch in epoch
      for row in range(8)
    ]
    assert sorted(seen) == sorted(
      f"toy-{index}" for index in [*range(NUM_EXAMPLES)] * 2
    )
  # Each pair lies in one shard.
  for batch in batches:
    ids = batch[batch_lib.EXAMPLE_IDS]
    assert all(ids[row] == ids[row + 1] for row in range(0, 8, 2))


def test_each_shard_follows_the_rates(cache):
  """Labels are shorter: a shard of labels alone would outrun the others."""
  config = make_config(pairing="mixed")
  batches, _ = take(cache, config, 40)
  for shard in range(4):
    rows = shards.list_rows([shard], 4, 16)
    tasks = [
      batch["decoder_task_ids"][rows][batch["decoder_positions"][rows] == 0]
      for batch in batches
    ]
    labels, rationales = (
      np.sum(np.concatenate(tasks) == task) for task in (1, 2)
    )
    assert 2.5 < labels / rationales < 3.5


def test_places_of_shards_may_be_divided_anew(cache):
  config = make_config()
  expected, _ = take(cache, config, 9)
  places = [take(cache, config, 5, made)[1] for made in ([0, 1], [2], [3])]
  place = {shards.SHARDS: {}}
  for each in places:
    place[shards.SHARDS] |= each[shards.SHARDS]
  assert sorted(place[shards.SHARDS]) == ["0", "1", "2", "3"]
  assert place == take(cache, config, 5)[1]
  for made in ([0, 1, 2, 3], [1, 3], [2]):
    found, _ = take(cache, config, 4, made, place)
    rows = shards.list_rows(made, 4, 16)
    for batch, wanted in zip(found, expected[5:], strict=True):
      assert_same(batch, wanted, rows)


def test_examples_of_a_batch_are_limited_over_all_shards(cache):
  config = make_config(max_examples_per_batch=8)
  batches, _ = take(cache, config, 5)
  for batch in batches:
    names = set(itertools.chain(*batch[batch_lib.EXAMPLE_IDS]))
    assert len(names) == 8


def test_one_shard_is_no_shard(cache):
  """Its place is that of a run from before there were shards."""
  _, place = take(cache, pipeline.FeedConfig(LENGTHS, 16), 3)
  assert place.keys() == {"next_index"}
