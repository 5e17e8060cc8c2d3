"""Global batches made in shards: a host packs only those it needs.

Of K shards each holds its Kth of the rows of every batch, in order, and is
packed from a stream of its own. So a batch depends on K, and not on how many
hosts make it, nor on which of them.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import grain
import numpy as np

from distill_jax.data.feed import batch as batch_lib

# Key of the state; below it the state of each shard by its number, as a string.
SHARDS = "shards"


def list_rows(
  shards: Iterable[int], num_shards: int, batch_rows: int
) -> np.ndarray:
  """Returns which rows of a batch some shards hold, [num_rows] int64.

  Args:
    shards: their numbers.
    num_shards: how many there are.
    batch_rows: rows of a batch, which divide by `num_shards`.
  """
  return np.arange(batch_rows).reshape(num_shards, -1)[sorted(shards)].ravel()


def list_made(holders: Sequence[Sequence[int]], process: int) -> list[int]:
  """Returns the shards that a process makes: those whose rows it holds.

  Args:
    holders: for each shard the processes whose devices hold its rows,
      ascending; see `partitioning.sharding.find_holders`.
    process: which one.
  """
  return [shard for shard, held in enumerate(holders) if process in held]


def list_told(holders: Sequence[Sequence[int]], process: int) -> list[int]:
  """Returns the shards that a process tells others of.

  Of those that make a shard the first one does, so that each is told once.

  Args:
    holders: see `list_made`.
    process: which one.
  """
  return [shard for shard, held in enumerate(holders) if held[0] == process]


class ShardsIterDataset(grain.IterDataset):
  """Puts the batches of some shards together, each at its rows."""

  def __init__(self, parents: Mapping[int, grain.IterDataset], num_shards: int):
    """Wraps data sets of batches.

    Args:
      parents: of the shards that are made here, by their numbers.
      num_shards: how many there are in all. The rows of those not made here are
        padding, and have no `EXAMPLE_IDS`.
    """
    super().__init__(list(parents.values()))
    self._numbers, self._num_shards = list(parents), num_shards

  def __iter__(self) -> grain.DatasetIterator:
    iterators = dict(zip(self._numbers, map(iter, self._parents), strict=True))
    return _ShardsIterator(iterators, self._num_shards)

  def __str__(self) -> str:
    return f"ShardsIterDataset({self._numbers} of {self._num_shards})"


class _ShardsIterator(grain.DatasetIterator):
  """Its state is that of each shard made here; others' are not its to know."""

  def __init__(
    self, shards: Mapping[int, grain.DatasetIterator], num_shards: int
  ):
    super().__init__(list(shards.values()))
    self._shards, self._num_shards = shards, num_shards

  def __next__(self) -> dict[str, Any]:
    made = {number: next(shard) for number, shard in self._shards.items()}
    return _join(made, self._num_shards)

  def get_state(self):
    return {
      SHARDS: {
        str(number): shard.get_state() for number, shard in self._shards.items()
      }
    }

  def set_state(self, state) -> None:
    for number, shard in self._shards.items():
      shard.set_state(state[SHARDS][str(number)])


def _join(
  made: Mapping[int, Mapping[str, Any]], num_shards: int
) -> dict[str, Any]:
  parts = {number: batch_lib.split_example_ids(b) for number, b in made.items()}
  arrays, example_ids = next(iter(parts.values()))
  num_rows = len(next(iter(arrays.values())))
  whole: dict[str, Any] = {
    key: np.zeros((num_shards * num_rows, *value.shape[1:]), value.dtype)
    for key, value in arrays.items()
  }
  if example_ids is not None:
    whole[batch_lib.EXAMPLE_IDS] = [[] for _ in range(num_shards * num_rows)]
  for number, (arrays, example_ids) in parts.items():
    rows = slice(number * num_rows, (number + 1) * num_rows)
    for key, value in arrays.items():
      whole[key][rows] = value
    if example_ids is not None:
      whole[batch_lib.EXAMPLE_IDS][rows] = example_ids
  return whole
