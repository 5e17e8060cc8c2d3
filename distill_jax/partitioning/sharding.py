"""Shardings of parameters, optimizer state, batches and activations.

jax.jit with NamedSharding is what pjit is today.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AbstractMesh, Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array

from distill_jax.errors import UserError
from distill_jax.partitioning import axes
from distill_jax.partitioning.constraint import AxisNames, ConstrainFn

PyTree = Any


def batch_sharding(mesh: Mesh | AbstractMesh) -> NamedSharding:
  """Rows over the data and fsdp axes; every other axis whole."""
  return NamedSharding(
    mesh, axes.to_partition_spec(("batch",), axes.ACTIVATION_RULES, "batch")
  )


def replicated(mesh: Mesh | AbstractMesh) -> NamedSharding:
  """A full copy on every device."""
  return NamedSharding(mesh, PartitionSpec())


def count_batch_shards(mesh: Mesh | AbstractMesh) -> int:
  """Into how many parts the rows of a batch are divided."""
  return _count_parts(mesh, axes.ACTIVATION_RULES["batch"])


def make_constrain_fn(
  mesh: Mesh | AbstractMesh, rules: axes.Rules = axes.ACTIVATION_RULES
) -> ConstrainFn:
  """Returns what pins an activation to the mesh by its logical axis names.

  Args:
    mesh: the mesh.
    rules: which mesh axes the names map to.
  """
  return _MeshConstraint(mesh, rules)


class _MeshConstraint:
  """See `partitioning.constraint.ConstrainFn`."""

  def __init__(self, mesh: Mesh | AbstractMesh, rules: axes.Rules):
    self._mesh, self._rules = mesh, rules
    self.num_batch_shards = _count_parts(mesh, rules["batch"])

  def __eq__(self, other: object) -> bool:
    """So that models of one mesh are one to what keeps compiled programs."""
    return isinstance(other, _MeshConstraint) and (
      (self._mesh, self._rules) == (other._mesh, other._rules)
    )

  def __hash__(self) -> int:
    return hash((self._mesh, *sorted(self._rules)))

  def __call__(self, x: Array, axis_names: AxisNames, /) -> Array:
    sharding = NamedSharding(self._mesh, self._to_spec(axis_names))
    return jax.lax.with_sharding_constraint(x, sharding)

  def map_shards(
    self,
    fn: Callable[..., Array],
    in_names: Sequence[AxisNames],
    out_names: AxisNames,
  ) -> Callable[..., Array]:
    return jax.shard_map(
      fn,
      mesh=self._mesh,
      in_specs=tuple(map(self._to_spec, in_names)),
      out_specs=self._to_spec(out_names),
      # It cannot tell what a kernel's result is the same on.
      check_vma=False,
    )

  def _to_spec(self, axis_names: AxisNames) -> PartitionSpec:
    return axes.to_partition_spec(axis_names, self._rules, str(axis_names))


def _count_parts(
  mesh: Mesh | AbstractMesh, entry: str | tuple[str, ...] | None
) -> int:
  """Returns into how many parts an axis is divided that maps to `entry`."""
  names = (entry,) if isinstance(entry, str) else entry or ()
  return math.prod(mesh.shape[name] for name in names)


def shard_params(
  logical_axes: PyTree,
  abstract_params: PyTree,
  mesh: Mesh | AbstractMesh,
  rules: axes.Rules = axes.PARAM_RULES,
) -> PyTree:
  """Maps logical axis names of parameters to shardings.

  Args:
    logical_axes: tree of tuples of names, as the parameters.
    abstract_params: the parameters' shapes.
    mesh: the mesh; an `AbstractMesh`, which has no devices, for shardings to
      look at.
    rules: which mesh axes the names map to.

  Raises:
    UserError: a dimension does not divide by its mesh axis; the message names
      the parameter.
    ValueError: a parameter has more or fewer names than dimensions; or see
      `axes.to_partition_spec`.
  """

  def to_sharding(path, names, leaf):
    where = jax.tree_util.keystr(path, simple=True, separator="/")
    if len(names) != len(leaf.shape):
      raise ValueError(
        f"{where}: {len(names)} logical axes {names} for the {len(leaf.shape)}"
        f" dimensions {leaf.shape}"
      )
    spec = axes.to_partition_spec(names, rules, where)
    for size, entry in zip(leaf.shape, spec, strict=True):
      num_parts = _count_parts(mesh, entry)
      if size % num_parts:
        raise UserError(
          f"{where} {leaf.shape} cannot be divided: {size} over the mesh axis"
          f" {entry!r} of {num_parts} devices. Choose another MESH."
        )
    return NamedSharding(mesh, spec)

  return jax.tree_util.tree_map_with_path(
    to_sharding,
    logical_axes,
    abstract_params,
    is_leaf=lambda leaf: isinstance(leaf, tuple),
  )


def with_shardings(abstract: PyTree, shardings: PyTree) -> PyTree:
  """Returns the shapes and dtypes of a tree together with where it goes.

  Args:
    abstract: a tree of arrays, or of what has a `shape` and a `dtype`.
    shardings: a tree of the same structure.

  Returns:
    A tree of `jax.ShapeDtypeStruct`.
  """
  return jax.tree.map(
    lambda leaf, sharding: jax.ShapeDtypeStruct(
      leaf.shape, leaf.dtype, sharding=sharding
    ),
    abstract,
    shardings,
  )


def shard_optimizer_state(
  abstract_opt_state: PyTree, param_shardings: PyTree, abstract_params: PyTree
) -> PyTree:
  """Derives the shardings of an optimizer's state from the parameters'.

  A leaf that ends in a parameter's path and has its shape is sharded like it
  (Adam's moments, Adafactor's unfactored `v`). Adafactor's row and column
  statistics have one dimension fewer, and keep the parts of the dimensions
  that are left; scalars are replicated.

  Args:
    abstract_opt_state: shapes of the optimizer's state.
    param_shardings: see `shard_params`.
    abstract_params: shapes of the parameters.
  """
  by_path = {
    path: (sharding, param.shape)
    for (path, sharding), param in zip(
      jax.tree_util.tree_leaves_with_path(param_shardings),
      jax.tree.leaves(abstract_params),
      strict=True,
    )
  }
  mesh = next(iter(by_path.values()))[0].mesh

  def to_sharding(path, leaf):
    for start in range(len(path)):
      if path[start:] in by_path:
        sharding, shape = by_path[path[start:]]
        fields = [getattr(key, "name", None) for key in path[:start]]
        spec = _state_spec(fields, leaf.shape, shape, sharding.spec)
        return NamedSharding(mesh, spec)
    return replicated(mesh)

  return jax.tree_util.tree_map_with_path(to_sharding, abstract_opt_state)


def _state_spec(fields, state_shape, param_shape, param_spec):
  if state_shape == param_shape:
    return param_spec
  if len(param_shape) > 1:
    # optax sums the row statistics over the largest dimension and the column
    # statistics over the second largest (`scale_by_factored_rms`).
    second, largest = np.argsort(param_shape)[-2:]
    dropped = largest if "v_row" in fields else second
    # Slots that Adafactor does not use for this parameter have shape (1,).
    if state_shape == (*param_shape[:dropped], *param_shape[dropped + 1 :]):
      return PartitionSpec(*param_spec[:dropped], *param_spec[dropped + 1 :])
  return PartitionSpec()


def find_holders(
  mesh: Mesh, num_shards: int, batch_rows: int
) -> list[list[int]]:
  """Finds whose devices hold the rows of each shard of a batch.

  Args:
    mesh: the mesh.
    num_shards: equal parts of the rows, in order; see `data.feed.shards`.
    batch_rows: rows of a batch.

  Returns:
    For each shard the processes, ascending: several where their devices hold
    copies, or where its rows lie on both.
  """
  shard_rows = batch_rows // num_shards
  holders: list[set[int]] = [set() for _ in range(num_shards)]
  indices = batch_sharding(mesh).devices_indices_map((batch_rows,))
  for device, (rows,) in indices.items():
    start, stop, _ = rows.indices(batch_rows)
    for shard in range(start // shard_rows, -(-stop // shard_rows)):
      holders[shard].add(device.process_index)
  return [sorted(processes) for processes in holders]


def to_global(batch: Mapping[str, np.ndarray], mesh: Mesh) -> dict[str, Array]:
  """Puts a batch on the mesh, rows divided over the data and fsdp axes.

  Args:
    batch: [batch, length] numpy arrays, of which each host hands its devices
      just their rows; a host's other rows may hold anything.
    mesh: the mesh.

  Returns:
    Global arrays of the same shapes.
  """
  sharding = batch_sharding(mesh)
  # A transfer that is asked for, though JAX counts this way of it as another.
  with jax.transfer_guard_host_to_device("allow"):
    return {
      key: jax.make_array_from_callback(
        value.shape, sharding, lambda index, value=value: value[index]
      )
      for key, value in batch.items()
    }


def describe(mesh: Mesh) -> str:
  """Returns one line for logs, as "8 cpu devices as data=2 fsdp=2 model=2"."""
  shape = " ".join(f"{name}={size}" for name, size in mesh.shape.items())
  platform = mesh.devices.flat[0].platform
  count = math.prod(mesh.devices.shape)
  return f"{count} {platform} device{'s' * (count > 1)} as {shape}"
