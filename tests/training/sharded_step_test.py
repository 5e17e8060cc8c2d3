"""Train steps on eight devices against the same steps on one."""

import jax
import numpy as np
import pytest
import tiny_student


@pytest.mark.parametrize(
  "optimizer,mesh_sizes",
  [
    ("adamw", {"data": 2, "fsdp": 2, "model": 2}),
    ("adafactor", {"data": 2, "fsdp": 2, "model": 2}),
    ("adamw", {"data": 8}),
    ("adafactor", {"fsdp": 8}),
    ("adafactor", {"model": 2, "data": 4}),
  ],
)
def test_every_mesh_computes_what_one_device_does(optimizer, mesh_sizes):
  batches = tiny_student.make_batches(5)
  one = tiny_student.start(optimizer)
  many = tiny_student.start(optimizer, mesh_sizes)
  assert_trees_close(many.take_steps(batches), one.take_steps(batches))
  assert_trees_close(many.state.params, one.state.params)

  def check_sharding(leaf, sharding):
    assert leaf.sharding == sharding

  jax.tree.map(check_sharding, many.state, many.shardings)


def assert_trees_close(found, expected):
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5),
    found,
    expected,
  )
