"""Meshes over the 8 devices of conftest, over made-up slices, and a TPU's.

The devices of a TPU come from libtpu, see `tpu_compiler`.
"""

import dataclasses
import itertools
import logging

import jax
import pytest
from tpu_compiler import needs_libtpu

from distill_jax.aot import topology
from distill_jax.errors import UserError
from distill_jax.partitioning import mesh


@dataclasses.dataclass(frozen=True)
class Device:
  """What JAX reads of a TPU device to build a mesh."""

  slice_index: int
  coords: tuple[int, ...]
  process_index: int = 0
  platform: str = "tpu"
  device_kind: str = "TPU v5"
  core_on_chip: int = 0

  @property
  def id(self):
    x, y, z = self.coords
    return 1000 * self.slice_index + 100 * x + 10 * y + z


def make_slices(num_slices, shape=(2, 2, 2)):
  coords = list(itertools.product(*map(range, shape)))
  return [Device(index, at) for index in range(num_slices) for at in coords]


def find_slices(made, **index):
  """Returns the slices that a part of a mesh lies in."""
  at = tuple(index.get(name, slice(None)) for name in made.axis_names)
  return {device.slice_index for device in made.devices[at].flat}


@pytest.mark.parametrize(
  "sizes,shape",
  [
    ({"data": 2, "fsdp": 2, "model": 2}, (2, 2, 2)),
    ({"data": 8}, (8, 1, 1)),
    ({"model": 2, "data": 4}, (4, 1, 2)),
    ({"data": -1, "model": 2}, (4, 1, 2)),
    ({"fsdp": -1}, (1, 8, 1)),
  ],
)
def test_shapes(sizes, shape):
  made = mesh.make_mesh(sizes)
  assert made.axis_names == ("data", "fsdp", "model")
  assert made.devices.shape == shape
  assert set(made.devices.flat) == set(jax.devices())


def test_one_device_is_a_mesh():
  made = mesh.make_mesh({}, jax.devices()[:1])
  assert dict(made.shape) == {"data": 1, "fsdp": 1, "model": 1}


@pytest.mark.usefixtures("any_type")
@pytest.mark.parametrize(
  "sizes,message",
  [
    ({"tensor": 8}, r"unknown axes \['tensor'\]"),
    ({}, "there are 8 devices"),
    ({"data": 3}, "there are 8 devices"),
    ({"data": 3, "model": -1}, "there are 8 devices"),
    ({"data": -1, "model": -1}, "there are 8 devices"),
    ({"data": 0, "model": -1}, "there are 8 devices"),
    ({"data": -2, "model": -4}, "there are 8 devices"),
    ({"data": 16}, "there are 8 devices"),
    ({"data": "8"}, "whole numbers"),
    ({"data": 8.0}, "whole numbers"),
    ({"data": True, "model": 8}, "whole numbers"),
  ],
)
def test_bad_meshes_say_what_a_good_one_looks_like(sizes, message):
  with pytest.raises(UserError, match=message) as error:
    mesh.make_mesh(sizes)
  assert "MESH = {'data': -1, 'fsdp': 1, 'model': 1}" in str(error.value)


def test_the_data_axis_takes_the_slices(caplog):
  with caplog.at_level(logging.INFO):
    made = mesh.make_mesh({"fsdp": 4, "model": 2}, make_slices(2))
  assert dict(made.shape) == {"data": 2, "fsdp": 4, "model": 2}
  assert find_slices(made, data=0) == {0}
  assert find_slices(made, data=1) == {1}
  assert set(made.devices.flat) == set(make_slices(2))
  (line,) = [record.getMessage() for record in caplog.records]
  assert line == (
    "2 slices of 8 devices: {'data': 1, 'fsdp': 4, 'model': 2} within a slice,"
    " {'data': 2, 'fsdp': 1, 'model': 1} over slices"
  )


