"""A student small enough to compile in seconds on any mesh, and its batches."""

import dataclasses
import functools
from collections.abc import Callable

import jax
import numpy as np

from distill_jax.data.feed import batch as batch_lib
from distill_jax.data.feed import packing
from distill_jax.model.t5.config import T5Config
from distill_jax.model.t5.t5 import T5
from distill_jax.objective import objective as objective_lib
from distill_jax.optim import factory, schedules
from distill_jax.partitioning import mesh as mesh_lib
from distill_jax.partitioning import sharding
from distill_jax.training import state as state_lib
from distill_jax.training import step as step_lib

# Sides of 16 divide by eight devices and are factored by `OPTIMIZERS` below.
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
OBJECTIVE = objective_lib.make_step_by_step(
  rationale_loss_weight=0.5, z_loss=1e-3
)
OPTIMIZERS = {
  "adamw": factory.adamw(
    schedules.constant(1e-2), eps=1e-5, weight_decay=0.1, max_grad_norm=None
  ),
  "adafactor": factory.adafactor(
    schedules.constant(1e-2), min_dim_size_to_factor=16
  ),
}
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
  return packer.make_batch()


def make_batches(count):
  """Returns so many batches that differ."""
  return [make_batch(seed) for seed in range(count)]


def make_segment(rng, task_id, max_targets):
  """Draws one example of 2 to 6 input tokens, all ids below 48."""
  return packing.Segment(
    rng.integers(2, 48, rng.integers(2, 7)).astype(np.int32),
    rng.integers(2, 48, rng.integers(1, max_targets + 1)).astype(np.int32),
    task_id,
  )


@dataclasses.dataclass
class Run:
  """A few steps of training, on `make_params`."""

  mesh: jax.sharding.Mesh
  shardings: state_lib.TrainState
  state: state_lib.TrainState
  step_fn: Callable

  def take_steps(self, batches):
    """Makes a step a batch; returns numpy copies of each one's metrics."""
    history = []
    for batch in batches:
      batch = sharding.to_global(batch, self.mesh)
      self.state, metrics = self.step_fn(self.state, batch)
      history.append(jax.device_get(metrics))
    return history


def start(optimizer, mesh_sizes=None, config=CONFIG, num_microbatches=1):
  """Starts a run; compiles a step once for all runs with the same arguments.

  Args:
    optimizer: a name in `OPTIMIZERS`.
    mesh_sizes: as `mesh.make_mesh` takes them; None: one device.
    config: of the model.
    num_microbatches: of the train step.
  """
  if mesh_sizes is not None:
    mesh_sizes = tuple(mesh_sizes.items())
  mesh, shardings, step_fn = _compile(
    optimizer, mesh_sizes, config, num_microbatches
  )
  params = jax.device_put(make_params(config), shardings.params)
  opt_state = jax.jit(
    OPTIMIZERS[optimizer].init, out_shardings=shardings.opt_state
  )(params)
  step = jax.device_put(np.int32(0), shardings.step)
  state = state_lib.TrainState(step, params, opt_state)
  return Run(mesh, shardings, state, step_fn)


@functools.cache
def _compile(optimizer, mesh_sizes, config, num_microbatches):
  if mesh_sizes is None:
    mesh = mesh_lib.make_mesh({}, jax.devices()[:1])
  else:
    mesh = mesh_lib.make_mesh(dict(mesh_sizes))
  model = T5(config, sharding.make_constrain_fn(mesh))
  _, shardings = state_lib.shard_state(model, OPTIMIZERS[optimizer], mesh)
  step_fn = step_lib.compile_train_step(
    mesh,
    shardings,
    model=model,
    optimizer=OPTIMIZERS[optimizer],
    objective=OBJECTIVE,
    num_microbatches=num_microbatches,
    seed=0,
  )
  return mesh, shardings, step_fn
