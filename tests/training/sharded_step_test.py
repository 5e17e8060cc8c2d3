"""Train steps and gradients on eight devices against those on one."""

import dataclasses
import functools

import jax
import numpy as np
import pytest
import tiny_student

from distill_jax.model.t5.t5 import T5
from distill_jax.objective import objective as objective_lib
from distill_jax.partitioning import mesh as mesh_lib
from distill_jax.partitioning import sharding
from distill_jax.training import accumulate
from distill_jax.training import state as state_lib
from distill_jax.training import step as step_lib

# Heads for eight devices.
CONFIG = dataclasses.replace(tiny_student.CONFIG, num_heads=8, head_dim=2)
MESHES = [
  {"data": 8},
  {"fsdp": 8},
  {"model": 8},
  {"data": 4, "fsdp": 2},
  {"data": 2, "model": 4},
  {"fsdp": 4, "model": 2},
  {"data": 2, "fsdp": 2, "model": 2},
]


@pytest.mark.parametrize(
  "optimizer,mesh_sizes",
  [
    ("adamw", {"data": 2, "fsdp": 2, "model": 2}),
    ("adafactor", {"data": 2, "fsdp": 2, "model": 2}),
    ("adamw", {"data": 8}),
    ("adafactor", {"fsdp": 8}),
    ("adafactor", {"model": 2, "data": 4}),
  ],
)
def test_every_mesh_computes_what_one_device_does(optimizer, mesh_sizes):
  batches = tiny_student.make_batches(5)
  one = tiny_student.start(optimizer)
  many = tiny_student.start(optimizer, mesh_sizes)
  assert_trees_close(many.take_steps(batches), one.take_steps(batches))
  assert_trees_close(many.state.params, one.state.params)

  def check_sharding(leaf, sharding):
    assert leaf.sharding == sharding

  jax.tree.map(check_sharding, many.state, many.shardings)


def assert_trees_close(found, expected):
  """Within 1e-5 of the largest number of each leaf."""
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(
      a, b, rtol=1e-5, atol=1e-5 * np.abs(b).max()
    ),
    found,
    expected,
  )


def compute_gradients(
  mesh_sizes=None, num_microbatches=1, loss_chunk_tokens=None, **changes
):
  """Returns the terms of the loss and all gradients, not yet an update.

  Args:
    mesh_sizes: as `mesh.make_mesh` takes them; None: one device.
    num_microbatches: as for the train step.
    loss_chunk_tokens: as above.
    **changes: of `CONFIG`.
  """
  config = dataclasses.replace(CONFIG, **changes)
  devices = jax.devices() if mesh_sizes else jax.devices()[:1]
  mesh = mesh_lib.make_mesh(mesh_sizes or {}, devices)
  model = T5(config, sharding.make_constrain_fn(mesh))
  shapes, logical_axes = state_lib.abstract_params(model)
  shardings = sharding.shard_params(logical_axes, shapes, mesh)

  @functools.partial(jax.jit, out_shardings=(shardings, None))
  def differentiate(params, batch):
    loss_fn = functools.partial(
      step_lib.compute_loss,
      model=model,
      token_counts=objective_lib.count_tokens(batch, tiny_student.OBJECTIVE),
      objective=tiny_student.OBJECTIVE,
      term_weights=tiny_student.OBJECTIVE.find_weights(0),
      loss_chunk_tokens=loss_chunk_tokens,
    )
    rng = jax.random.key(0)
    return accumulate.sum_gradients(
      loss_fn, params, batch, rng, num_microbatches
    )

  params = jax.device_put(tiny_student.make_params(config), shardings)
  batch = sharding.to_global(tiny_student.make_batch(), mesh)
  return jax.device_get(differentiate(params, batch))


@pytest.fixture(name="on_one_device", scope="module")
def fixture_on_one_device():
  gradients, metrics = compute_gradients()
  # Close to nothing would be close to anything.
  assert min(np.abs(leaf).max() for leaf in jax.tree.leaves(gradients)) > 1e-3
  return gradients, metrics


@pytest.mark.parametrize("mesh_sizes", MESHES)
def test_every_mesh_has_the_gradients_of_one_device(mesh_sizes, on_one_device):
  assert_trees_close(compute_gradients(mesh_sizes), on_one_device)


@pytest.mark.parametrize(
  "choices",
  [
    {"remat_policy": "full"},
    {"remat_policy": "minimal", "num_microbatches": 2},
    {"loss_chunk_tokens": 12},
  ],
)
def test_saving_memory_on_a_mesh_changes_no_gradient(choices, on_one_device):
  mesh_sizes = {"data": 2, "fsdp": 2, "model": 2}
  assert_trees_close(compute_gradients(mesh_sizes, **choices), on_one_device)
