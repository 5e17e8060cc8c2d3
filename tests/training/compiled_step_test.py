"""What the compiled step holds and moves: types, donation, transfers.

On the host's CPU a copy from the device is free and no guard sees it, so that
the program itself is searched for what would talk to the host.
"""

import dataclasses
import functools
import re

import jax
import jax.numpy as jnp
import optax
import pytest
import tiny_student

from distill_jax.model.t5.t5 import T5
from distill_jax.optim import factory, schedules
from distill_jax.partitioning import sharding
from distill_jax.training import state as state_lib
from distill_jax.training import step as step_lib

MESH = {"data": 2, "fsdp": 2, "model": 2}
BFLOAT16 = dataclasses.replace(tiny_student.CONFIG, dtype="bfloat16")
OPTIMIZERS = {
  "adafactor": tiny_student.OPTIMIZERS["adafactor"],
  "adamw": tiny_student.OPTIMIZERS["adamw"],
  "adamw_bfloat16": factory.adamw(
    schedules.constant(1e-2), mu_dtype="bfloat16"
  ),
}
# What a program calls to reach the host in the middle of a step.
_HOST = re.compile(r"infeed|outfeed|\bsend\b|\brecv\b|callback")


def make_step(optimizer, num_microbatches=1):
  """Returns the step as the compiler sees it: of abstract state and batch."""
  model = T5(BFLOAT16)
  params, _ = state_lib.abstract_params(model)
  state = state_lib.TrainState(
    jax.ShapeDtypeStruct((), jnp.int32),
    params,
    jax.eval_shape(optimizer.init, params),
  )
  step_fn = functools.partial(
    step_lib.train_step,
    model=model,
    optimizer=optimizer,
    objective=tiny_student.OBJECTIVE,
    num_microbatches=num_microbatches,
    seed=0,
  )
  return step_fn, state, tiny_student.make_batch()


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_types_of_the_whole_state(name):
  """Activations are bfloat16; of the state what was asked for, if anything."""
  step_fn, before, batch = make_step(OPTIMIZERS[name])
  after, metrics = jax.eval_shape(step_fn, before, batch)
  for state in (before, after):
    for path, leaf in jax.tree_util.tree_leaves_with_path(state):
      where = jax.tree_util.keystr(path, simple=True, separator="/")
      is_count = where == "step" or where.endswith("count")
      is_half = name == "adamw_bfloat16" and "/mu/" in where
      expected = "int32" if is_count else "bfloat16" if is_half else "float32"
      assert leaf.dtype == expected, where
  assert {leaf.dtype.name for leaf in metrics.values()} == {"float32"}


@pytest.mark.parametrize("num_microbatches", [1, 2])
def test_gradients_are_summed_in_float32(num_microbatches):
  seen = set()

  def update(gradients, state, params=None):
    del params
    seen.update(leaf.dtype.name for leaf in jax.tree.leaves(gradients))
    return gradients, state

  optimizer = optax.GradientTransformation(lambda params: (), update)
  step_fn, state, batch = make_step(optimizer, num_microbatches)
  program = jax.make_jaxpr(step_fn)(state, batch)
  assert seen == {"float32"}
  assert "bf16" in str(program)
  sums = [
    eqn.params
    for eqn in program.jaxpr.eqns
    if eqn.primitive.name == "scan" and eqn.params["length"] == 2
  ]
  assert len(sums) == num_microbatches - 1
  for scan in sums:
    carried = scan["jaxpr"].out_avals  # nothing else comes out
    assert len(carried) > len(jax.tree.leaves(state.params))
    assert {value.dtype.name for value in carried} == {"float32"}


@pytest.fixture(name="run", params=[None, MESH], ids=["one", "mesh"])
def fixture_run(request):
  return tiny_student.start("adafactor", request.param)


def test_the_state_is_written_over(run):
  """Two copies of parameters and statistics would not fit where one does."""
  (batch,) = tiny_student.make_batches(1)
  run.take_steps([batch])
  old = jax.tree.leaves(run.state)
  # Adafactor's places for what it does not use are handed through.
  used = [leaf for leaf in old if leaf.shape != (1,)]
  num_bytes = sum(leaf.addressable_shards[0].data.nbytes for leaf in used)
  lowered = run.step_fn.lower(run.state, sharding.to_global(batch, run.mesh))
  run.take_steps([batch])
  assert [leaf.is_deleted() for leaf in used] == [True] * len(used)
  memory = lowered.compile().memory_analysis()
  assert memory.alias_size_in_bytes == num_bytes


def test_a_step_stays_on_the_devices(run):
  (batch,) = tiny_student.make_batches(1)
  placed = sharding.to_global(batch, run.mesh)
  with jax.transfer_guard("disallow"):
    state, _ = run.step_fn(run.state, placed)
    # The guard is awake: numpy arrays would be sent without being asked for.
    with pytest.raises(Exception, match="Disallowed host-to-device transfer"):
      run.step_fn(state, batch)


def test_the_program_does_not_call_the_host(run):
  batch = sharding.to_global(tiny_student.make_batch(), run.mesh)
  assert not _HOST.findall(run.step_fn.lower(run.state, batch).as_text())

  def chatty_step(state, batch):
    jax.debug.print("{}", state.step)
    return run.step_fn(state, batch)

  assert _HOST.findall(jax.jit(chatty_step).lower(run.state, batch).as_text())
