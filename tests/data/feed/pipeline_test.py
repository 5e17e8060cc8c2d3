"""From a token cache to batches."""

import itertools
import threading

import numpy as np
import pytest
from synthetic_cache import make_cache

from distill_jax.data.feed import batch as batch_lib
from distill_jax.data.feed import pipeline
from distill_jax.errors import UserError

LENGTHS = {"inputs": 24, "targets": 16}


def take_batches(cache, config, count):
  iterator = pipeline.make_train_iterator(cache, config)
  batches = list(itertools.islice(iterator, count))
  state = iterator.get_state()
  iterator.close()
  return batches, state


def segment_tags(batch, task_id):
  """First input token of each segment of a task: our cache writes ids there."""
  starts = (batch["decoder_positions"] == 0) & (
    batch["decoder_task_ids"] == task_id
  )
  tags = []
  for row, column in zip(*np.nonzero(starts), strict=True):
    segment = batch["decoder_segment_ids"][row, column]
    encoder = batch["encoder_segment_ids"][row] == segment
    tags.append(int(batch["encoder_input_tokens"][row][encoder][0]))
  return sorted(tags)


@pytest.mark.parametrize("packed", [True, False])
def test_pairs_share_a_batch_and_an_epoch_holds_each_once(tmp_path, packed):
  cache = make_cache(tmp_path, num_examples=20)
  config = pipeline.FeedConfig(LENGTHS, 8, packed=packed)
  batches, _ = take_batches(cache, config, 8)
  seen = []
  for batch in batches:
    labels = segment_tags(batch, 1)
    assert labels == segment_tags(batch, 2)
    seen += labels
    if not packed:
      assert batch["encoder_segment_ids"].max() == 1
  # The first epoch shows every example before any comes again.
  counts = np.bincount(seen, minlength=30)[10:30]
  assert counts.max() - counts.min() <= 1


@pytest.mark.parametrize("pairing", ["paired", "mixed"])
def test_a_record_weighs_in_both_its_rows_and_in_training_only(
  tmp_path, pairing
):
  cache = make_cache(tmp_path, num_examples=9, weigh_fn=lambda i: 1 + i / 4)
  config = pipeline.FeedConfig(LENGTHS, 8, pairing=pairing)
  batches, _ = take_batches(cache, config, 3)
  seen = set()
  for batch in batches:
    targets, weights = (
      batch[f"decoder_{name}"] for name in ("target_tokens", "loss_weights")
    )
    # Label and rationale begin with the tag of their example.
    starts = (batch["decoder_positions"] == 0) & (targets > 0)
    for row, column in zip(*np.nonzero(starts), strict=True):
      segment = batch["decoder_segment_ids"][row, column]
      is_own = batch["decoder_segment_ids"][row] == segment
      weight = 1 + (targets[row, column] - 10) / 4
      np.testing.assert_array_equal(weights[row][is_own], weight)
      seen.add((batch["decoder_task_ids"][row, column], weight))
    assert not weights[batch["decoder_segment_ids"] == 0].any()
  assert len(seen) == 2 * 9
  info, examples = (
    cache.tasks["toy_label"],
    cache.open_split("toy_label", "train"),
  )
  for batch, _ in pipeline.make_eval_batches(examples, info, LENGTHS, 4):
    np.testing.assert_array_equal(
      batch["decoder_loss_weights"], batch["decoder_segment_ids"]
    )


def test_order_depends_on_the_seed_only(tmp_path):
  cache = make_cache(tmp_path, num_examples=20)
  first, _ = take_batches(cache, pipeline.FeedConfig(LENGTHS, 4, seed=1), 4)
  again, _ = take_batches(cache, pipeline.FeedConfig(LENGTHS, 4, seed=1), 4)
  other, _ = take_batches(cache, pipeline.FeedConfig(LENGTHS, 4, seed=2), 4)

  def stack(batches):
    return np.stack([batch["encoder_input_tokens"] for batch in batches])

  assert (stack(first) == stack(again)).all()
  assert (stack(first) != stack(other)).any()


def test_batches_are_put_ahead_and_the_place_is_that_of_the_one_taken(tmp_path):
  cache = make_cache(tmp_path, num_examples=20)
  config = pipeline.FeedConfig(LENGTHS, 4)
  expected, _ = take_batches(cache, config, 5)
  put, is_ahead = [], threading.Event()

  def put_fn(batch):
    put.append(threading.current_thread())
    if len(put) > 2:
      is_ahead.set()
    return {key: value + 1 for key, value in batch.items()}

  iterator = pipeline.make_train_iterator(cache, config, put_fn=put_fn)
  taken = [next(iterator)]
  assert is_ahead.wait(timeout=10)  # More were put than taken.
  assert threading.current_thread() not in put
  state = iterator.get_state()
  iterator.close()
  resumed = pipeline.make_train_iterator(cache, config, put_fn=put_fn)
  resumed.set_state(state)
  taken += itertools.islice(resumed, 4)
  resumed.close()
  for (batch, put_batch), expected_batch in zip(taken, expected, strict=True):
    for key, value in expected_batch.items():
      np.testing.assert_array_equal(batch[key], value)
      np.testing.assert_array_equal(put_batch[key], value + 1)


