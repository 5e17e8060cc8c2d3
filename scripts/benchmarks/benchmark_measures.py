"""Peak FLOP/s and memory, as `scripts/benchmarks/benchmark.py` reports them."""

import dataclasses
import resource
import time
from typing import Any

import jax
import jax.numpy as jnp

from distill_jax.partitioning import chips

# A product that takes so long is timed well; an accelerator's largest is less.
_LONG_SECONDS = 0.1
_LARGEST_MATRIX = 16384


@dataclasses.dataclass(frozen=True)
class Peak:
  """The most that one device can do.

  Attributes:
    flops_per_second: the figure; None: not known.
    source: where it is from.
  """

  flops_per_second: float | None
  source: str


def look_up_peak() -> Peak:
  """Returns the vendor's figure of the first device's chip."""
  chip = chips.find_chip(jax.devices()[0].device_kind)
  if chip is None:
    return Peak(None, "not known; give --peak_flops or --measure_peak")
  return Peak(chip.peak_flops_per_second_per_device, f"{chip.name}, bfloat16")


def measure_peak(dtype: str) -> Peak:
  """Times products of ever larger matrices on the first device.

  Args:
    dtype: of the matrices.
  """
  multiply = jax.jit(jnp.matmul)
  size, best = 512, 0.0
  while True:
    x = jax.random.normal(jax.random.key(0), (size, size), dtype)
    multiply(x, x).block_until_ready()
    durations = []
    for _ in range(5):
      started = time.perf_counter()
      multiply(x, x).block_until_ready()
      durations.append(time.perf_counter() - started)
    best = max(best, 2 * size**3 / min(durations))
    if min(durations) > _LONG_SECONDS or size == _LARGEST_MATRIX:
      return Peak(best, f"measured, {dtype} matrices up to [{size}, {size}]")
    size *= 2


def measure_memory(compiled: Any, *, is_alone: bool) -> dict[str, Any]:
  """Returns the memory that one compiled step, and the process, needed.

  Args:
    compiled: the step; None where it is several programs.
    is_alone: whether the process has run nothing else.

  Returns:
    `step_bytes`, `peak_bytes` and `peak_bytes_source`.
  """
  stats = jax.local_devices()[0].memory_stats()
  if not is_alone:
    peak, source = None, "two layouts share the process; give one --layout"
  elif stats:
    peak = stats["peak_bytes_in_use"]
    source = "memory_stats of the first device, since the process began"
  else:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    source = "resident memory of the process, since it began"
  step_bytes = None
  if compiled is not None:
    analysis = compiled.memory_analysis()
    step_bytes = (
      analysis.argument_size_in_bytes
      + analysis.output_size_in_bytes
      - analysis.alias_size_in_bytes
      + analysis.temp_size_in_bytes
    )
  return {
    "step_bytes": step_bytes,
    "peak_bytes": peak,
    "peak_bytes_source": source,
  }


def compute_rates(
  name: str, num_flops: float | None, seconds: float, peak: Peak
) -> dict[str, Any]:
  """Returns FLOP/s of all devices, and their share of all devices' peak.

  Args:
    name: what the FLOPs are of, "model" or "example".
    num_flops: of a step; None: not counted.
    seconds: of a step.
    peak: of one device.
  """
  rate = None if num_flops is None else num_flops / seconds
  share = None
  if rate is not None and peak.flops_per_second is not None:
    share = rate / peak.flops_per_second / jax.device_count()
  return {
    f"{name}_flops_per_second": rate,
    "mfu" if name == "model" else f"{name}_mfu": share,
  }
