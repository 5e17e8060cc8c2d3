"""Meshes over the 8 devices of conftest."""

import jax
import pytest

from distill_jax.errors import UserError
from distill_jax.partitioning import mesh


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
  ],
)
def test_bad_meshes_say_what_a_good_one_looks_like(sizes, message):
  with pytest.raises(UserError, match=message) as error:
    mesh.make_mesh(sizes)
  assert "MESH = {'data': -1, 'fsdp': 1, 'model': 1}" in str(error.value)
