"""The device mesh.

Layer 1; imports partitioning.axes. One device is a mesh too.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
from jax.experimental import mesh_utils
from jax.sharding import Mesh

from distill_jax.errors import UserError
from distill_jax.partitioning import axes


def make_mesh(
  axis_sizes: Mapping[str, int], devices: Sequence[Any] | None = None
) -> Mesh:
  """Makes a (data, fsdp, model) mesh.

  Args:
    axis_sizes: devices along each axis, e.g. {'data': 2, 'model': 4}; an axis
      left out has 1, and -1, allowed once, takes the rest.
    devices: the devices, all of them by default.

  Raises:
    UserError: an unknown axis, a bad size, or sizes that do not multiply to
      the number of devices.
  """
  devices = jax.devices() if devices is None else devices
  example = "MESH = {'data': -1, 'fsdp': 1, 'model': 1}"
  if not isinstance(axis_sizes, Mapping):
    raise UserError(
      f"MESH is {axis_sizes!r}; it gives sizes to axes. For example {example}."
    )
  sizes = dict.fromkeys(axes.MESH_AXES, 1) | dict(axis_sizes)
  if unknown := set(sizes) - set(axes.MESH_AXES):
    raise UserError(
      f"MESH names unknown axes {sorted(unknown)}; there are"
      f" {', '.join(axes.MESH_AXES)}. For example {example}."
    )
  if not all(isinstance(size, int) for size in sizes.values()):
    raise UserError(
      f"MESH is {dict(axis_sizes)}; sizes are whole numbers. For example"
      f" {example}."
    )
  rest = [name for name, size in sizes.items() if size == -1]
  fixed = math.prod(size for size in sizes.values() if size != -1)
  if len(rest) == 1 and fixed > 0 and len(devices) % fixed == 0:
    sizes[rest[0]] = len(devices) // fixed
  shape = [sizes[name] for name in axes.MESH_AXES]
  if min(shape) < 1 or math.prod(shape) != len(devices):
    raise UserError(
      f"MESH is {dict(axis_sizes)}, but there are {len(devices)} devices; the"
      f" sizes must multiply to that. For example {example}."
    )
  return Mesh(
    mesh_utils.create_device_mesh(shape, devices=devices), axes.MESH_AXES
  )
