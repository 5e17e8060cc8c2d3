"""The batch contract."""

import numpy as np
import pytest

from distill_jax.data.feed import batch as batch_lib


def test_an_empty_batch_is_valid_and_all_padding():
  batch = batch_lib.make_empty_batch(2, 5, 3)
  batch_lib.validate(batch)
  assert batch["encoder_input_tokens"].shape == (2, 5)
  assert batch["decoder_task_ids"].shape == (2, 3)
  assert batch["decoder_loss_weights"].dtype == np.float32
  assert not any(value.any() for value in batch.values())


@pytest.mark.parametrize(
  "rows,expected",
  [
    (slice(1, None), [1, 2]),
    (np.array([2, 0]), [2, 0]),
    (np.array([], np.int64), []),
    (slice(None), [0, 1, 2]),
  ],
)
def test_rows_are_taken_with_the_ids_of_their_examples(rows, expected):
  batch = batch_lib.make_empty_batch(3, 5, 2)
  batch["encoder_positions"][:] = np.arange(3)[:, None]
  ids = [["a"], ["b", "c"], []]
  for has_ids in (False, True):
    given = batch | {batch_lib.EXAMPLE_IDS: ids} if has_ids else batch
    arrays, found_ids = batch_lib.split_example_ids(
      batch_lib.take_rows(given, rows)
    )
    batch_lib.validate(arrays)
    assert arrays["encoder_positions"][:, 4].tolist() == expected
    assert found_ids == ([ids[row] for row in expected] if has_ids else None)


@pytest.mark.parametrize(
  ("change", "message"),
  [
    (lambda b: b.pop("decoder_task_ids"), "missing"),
    (lambda b: b.update(extra=np.zeros(1)), "unknown"),
    (
      lambda b: b.update(decoder_positions=np.zeros((2, 3), np.int64)),
      "int64",
    ),
    (
      lambda b: b.update(encoder_positions=np.zeros((2, 4), np.int32)),
      "encoder_positions is",
    ),
  ],
)
def test_a_batch_that_breaks_the_contract_is_named(change, message):
  batch = batch_lib.make_empty_batch(2, 5, 3)
  change(batch)
  with pytest.raises(ValueError, match=message):
    batch_lib.validate(batch)
