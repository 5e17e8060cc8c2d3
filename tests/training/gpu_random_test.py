"""Which programs draw by the GPU's kernel, seen in programs made for CUDA."""

import dataclasses

import jax
import pytest
import tiny_student

from distill_jax.model.t5.t5 import T5
from distill_jax.partitioning import mesh as mesh_lib
from distill_jax.partitioning import sharding
from distill_jax.training import gpu_random
from distill_jax.training import state as state_lib
from distill_jax.training import step as step_lib

_OPTION = "jax_threefry_gpu_kernel_lowering"
_KERNEL = "@cu_threefry2x32_ffi"
_OPTIMIZER = tiny_student.OPTIMIZERS["adafactor"]


@pytest.fixture(name="option", params=[False, True], autouse=True)
def fixture_option(request, monkeypatch):
  """Starts from either value, and puts back what was there."""
  monkeypatch.delenv(_OPTION.upper(), raising=False)
  before = jax.config.jax_threefry_gpu_kernel_lowering
  jax.config.update(_OPTION, request.param)
  yield request.param
  jax.config.update(_OPTION, before)


@pytest.fixture(
  name="mesh", params=[{}, {"fsdp": 2, "model": 2}], ids=["one", "mesh"]
)
def fixture_mesh(request):
  return mesh_lib.make_mesh(
    request.param, jax.devices()[: 4 if request.param else 1]
  )


def test_a_train_step_of_one_gpu_draws_by_the_kernel(mesh):
  config = dataclasses.replace(tiny_student.CONFIG, dropout_rate=0.1)
  model = T5(config, sharding.make_constrain_fn(mesh))
  state, shardings = state_lib.shard_state(model, _OPTIMIZER, mesh)
  step_fn = step_lib.compile_train_step(
    mesh,
    shardings,
    model=model,
    optimizer=_OPTIMIZER,
    objective=tiny_student.OBJECTIVE,
    num_microbatches=1,
    seed=0,
  )
  traced = step_fn.trace(state, tiny_student.make_batch())
  text = traced.lower(lowering_platforms=("cuda",)).as_text()
  assert (_KERNEL in text) == (mesh.size == 1)


def test_parameters_of_one_gpu_are_drawn_by_the_kernel(mesh, monkeypatch):
  """The option is read where the drawing is traced and lowered."""
  init_params = state_lib.init_params
  seen = []

  def init_and_look(*arguments):
    seen.append(jax.config.jax_threefry_gpu_kernel_lowering)
    return init_params(*arguments)

  model = T5(tiny_student.CONFIG)
  _, shardings = state_lib.shard_state(model, _OPTIMIZER, mesh)
  monkeypatch.setattr(state_lib, "init_params", init_and_look)
  state_lib._jit_seeded_init.cache_clear()
  state_lib.init_state(model, _OPTIMIZER, shardings, 0)
  assert seen == [mesh.size == 1]


def test_the_environment_decides_instead(mesh, monkeypatch, option):
  monkeypatch.setenv("JAX_THREEFRY_GPU_KERNEL_LOWERING", str(int(option)))
  gpu_random.choose_lowering(mesh)
  assert jax.config.jax_threefry_gpu_kernel_lowering == option
