"""Devices that are not here, by the names people know them by.

JAX compiles for TPUs and GPUs that the machine does not have, given the
vendor's compiler: libtpu for TPUs, JAX's CUDA plugin and nvcc's assembler for
GPUs.
"""

import dataclasses
import importlib.util
import math
import os
import pathlib
import re
from collections.abc import Sequence
from typing import Any

import jax
from jax.experimental import topologies

from distill_jax.errors import UserError

# Another spelling of a generation -> JAX's.
_ALIASES = {
  "v5litepod": "v5e",
  "v5lite": "v5e",
  "v6lite": "v6e",
  "v7x": "tpu7x",
}
# Slices as they are sold, by their number of chips.
_SHAPES_2D = {
  1: "1x1", 4: "2x2", 8: "2x4", 16: "4x4", 32: "4x8", 64: "8x8",
  128: "8x16", 256: "16x16",
}  # fmt: skip
_SHAPES_3D = {
  4: "2x2x1", 8: "2x2x2", 16: "2x2x4", 32: "2x4x4", 64: "4x4x4",
  128: "4x4x8", 256: "4x8x8", 512: "8x8x8", 1024: "8x8x16", 2048: "8x16x16",
}  # fmt: skip
_SHAPES_V3 = {
  4: "2x2", 16: "4x4", 64: "8x8", 128: "8x16", 256: "16x16", 512: "16x32",
  1024: "32x32",
}  # fmt: skip
# Generation -> (slices, what the number in the cloud's names counts a chip).
_GENERATIONS = {
  "v3": (_SHAPES_V3, 2),
  "v4": (_SHAPES_3D, 2),
  "v5e": (_SHAPES_2D, 1),
  "v5p": (_SHAPES_3D, 2),
  "v6e": (_SHAPES_2D, 1),
  "tpu7x": (_SHAPES_3D, 2),
}
_H100 = "h100"
_H100_SHAPES = {1: "1x1x1", 2: "1x1x2", 4: "1x1x4", 8: "1x1x8"}

# What the compiler must know of an H100 SXM. Source: NVIDIA H100 Tensor Core
# GPU Architecture (white paper), table 3; CUDA C++ Programming Guide, technical
# specifications of compute capability 9.0.
_H100_TARGET = """
gpu_device_info {
  cuda_compute_capability { major: 9 minor: 0 }
  threads_per_block_limit: 1024
  threads_per_warp: 32
  shared_memory_per_block: 49152
  shared_memory_per_block_optin: 232448
  shared_memory_per_core: 233472
  threads_per_core_limit: 2048
  registers_per_core_limit: 65536
  registers_per_block_limit: 65536
  core_count: 132
  fpus_per_core: 128
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
  memory_bandwidth: 3350000000000
  l2_cache_size: 52428800
  clock_rate_ghz: 1.98
  device_memory_size: 85899345920
}
platform_name: "CUDA"
dnn_version_info { major: 9 minor: 8 }
device_description_str: "NVIDIA H100 80GB HBM3"
"""

# libtpu reads these when it is loaded. Without them it asks Google's metadata
# server which TPU this machine has, lets one process at a time load it, and
# logs. The type and the worker stand for no machine: they end its questions.
_TPU_ENVIRONMENT = {
  "TPU_SKIP_MDS_QUERY": "1",
  "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
  "TPU_ACCELERATOR_TYPE": "v5litepod-16",
  "TPU_WORKER_HOSTNAMES": "localhost",
  "TPU_WORKER_ID": "0",
  "TPU_LOG_DIR": "disabled",
  "TPU_MIN_LOG_LEVEL": "3",
  "TPU_STDERR_LOG_LEVEL": "3",
}
# The default is too little for the cost model of libtpu 0.0.42, which recurses
# on fused products of the 11B model's size: the process dies of a full stack.
_TPU_STACK = "--fibers_default_thread_stack_size=4194304"


@dataclasses.dataclass(frozen=True)
class Topology:
  """Slices of one kind of accelerator.

  Attributes:
    generation: "v4", "v5e", ..., or "h100".
    shape: chips along each axis of a slice, as "2x2x4".
    num_slices: how many equal slices.
  """

  generation: str
  shape: str
  num_slices: int = 1

  @property
  def name(self) -> str:
    """JAX's name of one slice, as "v4:2x2x4"."""
    return f"{self.generation}:{self.shape}"

  @property
  def platform(self) -> str:
    """What JAX lowers for."""
    return "cuda" if self.generation == _H100 else "tpu"

  @property
  def num_chips(self) -> int:
    """Chips of all slices."""
    return self.num_slices * math.prod(map(int, self.shape.split("x")))


def parse(name: str, num_slices: int = 1) -> Topology:
  """Reads the name of an accelerator.

  Args:
    name: JAX's, a generation and the chips along each axis ("v4:2x2x4"), or the
      cloud's, a generation and a number ("v4-32"). The cloud counts cores of
      v3, v4, v5p and tpu7x, two a chip, and chips of v5e and v6e.
    num_slices: how many of it.

  Raises:
    UserError: there is none such; the message lists what there is.
  """
  if not isinstance(num_slices, int) or num_slices < 1:
    raise UserError(
      f"NUM_SLICES is {num_slices!r}; it must be a whole number from 1."
    )
  match = re.fullmatch(r"(\w+)(?::(\d+(?:x\d+)*)|-(\d+))", str(name))
  if match is None:
    raise UserError(
      f"TOPOLOGY is {name!r}; it names an accelerator as 'v4:2x2x4' or 'v4-32'"
      f" do. {_list_all()}"
    )
  generation = _ALIASES.get(match[1], match[1])
  if generation == _H100:
    return _parse_h100(name, match, num_slices)
  if generation not in _GENERATIONS:
    raise UserError(
      f"TOPOLOGY is {name!r}, and there is no {match[1]!r}. {_list_all()}"
    )
  shapes, cores = _GENERATIONS[generation]
  if match[2]:
    shape = match[2]
    if shape.count("x") != next(iter(shapes.values())).count("x"):
      raise UserError(
        f"TOPOLOGY is {name!r}; slices of {generation} are"
        f" {', '.join(shapes.values())}."
      )
    return Topology(generation, shape, num_slices)
  number = int(match[3])
  by_number = {chips * cores: shape for chips, shape in shapes.items()}
  if number not in by_number:
    counted = "cores, two a chip" if cores == 2 else "chips"
    raise UserError(
      f"TOPOLOGY is {name!r}; the number counts {counted}, and slices of"
      f" {generation} have {', '.join(map(str, by_number))}. Another shape is"
      f" given as {generation}:{shapes[16]}."
    )
  return Topology(generation, by_number[number], num_slices)


