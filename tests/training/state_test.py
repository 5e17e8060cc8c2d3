"""Initialization: shapes, axes, seeds, and the same numbers on any mesh."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_student

from distill_jax.model.t5.config import T5Config
from distill_jax.model.t5.t5 import T5
from distill_jax.optim import factory, schedules
from distill_jax.partitioning import mesh as mesh_lib
from distill_jax.training import state as state_lib

MODEL = T5(tiny_student.CONFIG)
OPTIMIZER = factory.adamw(schedules.constant(1e-3))


def init_state(mesh, seed):
  abstract, shardings = state_lib.shard_state(MODEL, OPTIMIZER, mesh)
  state = state_lib.init_state(MODEL, OPTIMIZER, shardings, seed)
  return state, abstract, shardings


@pytest.fixture(scope="module")
def sharded():
  return init_state(mesh_lib.make_mesh({"data": 2, "fsdp": 2, "model": 2}), 7)


def test_shapes_and_axes_without_allocating():
  shapes, logical_axes = state_lib.abstract_params(MODEL)
  assert all(
    isinstance(leaf, jax.ShapeDtypeStruct) and leaf.dtype == jnp.float32
    for leaf in jax.tree.leaves(shapes)
  )
  wo = shapes["encoder"]["layers_0"]["mlp"]["wo"]["kernel"]
  assert wo.shape == (24, 16)
  axes = logical_axes["encoder"]["layers_0"]["mlp"]["wo"]["kernel"]
  assert axes == ("mlp", "embed")
  # Embedding, logits; attention; gated MLPs; relative biases; norm scales.
  expected = 2 * 48 * 16 + 3 * 4 * 16 * 16 + 2 * 3 * 16 * 24
  expected += 2 * 2 * 32 + 7 * 16
  assert state_lib.count_params(shapes) == expected


def test_a_state_lies_where_its_shardings_say(sharded):
  state, abstract, shardings = sharded
  assert jax.tree.structure(state) == jax.tree.structure(abstract)

  def check(leaf, shape, sharding):
    assert (leaf.shape, leaf.dtype) == (shape.shape, shape.dtype)
    assert leaf.sharding == sharding

  jax.tree.map(check, state, abstract, shardings)
  assert state.step == 0
  assert state.step.dtype == jnp.int32


def test_the_seed_decides_the_parameters_whatever_the_mesh(sharded):
  one_device = mesh_lib.make_mesh({}, jax.devices()[:1])
  state, _, _ = init_state(one_device, 7)
  jax.tree.map(np.testing.assert_array_equal, state, sharded[0])

  @jax.jit
  def init_embedding(seed):
    params = state_lib.init_params(MODEL, jax.random.key(seed))
    return nn.unbox(params)["token_embedder"]["embedding"]

  embedding = state.params["token_embedder"]["embedding"]
  np.testing.assert_array_equal(embedding, init_embedding(7))
  assert not np.any(embedding == init_embedding(8))


def test_a_parameter_without_axes_is_named():
  class Plain(nn.Module):
    config: T5Config = tiny_student.CONFIG

    @nn.compact
    def __call__(self, batch, enable_dropout):
      del batch, enable_dropout
      return nn.Dense(3, name="dense")(jnp.ones((1, 2)))

  with pytest.raises(
    ValueError, match=r"dense/bias \(3,\): a parameter without"
  ):
    state_lib.abstract_params(Plain())
