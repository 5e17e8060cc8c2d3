"""Three train steps against those that T5X made from the same checkpoint."""

import functools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tensorstore
from flax import traverse_util

from distill_jax.data import batch as batch_lib
from distill_jax.distill import Objective
from distill_jax.model.config import T5Config
from distill_jax.model.t5 import T5
from distill_jax.optim import factory, schedules
from distill_jax.training.state import TrainState
from distill_jax.training.step import train_step

FIXTURES = pathlib.Path(__file__).parents[2].parent / "shared/fixtures/t5x_tiny"
pytestmark = [
  pytest.mark.shared,
  pytest.mark.skipif(
    not FIXTURES.exists(), reason="no T5X fixtures beside this checkout"
  ),
]
CONFIG = T5Config(
  vocab_size=384,
  embed_dim=64,
  num_heads=4,
  head_dim=16,
  mlp_dim=128,
  num_encoder_layers=2,
  num_decoder_layers=2,
  dropout_rate=0.0,
)


def _load(name):
  with np.load(FIXTURES / name) as file:
    return dict(file)


def _restore_params():
  params = {}
  for path in (FIXTURES / "legacy/checkpoint_1000").glob("target.*"):
    spec = {"driver": "zarr", "kvstore": {"driver": "file", "path": str(path)}}
    array = tensorstore.open(spec).result().read().result()
    params[tuple(path.name.split(".")[1:])] = array
  return traverse_util.unflatten_dict(params)


def _make_batch():
  """T5X's batch, with the keys that only ours has; every target is a label."""
  arrays = _load("forward.npz")
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
  """T5X sums the loss and we average it, which Adafactor does not notice.

  Its statistics do: they are squares of gradients.
  """
  expected = _load(f"{name}.npz")
  optimizer = factory.adafactor(
    schedules.constant(1e-3), min_dim_size_to_factor=factor_from
  )
  step_fn = jax.jit(
    functools.partial(
      train_step,
      model=T5(CONFIG),
      optimizer=optimizer,
      objective=Objective(z_loss=1e-4),
      num_microbatches=1,
      seed=0,
    )
  )
  batch, loss_before = _make_batch()
  params = _restore_params()
  state = TrainState(jnp.int32(0), params, jax.jit(optimizer.init)(params))
  losses = []
  for _ in range(4):
    after_three, (state, metrics) = state, step_fn(state, batch)
    losses.append(metrics["loss"] * metrics["label_tokens"])

  np.testing.assert_allclose(
    losses, [loss_before, *expected["loss_after"]], rtol=1e-6
  )
  found = {"param": after_three.params}
  (statistics,) = [
    part for part in after_three.opt_state if hasattr(part, "v_row")
  ]
  num_tokens = float(metrics["label_tokens"])
  for slot in ("v", "v_row", "v_col"):
    found[slot] = jax.tree.map(
      lambda leaf: leaf * num_tokens**2, getattr(statistics, slot)
    )
  found = traverse_util.flatten_dict(found, sep="/")
  num_compared = 0
  for key, value in found.items():
    if value.shape == (1,):  # unused by this parameter
      continue
    np.testing.assert_allclose(
      value,
      expected[key],
      rtol=1e-5,
      atol=1e-5 * np.abs(expected[key]).max(),
      err_msg=key,
    )
    num_compared += 1
  # 52 parameters; of factored ones, 38 matrices, two statistics each.
  assert num_compared == {128: 52 + 52, 32: 52 + 14 + 2 * 38}[factor_from]