def _parse_h100(name: str, match: re.Match, num_slices: int) -> Topology:
  shape = match[2] or _H100_SHAPES.get(int(match[3]))
  if shape is None or shape not in _H100_SHAPES.values() or num_slices > 1:
    raise UserError(
      f"TOPOLOGY is {name!r} and NUM_SLICES {num_slices}; of H100s there are"
      " those of one host:"
      f" {', '.join(f'h100:{shape}' for shape in _H100_SHAPES.values())}."
    )
  return Topology(_H100, shape)


def _list_all() -> str:
  listed = ["v5litepod-16"]
  for generation, (shapes, cores) in _GENERATIONS.items():
    listed += [f"{generation}:{shapes[16]}", f"{generation}-{16 * cores}"]
  return f"For example {', '.join(sorted(listed))} or h100:1x1x8."


def prepare_environment(topology: Topology) -> None:
  """Sets what the compilers read when they start.

  Call before anything touches a device. JAX is kept to the CPU: a TPU or GPU of
  this machine stays free, and none is looked for. Variables that are set
  already stay as they are.

  Args:
    topology: what is to be compiled for.

  Raises:
    UserError: the compiler is not installed.
  """
  if os.environ.get("JAX_PLATFORMS") != "cpu":
    jax.config.update("jax_platforms", "cpu")
  if topology.platform == "tpu":
    if not os.environ.get("TPU_LIBRARY_PATH") and not _is_installed("libtpu"):
      raise UserError(
        f"TOPOLOGY {topology.name} needs libtpu, the compiler for TPUs, and it"
        " is not installed. Run: pip install -c scripts/constraints.txt"
        " '.[tpu]', or let TPU_LIBRARY_PATH name a libtpu.so."
      )
    for variable, value in _TPU_ENVIRONMENT.items():
      os.environ.setdefault(variable, value)
    _add_flag("LIBTPU_INIT_ARGS", _TPU_STACK)
    return
  if not _is_installed("jax_cuda12_plugin") or not _is_installed(
    "nvidia.cuda_nvcc"
  ):
    raise UserError(
      f"TOPOLOGY {topology.name} needs JAX's plugin for CUDA 12 and nvcc, and"
      " they are not installed. Run: pip install -c scripts/constraints.txt"
      " '.[gpu]'."
    )
  spec = importlib.util.find_spec("nvidia.cuda_nvcc")
  assert spec is not None and spec.submodule_search_locations
  nvcc = pathlib.Path(next(iter(spec.submodule_search_locations)))
  os.environ.setdefault("JAX_SKIP_CUDA_CONSTRAINTS_CHECK", "1")
  folders = [
    path for path in os.environ.get("PATH", "").split(os.pathsep) if path
  ]
  if str(nvcc / "bin") not in folders:
    os.environ["PATH"] = os.pathsep.join([str(nvcc / "bin"), *folders])
  _add_flag("XLA_FLAGS", f"--xla_gpu_cuda_data_dir={nvcc}")
  # Kernels cannot be timed without the GPU.
  _add_flag("XLA_FLAGS", "--xla_gpu_autotune_level=0")


def make_devices(topology: Topology) -> Sequence[Any]:
  """Returns the devices of slices, fit for a mesh and for compiling only.

  Args:
    topology: the slices; `prepare_environment` was called for it.

  Raises:
    UserError: the compiler knows no such slice.
  """
  options: dict[str, Any] = {}
  if topology.platform == "cuda":
    options |= {"topology": topology.shape, "target_config": _H100_TARGET}
  else:
    if topology.num_slices > 1:
      options["num_slices"] = topology.num_slices
    if topology.generation == "v4":
      # Otherwise each core is a device, with half the memory.
      options["chip_config_name"] = "megacore"
    if topology.num_chips == topology.num_slices:
      options["chips_per_host_bounds"] = [1, 1, 1]  # Of a host with one chip.
  name = _H100 if topology.platform == "cuda" else topology.name
  try:
    return topologies.get_topology_desc(
      name, topology.platform, **options
    ).devices
  except Exception as error:
    message = str(error).splitlines()[0]
    if topology.platform == "cuda":
      known = _H100_SHAPES
    else:
      known = _GENERATIONS[topology.generation][0]
    raise UserError(
      f"No devices can be made of TOPOLOGY {topology.name}: {message} Slices"
      f" are {', '.join(known.values())}."
    ) from error


def _is_installed(package: str) -> bool:
  try:
    return importlib.util.find_spec(package) is not None
  except ModuleNotFoundError:  # Of the package around it.
    return False


def _add_flag(variable: str, flag: str) -> None:
  """Adds a flag to a variable unless the variable sets it already."""
  flags = os.environ.get(variable, "")
  if flag.partition("=")[0] not in flags:
    os.environ[variable] = f"{flags} {flag}".strip()
