"""A student small enough to compile in seconds on any mesh, and its batches."""

import dataclasses

import jax
import numpy as np

from distill_jax import distill
from distill_jax.data import batch as batch_lib
from distill_jax.data import packing
from distill_jax.model.config import T5Config
from distill_jax.model.t5 import T5
from distill_jax.partitioning import mesh as mesh_lib
from distill_jax.partitioning import sharding
from distill_jax.training import state as state_lib
from distill_jax.training import step as step_lib

# Two decoder paths and every kind of parameter; divides by 8 where fsdp asks.
CONFIG = T5Config(
  vocab_size=48,
  embed_dim=16,
  num_heads=2,
  head_dim=8,
  mlp_dim=24,
  num_encoder_layers=1,
  num_decoder_layers=1,
  dropout_rate=0.0,
)
PACKING = packing.PackingConfig(
  batch_rows=8, encoder_length=16, decoder_length=12
)


def make_params(config=CONFIG, seed=0):
  """Draws parameters in numpy: nothing to compile, no zeros, no ones."""
  rng = np.random.default_rng(seed)
  abstract, _ = state_lib.abstract_params(T5(config))
  return jax.tree.map(
    lambda leaf: rng.normal(0.2, 0.4, leaf.shape).astype(np.float32), abstract
  )


def make_batch(seed=0, config=PACKING):
  """Fills a batch with pairs; rows hold unequal numbers of tokens."""
  rng = np.random.default_rng(seed)
  packer = packing.BatchPacker(config)
  for _ in range(1000):
    unit = [
      make_segment(rng, batch_lib.LABEL_TASK_ID, 3),
      make_segment(rng, batch_lib.RATIONALE_TASK_ID, 8),
    ]
    if not packer.add(unit):
      break
  return packer.batch


def make_segment(rng, task_id, max_targets):
  """Draws one example of 2 to 6 input tokens, all ids below 48."""
  return packing.Segment(
    rng.integers(2, 48, rng.integers(2, 7)).astype(np.int32),
    rng.integers(2, 48, rng.integers(1, max_targets + 1)).astype(np.int32),
    task_id,
  )


@dataclasses.dataclass
class Run:
  """What a few steps need."""

  mesh: jax.sharding.Mesh
  model: T5
  shardings: state_lib.TrainState
  state: state_lib.TrainState
  step_fn: object

  def take_steps(self, batches):
    """Makes a step a batch; returns the metrics of each as numpy."""
    history = []
    for batch in batches:
      batch = sharding.to_global(batch, self.mesh)
      self.state, metrics = self.step_fn(self.state, batch)
      history.append(jax.device_get(metrics))
    return history


def start(
  optimizer,
  mesh_sizes=None,
  config=CONFIG,
  objective=distill.Objective(0.5, 1e-3),
  num_microbatches=1,
  seed=0,
):
  """Starts a run from `make_params`; without sizes, on one device."""
  if mesh_sizes is None:
    mesh = mesh_lib.make_mesh({}, jax.devices()[:1])
  else:
    mesh = mesh_lib.make_mesh(mesh_sizes)
  model = T5(config, sharding.make_constrain_fn(mesh))
  _, shardings = state_lib.shard_state(model, optimizer, mesh)
  params = jax.device_put(make_params(config), shardings.params)
  opt_state = jax.jit(optimizer.init, out_shardings=shardings.opt_state)(params)
  step = jax.device_put(np.int32(0), shardings.step)
  step_fn = step_lib.compile_train_step(
    mesh,
    shardings,
    model=model,
    optimizer=optimizer,
    objective=objective,
    num_microbatches=num_microbatches,
    seed=seed,
  )
  return Run(
    mesh,
    model,
    shardings,
    state_lib.TrainState(step, params, opt_state),
    step_fn,
  )
