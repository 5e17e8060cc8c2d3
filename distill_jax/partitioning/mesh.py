"""The device mesh, within one slice of devices or over several.

One device is a mesh too. A slice is what its own fast network connects: a TPU
slice, a host of GPUs. Slices are joined by the data center's network (DCN),
over which only the sums of gradients should travel, so the data axis takes them
unless it is told otherwise.
"""

import logging
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import jax
from jax.experimental import mesh_utils
from jax.sharding import AbstractMesh, AxisType, Mesh

from distill_jax.errors import UserError
from distill_jax.partitioning import axes

_log = logging.getLogger(__name__)
# The compiler propagates shardings; JAX's own default differs by version.
_AXIS_TYPES = (AxisType.Auto,) * len(axes.MESH_AXES)


def make_mesh(
  axis_sizes: Mapping[str, int],
  devices: Sequence[Any] | None = None,
  dcn_axis_sizes: Mapping[str, int] | None = None,
) -> Mesh:
  """Makes a (data, fsdp, model) mesh.

  Args:
    axis_sizes: devices of a slice along each axis, e.g. {'data': 2, 'model':
      4}; an axis left out has 1, and -1, allowed once, takes the rest.
    devices: the devices, all of them by default. Their `slice_index`, if they
      have one, says which slice each belongs to.
    dcn_axis_sizes: slices along each axis, as above; None: the data axis takes
      all of them. Along each axis the mesh has the product of both sizes.

  Raises:
    UserError: an unknown axis, a bad size, sizes that do not multiply to the
      number of devices or slices, or slices of different sizes.

  Source: MESH and DCN_MESH are the ici_mesh_shape and dcn_mesh_shape of T5X's
    `partitioning.default_mesh`.
  """
  devices = jax.devices() if devices is None else devices
  slices = _group_by_slice(devices)
  num_slices, slice_size = len(slices), len(slices[0])
  found = f"there are {slice_size} devices"
  if num_slices > 1:
    found += f" in each of the {num_slices} slices"
  shape = _resolve_sizes(
    "MESH", axis_sizes, slice_size, found, {"data": -1, "fsdp": 1, "model": 1}
  )
  dcn_shape = _resolve_sizes(
    "DCN_MESH",
    {axes.DATA: num_slices} if dcn_axis_sizes is None else dcn_axis_sizes,
    num_slices,
    f"the devices lie in {num_slices} slice{'s' * (num_slices > 1)}",
    {"data": -1},
  )
  # A part of an axis of the torus has less bandwidth than the whole of it; JAX
  # splits only where the sizes cannot be had otherwise, and these are given.
  if num_slices == 1:
    grid = mesh_utils.create_device_mesh(
      shape, devices=devices, allow_split_physical_axes=True
    )
  else:
    grid = mesh_utils.create_hybrid_device_mesh(
      shape, dcn_shape, devices=devices, allow_split_physical_axes=True
    )
    _log.info(
      "%d slices of %d devices: %s within a slice, %s over slices",
      num_slices,
      slice_size,
      dict(zip(axes.MESH_AXES, shape, strict=True)),
      dict(zip(axes.MESH_AXES, dcn_shape, strict=True)),
    )
  return Mesh(grid, axes.MESH_AXES, axis_types=_AXIS_TYPES)


def make_abstract_mesh(sizes: Mapping[str, int]) -> AbstractMesh:
  """Returns a mesh of no devices, to reason about shardings.

  Args:
    sizes: devices along 'data', 'fsdp' and 'model'; 1 along what is left out.
  """
  shape = tuple(sizes.get(name, 1) for name in axes.MESH_AXES)
  return AbstractMesh(shape, axes.MESH_AXES, axis_types=_AXIS_TYPES)


def _group_by_slice(devices: Sequence[Any]) -> list[list[Any]]:
  """Returns the devices of each slice; CPUs and single hosts have one."""
  slices = defaultdict(list)
  for device in devices:
    slices[getattr(device, "slice_index", 0)].append(device)
  if len({len(members) for members in slices.values()}) > 1:
    counts = {index: len(members) for index, members in slices.items()}
    raise UserError(
      f"Slices have different numbers of devices: {counts}. A mesh needs equal"
      " slices; start the job on such."
    )
  return list(slices.values())


def _resolve_sizes(
  macro: str,
  axis_sizes: Mapping[str, int],
  count: int,
  found: str,
  example_sizes: Mapping[str, int],
) -> list[int]:
  """Returns a size for each of MESH_AXES, -1 replaced by what is left.

  Args:
    macro: name of the setting, for errors.
    axis_sizes: what the user gave.
    count: what the sizes must multiply to.
    found: `count` in words, for errors.
    example_sizes: a value that works, for errors.
  """
  example = f"{macro} = {dict(example_sizes)}"
  if not isinstance(axis_sizes, Mapping):
    raise UserError(
      f"{macro} is {axis_sizes!r}; it gives sizes to axes. For example"
      f" {example}."
    )
  sizes = dict.fromkeys(axes.MESH_AXES, 1) | dict(axis_sizes)
  if unknown := set(sizes) - set(axes.MESH_AXES):
    raise UserError(
      f"{macro} names unknown axes {sorted(unknown)}; there are"
      f" {', '.join(axes.MESH_AXES)}. For example {example}."
    )
  if not all(type(size) is int for size in sizes.values()):
    raise UserError(
      f"{macro} is {dict(axis_sizes)}; sizes are whole numbers. For example"
      f" {example}."
    )
  rest = [name for name, size in sizes.items() if size == -1]
  fixed = math.prod(size for size in sizes.values() if size != -1)
  if len(rest) == 1 and fixed > 0 and count % fixed == 0:
    sizes[rest[0]] = count // fixed
  shape = [sizes[name] for name in axes.MESH_AXES]
  if min(shape) < 1 or math.prod(shape) != count:
    raise UserError(
      f"{macro} is {dict(axis_sizes)}, but {found}; the sizes must"
      f" multiply to {count}. For example {example}."
    )
  return shape
