"""Packing: nothing lost, pairs together, resumable in mid-stream."""

import dataclasses
import itertools

import grain
import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest

from distill_jax.data.feed import batch as batch_lib
from distill_jax.data.feed import packing

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


def fill_slowly(units, config):
  """Fills one batch first fit, a token at a time; returns what was added."""
  rows = [[] for _ in range(config.batch_rows)]

  def fits(row, segment):
    together = [*row, segment]
    return (
      sum(len(one.inputs) for one in together) <= config.encoder_length
      and sum(len(one.targets) for one in together) <= config.decoder_length
      and len(together) <= (config.max_segments_per_row or len(together))
    )

  def place(segment, rows):
    for row in rows:
      if fits(row, segment):
        row.append(segment)
        return True
    return False

  added = []
  for unit in units:
    trial = [list(row) for row in rows]
    is_full = sum(added) == config.max_examples_per_batch
    added.append(not is_full and all(place(one, trial) for one in unit))
    if added[-1]:
      rows = trial
  batch = batch_lib.make_empty_batch(
    config.batch_rows, config.encoder_length, config.decoder_length
  )
  for row, segments in enumerate(rows):
    encoder, decoder = itertools.count(), itertools.count()
    for segment_id, segment in enumerate(segments, start=1):
      for position, token in enumerate(segment.inputs):
        place = row, next(encoder)
        batch[batch_lib.ENCODER_INPUT_TOKENS][place] = token
        batch[batch_lib.ENCODER_SEGMENT_IDS][place] = segment_id
        batch[batch_lib.ENCODER_POSITIONS][place] = position
      for position, token in enumerate(segment.targets):
        place = row, next(decoder)
        before = segment.targets[position - 1] if position else 0
        batch[batch_lib.DECODER_TARGET_TOKENS][place] = token
        batch[batch_lib.DECODER_INPUT_TOKENS][place] = before
        batch[batch_lib.DECODER_SEGMENT_IDS][place] = segment_id
        batch[batch_lib.DECODER_POSITIONS][place] = position
        batch[batch_lib.DECODER_LOSS_WEIGHTS][place] = segment.weight
        batch[batch_lib.DECODER_TASK_IDS][place] = segment.task_id
  ids = [[one.example_id for one in segments] for segments in rows]
  return added, batch, ids


@hypothesis.settings(max_examples=300, deadline=None)
@hypothesis.given(
  lengths=st.lists(
    st.lists(st.tuples(st.integers(0, 9), st.integers(0, 6)), max_size=3),
    max_size=20,
  ),
  batch_rows=st.integers(1, 5),
  max_segments=st.sampled_from([None, 1, 2, 3]),
  max_examples=st.sampled_from([None, 1, 4]),
)
def test_a_batch_is_filled_first_fit(
  lengths, batch_rows, max_segments, max_examples
):
  config = packing.PackingConfig(batch_rows, 12, 8, max_segments, max_examples)
  units = [
    [
      dataclasses.replace(segment, example_id=str(segment.weight))
      for segment in unit
    ]
    for unit in make_units(lengths)
  ]
  packer = packing.BatchPacker(config)
  added, batch, ids = fill_slowly(units, config)
  assert [packer.add(unit) for unit in units] == added
  assert packer.num_units == sum(added)
  assert packer.example_ids == ids
  found = packer.make_batch()
  batch_lib.validate(found)
  for key, array in batch.items():
    np.testing.assert_array_equal(found[key], array, err_msg=key)