def test_slices_along_the_axes_that_are_named():
  made = mesh.make_mesh(
    {"data": 2, "model": -1}, make_slices(4), {"data": -1, "fsdp": 2}
  )
  assert dict(made.shape) == {"data": 4, "fsdp": 2, "model": 4}
  # The faster network is the inner one along every axis.
  assert find_slices(made, fsdp=0, data=slice(0, 2)) == {0}
  assert find_slices(made, fsdp=1, data=slice(0, 2)) == {1}
  assert find_slices(made, fsdp=0, data=slice(2, 4)) == {2}
  assert find_slices(made, fsdp=1, data=slice(2, 4)) == {3}


def test_one_slice_of_many_may_be_chosen():
  devices = make_slices(2)[8:]
  made = mesh.make_mesh({"fsdp": 8}, devices, {"data": 1})
  assert find_slices(made) == {1}


@pytest.mark.parametrize(
  "sizes",
  [{"fsdp": 8, "model": 2}, {"data": 2, "fsdp": 2, "model": 4}, {"model": 16}],
)
def test_a_physical_axis_is_split_where_there_is_no_other_way(sizes):
  """A 4x4 torus has axes of 4; JAX refuses to split them unless it is told."""
  made = mesh.make_mesh(sizes, make_slices(1, (4, 4, 1)))
  assert {k: v for k, v in made.shape.items() if v > 1} == sizes
  assert len(set(made.devices.flat)) == 16


@pytest.mark.usefixtures("any_type")
@pytest.mark.parametrize(
  "sizes,dcn_sizes,message",
  [
    ({"fsdp": 16}, None, "MESH is .* 8 devices in each of the 2 slices; .* 8"),
    ({"fsdp": 8}, {"data": 3}, "DCN_MESH is .* the devices lie in 2 slices;"),
    ({"fsdp": 8}, {}, "DCN_MESH is {}, but the devices lie in 2"),
    ({"fsdp": 8}, {"slice": 2}, r"DCN_MESH names unknown axes \['slice'\]"),
    ({"fsdp": 8}, {"data": 2.0}, "DCN_MESH is .*; sizes are whole numbers"),
    ({"fsdp": 8}, 2, "DCN_MESH is 2; it gives sizes to axes"),
    (8, None, "^MESH is 8; it gives sizes to axes"),
  ],
)
def test_bad_slices_say_what_a_good_mesh_looks_like(sizes, dcn_sizes, message):
  with pytest.raises(UserError, match=message) as error:
    mesh.make_mesh(sizes, make_slices(2), dcn_sizes)
  assert "For example " in str(error.value)


def test_slices_that_are_not_there():
  with pytest.raises(UserError, match="DCN_MESH is .* lie in 1 slice;"):
    mesh.make_mesh({"data": 8}, dcn_axis_sizes={"data": 2})


def test_unequal_slices():
  with pytest.raises(UserError, match="different numbers .* {0: 8, 1: 7}"):
    mesh.make_mesh({"data": -1}, make_slices(2)[:-1])


@pytest.mark.aot
@needs_libtpu
@pytest.mark.parametrize(
  "name, num_slices, sizes, dcn_sizes, shape, slices",
  [
    ("v5e:4x4", 2, {"fsdp": 4, "model": 4}, None, (2, 4, 4), [[0], [1]]),
    (
      "v5e:4x4",
      2,
      {"fsdp": 4, "model": 4},
      {"fsdp": 2},
      (1, 8, 4),
      [[0, 1]],
    ),
    ("v5e:4x4", 1, {"fsdp": 8, "model": 2}, None, (1, 8, 2), [[0]]),
    ("v4:2x2x4", 1, {"fsdp": 8, "model": 2}, None, (1, 8, 2), [[0]]),
  ],
)
def test_devices_of_a_tpu(name, num_slices, sizes, dcn_sizes, shape, slices):
  parsed = topology.parse(name, num_slices)
  topology.prepare_environment(parsed)
  made = mesh.make_mesh(sizes, topology.make_devices(parsed), dcn_sizes)
  assert made.devices.shape == shape
  found = [
    sorted({getattr(device, "slice_index", 0) for device in row.flat})
    for row in made.devices
  ]
  assert found == slices
