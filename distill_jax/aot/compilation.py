"""Compiles a program ahead of time, and measures that.

A program too large for the memory of the devices is an answer here, not an
error.
"""

import dataclasses
import os
import re
import resource
import time
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import SingleDeviceSharding

from distill_jax.errors import UserError

# Below a KiB an amount has no unit.
_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
_AMOUNT = r"([\d.]+)([KMGT]?)"
# Before code is made ("the total memory required for HLO temporaries (10.3G)
# exceeds available HBM (8G)") and after ("Used 27.3G of 15.75G hbm").
_EXCEEDED = re.compile(
  rf"\({_AMOUNT}\) exceeds available \w+ \({_AMOUNT}\)"
  rf"|Used {_AMOUNT} of {_AMOUNT}"
)
# What ends a compilation for a TPU as soon as memory is planned.
_PLAN_ONLY = {"xla_tpu_max_hbm_size_mib": 64}
# JAX's own default, of a GPU's memory.
_POOL_SHARE = 0.75
# More than any device has.
_TOO_MANY_ELEMENTS = 2**46


@dataclasses.dataclass(frozen=True)
class Compilation:
  """What compiling a program told.

  Attributes:
    compiled: the program; None where it does not fit.
    peak_bytes: memory of a device that it takes at once, arguments included;
      where it does not fit, what the compiler says it would take.
    seconds: the compiler's time, without tracing.
    cpu_seconds: as above, of all cores.
    host_peak_bytes: memory of this process at its highest so far.
  """

  compiled: Any | None
  peak_bytes: int
  seconds: float
  cpu_seconds: float
  host_peak_bytes: int


def make_effort_options(effort: float | None) -> dict[str, Any]:
  """Returns the compiler options for how thoroughly to optimize.

  Args:
    effort: from -1 (soonest compiled) to 1; None: the compiler's default. JAX
      from 0.11.1 on has levels instead, of which the nearest is taken: O0 for
      -1, O3 for 1.
  """
  if effort is None:
    return {}
  if jax.__version_info__ < (0, 11, 1):
    return {"exec_time_optimization_effort": float(effort)}
  return {"optimization_level": f"O{round((effort + 1) * 1.5)}"}


def compile_program(
  lowered: Any, compiler_options: Mapping[str, Any], platform: str
) -> Compilation:
  """Compiles.

  Args:
    lowered: a `jax.stages.Lowered`.
    compiler_options: of XLA.
    platform: "tpu", "gpu" or "cpu", as `jax.Device.platform` has it.
  """
  start, cpu_start = time.perf_counter(), time.process_time()
  compiled = None
  try:
    compiled = lowered.compile(compiler_options=dict(compiler_options))
    peak_bytes = _find_peak(compiled.memory_analysis(), platform)
  except jax.errors.JaxRuntimeError as error:
    found = _read_exceeded(error)
    if found is None:
      raise
    peak_bytes, _ = found
  return Compilation(
    compiled,
    peak_bytes,
    time.perf_counter() - start,
    time.process_time() - cpu_start,
    resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
  )


def plan_memory(lowered: Any, compiler_options: Mapping[str, Any]) -> int:
  """Returns about what `compile_program` would find as `peak_bytes`, sooner.

  TPUs only. The compiler stops when its plan exceeds a limit that every program
  exceeds, before it makes code, which is most of its work. A small program that
  does not is compiled whole.

  Args:
    lowered: as for `compile_program`.
    compiler_options: as above.
  """
  options = {**compiler_options, **_PLAN_ONLY}
  return compile_program(lowered, options, "tpu").peak_bytes


def find_memory_limit(device: Any, hbm_bytes: int | None = None) -> int | None:
  """Returns the bytes of a device's memory that programs may use.

  It is the compiler's, for a TPU, somewhat below what the chip has: asked for
  by a program too large for any. For a GPU it is the pool that JAX takes when
  it starts, of a GPU that is not here the part of its memory that
  XLA_CLIENT_MEM_FRACTION says, or else three quarters.

  Args:
    device: of a topology, or of this machine.
    hbm_bytes: of a GPU's memory, for one that is not here; None: not known.

  Returns:
    None where the device has no limit of its own, as a CPU, or none is known.

  Raises:
    UserError: the variable holds no such part.
  """
  if device.platform == "tpu":
    huge = jax.ShapeDtypeStruct(
      (_TOO_MANY_ELEMENTS,), jnp.int8, sharding=SingleDeviceSharding(device)
    )
    lowered = jax.jit(lambda x: x + 1).trace(huge)
    try:
      lowered.lower(lowering_platforms=("tpu",)).compile()
    except jax.errors.JaxRuntimeError as error:
      found = _read_exceeded(error)
      if found is None:
        raise
      return found[1]
    raise AssertionError("a program of 2^46 bytes fits")
  try:
    stats = device.memory_stats()
  except jax.errors.JaxRuntimeError:  # Of a device that is not here.
    stats = None
  if stats is not None and "bytes_limit" in stats:
    return stats["bytes_limit"]
  if device.platform != "gpu" or hbm_bytes is None:
    return None
  return int(hbm_bytes * _find_pool_share())


def _find_pool_share() -> float:
  """Returns the part of a GPU's memory that JAX takes."""
  # The second is the older name, which JAX still reads.
  for variable in ("XLA_CLIENT_MEM_FRACTION", "XLA_PYTHON_CLIENT_MEM_FRACTION"):
    if value := os.environ.get(variable):
      try:
        share = float(value)
      except ValueError:
        share = 0.0
      if not 0 < share <= 1:
        raise UserError(
          f"{variable} is {value!r}; it is the part of a GPU's memory that JAX"
          " takes, above 0 and at most 1."
        )
      return share
  return _POOL_SHARE


def _find_peak(stats: Any, platform: str) -> int:
  if platform == "tpu":
    # Temporaries are listed in full there, though they share memory.
    return stats.peak_memory_in_bytes
  # The peak leaves temporaries out elsewhere, which are one allocation.
  return (
    stats.argument_size_in_bytes
    + stats.output_size_in_bytes
    - stats.alias_size_in_bytes
    + stats.temp_size_in_bytes
  )


def _read_exceeded(error: Exception) -> tuple[int, int] | None:
  """Returns what a program needs and what there is, in bytes."""
  match = _EXCEEDED.search(str(error))
  if match is None or "RESOURCE_EXHAUSTED" not in str(error):
    return None
  # Of the alternative that did not match, all groups are None.
  amount, unit, limit, limit_unit = [
    part for part in match.groups() if part is not None
  ]
  return (
    int(float(amount) * _UNITS[unit]),
    int(float(limit) * _UNITS[limit_unit]),
  )
