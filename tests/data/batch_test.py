"""The batch contract."""

import numpy as np
import pytest

from distill_jax.data import batch as batch_lib


def test_an_empty_batch_is_valid_and_all_padding():
  batch = batch_lib.make_empty_batch(2, 5, 3)
  batch_lib.validate(batch)
  assert batch["encoder_input_tokens"].shape == (2, 5)
  assert batch["decoder_task_ids"].shape == (2, 3)
  assert batch["decoder_loss_weights"].dtype == np.float32
  assert not any(value.any() for value in batch.values())


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
