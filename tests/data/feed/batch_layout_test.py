"""Tests of batch_layout.py: where inputs and targets lie in a row."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distill_jax.data.feed import batch as batch_lib
from distill_jax.data.feed import batch_counts, batch_layout, packing
from distill_jax.data.feed.batch_layout import Segment


def make_segment(inputs, targets, task_id=1, weight=1.0):
  return Segment(
    np.asarray(inputs, np.int32),
    np.asarray(targets, np.int32),
    task_id,
    weight=weight,
  )


def pack(units, rows, lengths, **changes):
  config = packing.PackingConfig(
    rows, *lengths, layout=batch_layout.DECODER, **changes
  )
  packer = packing.BatchPacker(config)
  return packer, [packer.add(unit) for unit in units]


def test_a_decoder_reads_inputs_and_predicts_targets():
  packer, added = pack(
    [
      [make_segment([5, 6, 1], [7, 1], 1, 0.5)],
      [make_segment([8, 1], [9, 3, 1], 2)],
    ],
    1,
    (6, 6),
  )
  assert added == [True, True]
  batch = packer.make_batch()
  assert {key: value[0].tolist() for key, value in batch.items()} == {
    "decoder_target_tokens": [5, 6, 1, 7, 1, 8, 1, 9, 3, 1, 0, 0],
    "decoder_input_tokens": [0, 5, 6, 1, 7, 0, 8, 1, 9, 3, 0, 0],
    "decoder_segment_ids": [1, 1, 1, 1, 1, 2, 2, 2, 2, 2, 0, 0],
    "decoder_positions": [0, 1, 2, 3, 4, 0, 1, 2, 3, 4, 0, 0],
    "decoder_loss_weights": [0, 0, 0, 0.5, 0.5, 0, 0, 1, 1, 1, 0, 0],
    "decoder_task_ids": [0, 0, 0, 1, 1, 0, 0, 2, 2, 2, 0, 0],
  }
  for key, value in batch.items():
    assert value.dtype == batch_lib.DTYPES[key]
  assert batch_counts.count(batch) == batch_counts.BatchCounts(
    tokens=10, places=12, segments=2, labels=1
  )


def test_a_row_has_room_for_inputs_and_targets_together():
  long_inputs = [make_segment([4] * 5, [1])]
  packer, added = pack([long_inputs, long_inputs], 1, (4, 7))
  assert added == [True, False]
  assert packer.make_batch()["decoder_positions"].shape == (1, 11)


def test_a_row_of_one_target_ends_with_what_decoding_is_given():
  packer, _ = pack([[make_segment([5, 6, 1], [1])]], 1, (4, 1))
  inputs = batch_layout.DECODER.select_inputs(packer.make_batch())
  assert {key: value[0].tolist() for key, value in inputs.items()} == {
    "decoder_input_tokens": [0, 5, 6, 1, 0],
    "decoder_segment_ids": [1, 1, 1, 1, 0],
    "decoder_positions": [0, 1, 2, 3, 0],
  }


_SEGMENTS = st.lists(
  st.tuples(
    st.lists(st.integers(3, 99), min_size=0, max_size=5),
    st.lists(st.integers(3, 99), min_size=1, max_size=4),
    st.sampled_from([1, 2]),
    st.sampled_from([0.5, 1.0, 2.0]),
  ),
  min_size=1,
  max_size=12,
)


@given(_SEGMENTS)
@settings(max_examples=60, deadline=None)
def test_packed_rows_hold_what_rows_of_one_segment_do(drawn):
  units = [[make_segment(*values)] for values in drawn]
  packed, added = pack(units, 12, (5, 4))
  single, _ = pack(units, 12, (5, 4), max_segments_per_row=1)
  assert all(added)

  def read(batch):
    segments = []
    for row in range(12):
      ids = batch["decoder_segment_ids"][row]
      for segment in range(1, ids.max() + 1):
        is_of = ids == segment
        segments.append(
          tuple(
            tuple(batch[key][row][is_of].tolist())
            for key in batch_layout.DECODER.keys
            if key != "decoder_segment_ids"
          )
        )
    return sorted(segments)

  assert read(packed.make_batch()) == read(single.make_batch())


@pytest.mark.parametrize(
  "layout", [batch_layout.DECODER, batch_layout.ENCODER_DECODER]
)
def test_an_example_has_all_keys(layout):
  example = layout.make_example()
  assert tuple(example) == layout.keys
  assert set(layout.input_keys) <= set(layout.keys)
  assert all((value == 1).all() for value in example.values())