@pytest.mark.parametrize("pairing", ["paired", "mixed"])
def test_state_resumes_the_stream(tmp_path, pairing):
  cache = make_cache(tmp_path, num_examples=20)
  config = pipeline.FeedConfig(LENGTHS, 4, pairing=pairing)
  expected, _ = take_batches(cache, config, 9)
  _, state = take_batches(cache, config, 5)
  iterator = pipeline.make_train_iterator(cache, config)
  iterator.set_state(state)
  for wanted in expected[5:]:
    found = next(iterator)
    for key in wanted:
      np.testing.assert_array_equal(found[key], wanted[key])
  iterator.close()


def test_mixed_follows_the_rates(tmp_path):
  cache = make_cache(tmp_path, num_examples=20, rates=(3.0, 1.0))
  config = pipeline.FeedConfig(LENGTHS, 8, pairing="mixed")
  batches, _ = take_batches(cache, config, 30)
  labels = sum(len(segment_tags(batch, 1)) for batch in batches)
  rationales = sum(len(segment_tags(batch, 2)) for batch in batches)
  assert 2.5 < labels / rationales < 3.5


def test_long_examples_are_trimmed_and_keep_their_end(tmp_path):
  cache = make_cache(tmp_path, num_examples=4)
  config = pipeline.FeedConfig({"inputs": 4, "targets": 3}, 4, packed=False)
  (batch,), _ = take_batches(cache, config, 1)
  lengths = (batch["decoder_target_tokens"] > 0).sum(axis=1)
  last = batch["decoder_target_tokens"][np.arange(4), lengths - 1]
  assert lengths.max() == 3
  assert (last == 1).all()


def test_a_row_without_rationale_goes_alone(tmp_path):
  cache = make_cache(tmp_path, num_examples=6, num_rationales=2)
  config = pipeline.FeedConfig(LENGTHS, 16, max_examples_per_batch=6)
  (batch,), _ = take_batches(cache, config, 1)
  assert len(segment_tags(batch, 1)) == 6
  assert len(segment_tags(batch, 2)) == 2


def test_a_rationale_without_label_goes_alone(tmp_path):
  cache = make_cache(tmp_path, num_examples=2, num_rationales=6)
  config = pipeline.FeedConfig(LENGTHS, 16, max_examples_per_batch=6)
  (batch,), _ = take_batches(cache, config, 1)
  assert len(segment_tags(batch, 1)) == 2
  assert len(segment_tags(batch, 2)) == 6


def test_eval_batches_hold_each_example_once_in_order(tmp_path):
  cache = make_cache(tmp_path, num_examples=7)
  examples = cache.open_split("toy_label", "train")
  ids, num_rows = [], []
  for batch, rows in pipeline.make_eval_batches(
    examples, cache.tasks["toy_label"], LENGTHS, 4
  ):
    ids += [example.id for example in rows]
    num_rows.append(int((batch["encoder_segment_ids"].max(axis=1) > 0).sum()))
    assert batch["encoder_input_tokens"].shape == (4, 24)
  assert ids == [f"toy-{index}" for index in range(7)]
  assert num_rows == [4, 3]


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"feature_lengths": {"inputs": 4}}, "feature_lengths is"),
    ({"batch_rows": 0}, "batch_rows is 0"),
    ({"pairing": "both"}, "pairing is 'both'"),
    ({"num_shards": 0}, "num_shards is 0"),
    ({"num_shards": 3}, "batch_rows is 4 and num_shards 3"),
    (
      {"num_shards": 2, "max_examples_per_batch": 3},
      "max_examples_per_batch is 3 and num_shards 2",
    ),
  ],
)
def test_bad_settings_are_named(changes, message):
  arguments = {"feature_lengths": LENGTHS, "batch_rows": 4} | changes
  with pytest.raises(UserError, match=message):
    pipeline.FeedConfig(**arguments)


def test_a_pair_needs_two_rows_when_rows_hold_one_example(tmp_path):
  cache = make_cache(tmp_path, num_examples=4)
  config = pipeline.FeedConfig(LENGTHS, 1, packed=False)
  with pytest.raises(UserError, match="need two"):
    pipeline.make_train_iterator(cache, config)
  config = pipeline.FeedConfig(LENGTHS, 4, packed=False, num_shards=4)
  with pytest.raises(UserError, match="BATCH_SIZE is 4, one row .* 4.*>= 8"):
    pipeline.make_train_iterator(cache, config)


@pytest.mark.parametrize("pairing", ["paired", "mixed"])
def test_ids_of_the_examples_travel_beside_the_arrays(tmp_path, pairing):
  cache = make_cache(tmp_path, num_examples=20)
  config = pipeline.FeedConfig(LENGTHS, 4, pairing=pairing)
  plain, state = take_batches(cache, config, 5)
  iterator = pipeline.make_train_iterator(cache, config, with_example_ids=True)
  found = list(itertools.islice(iterator, 5))
  # The order and the place to resume from are those of a run without ids.
  assert iterator.get_state() == state
  iterator.close()
  for batch, expected in zip(found, plain, strict=True):
    arrays, example_ids = batch_lib.split_example_ids(batch)
    assert batch_lib.split_example_ids(expected) == (expected, None)
    assert arrays.keys() == expected.keys()
    for key in expected:
      np.testing.assert_array_equal(arrays[key], expected[key])
    assert len(example_ids) == 4
    for row, row_ids in enumerate(example_ids):
      segment_ids = arrays["encoder_segment_ids"][row]
      tags = [
        arrays["encoder_input_tokens"][row][segment_ids == segment][0]
        for segment in range(1, segment_ids.max() + 1)
      ]
      assert row_ids == [f"toy-{tag - 10}" for tag in tags]
