"""How sharding enters the model: an object it is given and calls.

The model names the axes of its activations (batch length embed heads kv mlp
vocab); which mesh axes they map to, if any, is for whoever builds the model.
"""

from collections.abc import Callable, Sequence
from typing import Any, Protocol, runtime_checkable

from jaxtyping import Array

# One logical name or None an axis.
AxisNames = tuple[str | None, ...]


@runtime_checkable
class ConstrainFn(Protocol):
  """What pins activations to a mesh by the names of their axes.

  Attributes:
    num_batch_shards: into how many parts the rows of a batch are divided.
  """

  num_batch_shards: int

  def __call__(self, x: Array, axis_names: AxisNames, /) -> Array:
    """Returns the same activation, sharded as its names say."""
    ...

  def map_shards(
    self,
    fn: Callable[..., Array],
    in_names: Sequence[AxisNames],
    out_names: AxisNames,
  ) -> Callable[..., Array]:
    """Makes a function run on every device's part by itself.

    For kernels, which the compiler cannot divide.

    Args:
      fn: of arrays; each part of its result needs the same parts of them.
      in_names: names of each argument's axes.
      out_names: of the result's.

    Returns:
      The function of whole arrays.
    """
    ...


def count_parts(num_rows: int, constrain_fn: ConstrainFn) -> int:
  """Counts the parts into which rows are divided.

  Args:
    num_rows: of the batch.
    constrain_fn: of the mesh.

  Returns:
    The mesh's parts; 1 of rows that they do not divide, as of the one row with
    which a model is initialised.
  """
  num_shards = constrain_fn.num_batch_shards
  return 1 if num_rows % num_shards else num_shards


class _LeaveFree:
  """Leaves it to the compiler."""

  num_batch_shards = 1

  def __call__(self, x: Array, axis_names: AxisNames, /) -> Array:
    del axis_names
    return x

  def map_shards(self, fn, in_names, out_names) -> Callable[..., Any]:
    del in_names, out_names
    return fn


leave_free: ConstrainFn = _LeaveFree()
