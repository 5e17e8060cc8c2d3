"""Three train steps against those that T5X made from the same checkpoint."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import t5x_fixtures
from flax import traverse_util

from distill_jax.data.feed import batch as batch_lib
from distill_jax.model.t5.t5 import T5
from distill_jax.objective.objective import make_step_by_step
from distill_jax.optim import factory, schedules
from distill_jax.training.state import TrainState
from distill_jax.training.step import train_step

pytestmark = t5x_fixtures.MARKS


def _make_batch():
  """T5X's batch, with the keys that only ours has; every target is a label."""
  arrays = t5x_fixtures.load_arrays("forward.npz")
  batch = {
    key: arrays[key]
    for key in (
      batch_lib.ENCODER_INPUT_TOKENS,
      batch_lib.DECODER_INPUT_TOKENS,
      batch_lib.DECODER_TARGET_TOKENS,
    )
  }
  is_input = batch[batch_lib.ENCODER_INPUT_TOKENS] > 0
  is_target = batch[batch_lib.DECODER_TARGET_TOKENS] > 0
  batch[batch_lib.ENCODER_SEGMENT_IDS] = is_input.astype(np.int32)
  batch[batch_lib.DECODER_SEGMENT_IDS] = is_target.astype(np.int32)
  batch[batch_lib.DECODER_TASK_IDS] = is_target.astype(np.int32)
  batch[batch_lib.DECODER_LOSS_WEIGHTS] = is_target.astype(np.float32)
  return batch, float(arrays["loss"])


@pytest.mark.parametrize(
  "name,factor_from", [("train3_default", 128), ("train3_factored32", 32)]
)
def test_three_steps(name, factor_from):
  """T5X sums the loss and we average it, which Adafactor does not notice."""
  config, params = t5x_fixtures.open_checkpoint()
  expected = t5x_fixtures.load_arrays(f"{name}.npz")
  optimizer = factory.adafactor(
    schedules.constant(1e-3), min_dim_size_to_factor=factor_from
  )
  step_fn = jax.jit(
    functools.partial(
      train_step,
      model=T5(config),
      optimizer=optimizer,
      objective=make_step_by_step(z_loss=1e-4),
      num_microbatches=1,
      seed=0,
    )
  )
  batch, loss_before = _make_batch()
  state = TrainState(jnp.int32(0), params, jax.jit(optimizer.init)(params))
  states, losses = [state], []
  for _ in range(4):
    state, metrics = step_fn(states[-1], batch)
    states.append(state)
    losses.append(metrics["loss"] * metrics["label_tokens"])

  np.testing.assert_allclose(
    losses, [loss_before, *expected["loss_after"]], rtol=1e-6
  )
  found = traverse_util.flatten_dict(states[3].params, sep="/")
  assert len(found) == 52
  num_noise = 0
  for key, value in found.items():
    is_noise = _find_noise(states[1], key)
    num_noise += np.sum(is_noise)
    wanted = expected[f"param/{key}"]
    np.testing.assert_allclose(
      np.where(is_noise, wanted, value),
      wanted,
      rtol=1e-5,
      atol=1e-5 * np.abs(wanted).max(),
      err_msg=key,
    )
  assert num_noise < 20  # of 246,784


def _find_noise(state, key):
  """Finds elements whose first step has a sign that rounding decides.

  Adafactor moves what it does not factor by the sign of the first gradient,
  of which `v` is the square; elsewhere `v` is one unused 0.

  Args:
    state: after the first step.
    key: path of a parameter.
  """
  (statistics,) = [part for part in state.opt_state if hasattr(part, "v_row")]
  squares = traverse_util.flatten_dict(statistics.v, sep="/")[key]
  has_gradient = squares > 1e-29
  return has_gradient & (squares < 1e-12 * np.max(squares))
