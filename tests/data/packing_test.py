"""Packing: nothing lost, pairs together, resumable in mid-stream."""

import grain
import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest

from distill_jax.data import batch as batch_lib
from distill_jax.data import packing

LENGTHS = st.tuples(st.integers(1, 9), st.integers(1, 6))
UNITS = st.lists(
  st.lists(LENGTHS, min_size=1, max_size=2), min_size=1, max_size=30
)


def _get_weight(tag):
  return 0.5 + tag / 4


def make_units(lengths):
  """Segments whose every token tells which segment it belongs to."""
  units, tag = [], 1
  for unit_lengths in lengths:
    unit = []
    for task_id, (num_inputs, num_targets) in enumerate(unit_lengths, start=1):
      unit.append(
        packing.Segment(
          inputs=np.full(num_inputs, tag, np.int32),
          targets=np.full(num_targets, tag + 10_000, np.int32),
          task_id=task_id,
          weight=_get_weight(tag),
        )
      )
      tag += 1
    units.append(unit)
  return units


def pack(units, config):
  dataset = grain.MapDataset.source(units).to_iter_dataset()
  return packing.PackIterDataset(dataset, config)


def read_segments(batch):
  """Slow reading of a batch: (inputs, targets, task id) of every segment."""
  found = []
  for row in range(len(batch[batch_lib.ENCODER_INPUT_TOKENS])):
    for segment_id in range(1, batch[batch_lib.ENCODER_SEGMENT_IDS].max() + 1):
      encoder = batch[batch_lib.ENCODER_SEGMENT_IDS][row] == segment_id
      decoder = batch[batch_lib.DECODER_SEGMENT_IDS][row] == segment_id
      if not encoder.any():
        continue
      targets = batch[batch_lib.DECODER_TARGET_TOKENS][row][decoder]
      decoder_inputs = batch[batch_lib.DECODER_INPUT_TOKENS][row][decoder]
      np.testing.assert_array_equal(decoder_inputs, [0, *targets[:-1]])
      np.testing.assert_array_equal(
        batch[batch_lib.ENCODER_POSITIONS][row][encoder], range(encoder.sum())
      )
      np.testing.assert_array_equal(
        batch[batch_lib.DECODER_POSITIONS][row][decoder], range(decoder.sum())
      )
      tag = batch[batch_lib.ENCODER_INPUT_TOKENS][row][encoder][0]
      weights = batch[batch_lib.DECODER_LOSS_WEIGHTS][row][decoder]
      np.testing.assert_array_equal(weights, _get_weight(tag))
      task_ids = set(batch[batch_lib.DECODER_TASK_IDS][row][decoder].tolist())
      assert len(task_ids) == 1
      found.append(
        (
          tuple(batch[batch_lib.ENCODER_INPUT_TOKENS][row][encoder].tolist()),
          tuple(targets.tolist()),
          task_ids.pop(),
        )
      )
  padding = batch[batch_lib.DECODER_SEGMENT_IDS] == 0
  for key in batch_lib.DECODER_KEYS:
    assert not batch[key][padding].any(), key
  return found


@hypothesis.settings(max_examples=60, deadline=None)
@hypothesis.given(
  lengths=UNITS,
  max_segments_per_row=st.sampled_from([None, 1]),
  max_examples=st.sampled_from([None, 1, 3]),
)
def test_every_segment_appears_once_and_units_stay_together(
  lengths, max_segments_per_row, max_examples
):
  units = make_units(lengths)
  config = packing.PackingConfig(3, 12, 8, max_segments_per_row, max_examples)
  batches = list(pack(units, config))
  seen = []
  for batch in batches:
    batch_lib.validate(batch)
    segments = read_segments(batch)
    seen.append(segments)
    if max_segments_per_row == 1:
      assert batch[batch_lib.ENCODER_SEGMENT_IDS].max() <= 1
  expected = sorted(
    (tuple(s.inputs.tolist()), tuple(s.targets.tolist()), s.task_id)
    for unit in units
    for s in unit
  )
  assert sorted(s for segments in seen for s in segments) == expected
  by_batch = [{s[0][0] for s in segments} for segments in seen]
  for unit in units:
    tags = {int(s.inputs[0]) for s in unit}
    holders = [tags & found for found in by_batch if tags & found]
    assert holders == [tags]
  if max_examples is not None:
    labels = [sum(s[2] == 1 for s in segments) for segments in seen]
    assert max(labels) <= max_examples


@hypothesis.settings(max_examples=25, deadline=None)
@hypothesis.given(lengths=UNITS, data=st.data())
def test_state_restores_the_rest_of_the_stream(lengths, data):
  config = packing.PackingConfig(2, 12, 8)
  dataset = pack(make_units(lengths), config)
  expected = list(dataset)
  consumed = data.draw(st.integers(0, len(expected)))
  iterator = iter(dataset)
  for _ in range(consumed):
    next(iterator)
  state = iterator.get_state()
  resumed = iter(dataset)
  resumed.set_state(state)
  rest = list(resumed)
  assert len(rest) == len(expected) - consumed
  for found, wanted in zip(rest, expected[consumed:], strict=True):
    for key in wanted:
      np.testing.assert_array_equal(found[key], wanted[key])


def test_a_unit_that_fits_no_batch_is_an_error():
  config = packing.PackingConfig(1, 4, 4)
  with pytest.raises(ValueError, match="does not fit"):
    list(pack(make_units([[(3, 3), (3, 3)]]), config))


def test_sizes_must_be_positive():
  with pytest.raises(ValueError, match="batch_rows is 0"):
    packing.PackingConfig(0, 4, 4)
