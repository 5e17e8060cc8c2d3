"""Tests of training/seeded_program.py: one program, whatever the seed."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tiny_student
from jax.sharding import SingleDeviceSharding

from distill_jax.model.t5.t5 import T5
from distill_jax.objective.objective import make_step_by_step
from distill_jax.partitioning import mesh as mesh_lib
from distill_jax.partitioning import sharding
from distill_jax.training import seeded_program
from distill_jax.training import state as state_lib
from distill_jax.training import step as step_lib


def make_program(seed, traced):
  @jax.jit
  def draw(key_data, x):
    traced.append(seed)
    return x + jax.random.normal(seeded_program.read_key(key_data), x.shape)

  return [
    seeded_program.SeededProgram(
      draw, each, SingleDeviceSharding(jax.devices()[0])
    )
    for each in (seed, seed + 1)
  ]


def test_it_draws_as_the_seed_itself_does_and_traces_once():
  traced = []
  x = jnp.arange(6.0)
  for seed, program in enumerate(make_program(2**31 - 2, traced), 2**31 - 2):
    expected = x + jax.random.normal(jax.random.key(seed), x.shape)
    np.testing.assert_array_equal(program(x), expected)
    np.testing.assert_array_equal(
      program.lower(x).compile()(program._key_data, x), expected
    )
  assert len(traced) == 1


@pytest.mark.parametrize("kind", ["init", "step"])
def test_runs_of_other_seeds_share_a_program_that_others_do_not(kind):
  optimizer = optax.sgd(0.1)
  mesh = mesh_lib.make_mesh({}, jax.devices()[:1])

  def make(seed, objective=tiny_student.OBJECTIVE):
    # All anew, as each run makes them.
    model = T5(tiny_student.CONFIG, sharding.make_constrain_fn(mesh))
    _, shardings = state_lib.shard_state(model, optimizer, mesh)
    if kind == "init":
      return state_lib.jit_init(model, optimizer, shardings, seed).jitted
    return step_lib.compile_train_step(
      mesh,
      shardings,
      seed=seed,
      model=model,
      optimizer=optimizer,
      objective=objective,
      num_microbatches=1,
    ).jitted

  assert make(0) is make(1)
  if kind == "step":
    assert make(0) is not make(0, make_step_by_step(0.25))


def test_a_tree_is_the_key_of_a_cache():
  tree = {"a": (1, 2), "b": None}
  hashed = seeded_program.HashedTree.of(tree)
  assert hashed.tree == tree
  same = seeded_program.HashedTree.of({"a": (1, 2), "b": None})
  assert (hash(hashed), hashed) == (hash(same), same)
  assert hashed != seeded_program.HashedTree.of({"a": (1, 3), "b": None})
