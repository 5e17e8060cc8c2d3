"""Tests of aot.compilation."""

import types

import jax
import jax.numpy as jnp
import pytest
from tpu_compiler import needs_libtpu

from distill_jax.aot import compilation, topology
from distill_jax.errors import UserError

_GIB = 2**30


def _lower(num_elements):
  x = jax.ShapeDtypeStruct((num_elements,), jnp.float32)
  return jax.jit(lambda x: jnp.sort(x)[::-1]).lower(x)


@pytest.mark.parametrize("effort", [None, -1.0, 0.0, 1.0])
def test_the_compiler_takes_the_effort(effort):
  options = compilation.make_effort_options(effort)
  assert bool(options) == (effort is not None)
  assert compilation.compile_program(_lower(8), options, "cpu").compiled


@pytest.mark.parametrize(
  "version, name, values",
  [
    ((0, 11, 0), "exec_time_optimization_effort", [-1.0, 0.0, 0.4, 1.0]),
    ((0, 11, 1), "optimization_level", ["O0", "O2", "O2", "O3"]),
  ],
)
def test_the_effort_has_the_name_that_jax_knows(
  monkeypatch, version, name, values
):
  monkeypatch.setattr(jax, "__version_info__", version)
  for effort, value in zip((-1, 0, 0.4, 1), values, strict=True):
    assert compilation.make_effort_options(effort) == {name: value}


def test_what_a_program_takes():
  size = 4 * 2**20
  done = compilation.compile_program(_lower(2**20), {}, "cpu")
  assert done.compiled is not None
  # Argument and result at least, and no more than a few times that.
  assert 2 * size <= done.peak_bytes <= 8 * size
  assert 0 < done.cpu_seconds
  assert 0 < done.seconds
  # This process holds JAX already.
  assert 2**26 < done.host_peak_bytes < 2**40


def _fail_with(message):
  def compile(compiler_options):
    assert compiler_options == {"effort": -1.0}
    raise jax.errors.JaxRuntimeError(message)

  return types.SimpleNamespace(compile=compile)


@pytest.mark.parametrize(
  "message, peak_gib",
  [
    (
      "RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required"
      " for HLO temporaries (10.30G) exceeds available HBM (64.00M).",
      10.3,
    ),
    (
      "RESOURCE_EXHAUSTED: Ran out of memory in memory space hbm. Used 27.30G"
      " of 15.75G hbm. Exceeded hbm capacity by 11.55G.",
      27.3,
    ),
    (
      "RESOURCE_EXHAUSTED: HLO temporaries (2.5T) exceeds available HBM (31G)",
      2560,
    ),
    (
      "RESOURCE_EXHAUSTED: HLO temporaries (512) exceeds available HBM (64)",
      512 / 2**30,
    ),
  ],
)
def test_too_large_is_an_answer(message, peak_gib):
  done = compilation.compile_program(
    _fail_with(message), {"effort": -1.0}, "tpu"
  )
  assert done.compiled is None
  assert done.peak_bytes == pytest.approx(peak_gib * _GIB, abs=1)


@pytest.mark.parametrize(
  "message",
  [
    "INTERNAL: Used 2G of 1G hbm",
    "RESOURCE_EXHAUSTED: the scoped memory of a kernel is used up",
  ],
)
def test_other_errors_stay_errors(message):
  with pytest.raises(jax.errors.JaxRuntimeError):
    compilation.compile_program(_fail_with(message), {"effort": -1.0}, "tpu")


def test_a_cpu_has_no_limit():
  assert compilation.find_memory_limit(jax.devices()[0]) is None


def test_a_gpu_says_its_limit():
  gpu = types.SimpleNamespace(
    platform="gpu", memory_stats=lambda: {"bytes_limit": 7}
  )
  assert compilation.find_memory_limit(gpu, 80) == 7


def _fail_to_measure():
  raise jax.errors.JaxRuntimeError("UNIMPLEMENTED: not here")


_ABSENT_GPU = types.SimpleNamespace(
  platform="gpu", memory_stats=_fail_to_measure
)
_SHARES = ("XLA_CLIENT_MEM_FRACTION", "XLA_PYTHON_CLIENT_MEM_FRACTION")


@pytest.mark.parametrize("share", _SHARES)
def test_a_gpu_that_is_not_here_has_the_pool_that_jax_takes(monkeypatch, share):
  for variable in _SHARES:
    monkeypatch.delenv(variable, raising=False)
  assert compilation.find_memory_limit(_ABSENT_GPU) is None
  assert compilation.find_memory_limit(_ABSENT_GPU, 80 * _GIB) == 60 * _GIB
  monkeypatch.setenv(share, ".9")
  assert compilation.find_memory_limit(_ABSENT_GPU, 80 * _GIB) == 72 * _GIB
  for wrong in ("much", "0", "1.5", "nan"):
    monkeypatch.setenv(share, wrong)
    with pytest.raises(UserError, match=f"{share} is '{wrong}'"):
      compilation.find_memory_limit(_ABSENT_GPU, 80 * _GIB)


@pytest.mark.aot
@needs_libtpu
def test_the_limit_and_the_plan_of_a_tpu():
  parsed = topology.parse("v5e-4")
  topology.prepare_environment(parsed)
  device = topology.make_devices(parsed)[0]
  limit = compilation.find_memory_limit(device)
  assert limit is not None and 15 * _GIB < limit < 16 * _GIB
  x = jax.ShapeDtypeStruct(
    (2**28,),
    jnp.float32,
    sharding=jax.sharding.SingleDeviceSharding(device),
  )
  lowered = jax.jit(lambda x: x + 1).trace(x).lower(lowering_platforms=("tpu",))
  # An argument and a result of a GiB each.
  assert compilation.plan_memory(lowered, {}) == pytest.approx(
    2 * _GIB, rel=0.01
  )
  done = compilation.compile_program(lowered, {}, "tpu")
  assert done.peak_bytes == pytest.approx(2 * _GIB, rel=0.01)
