"""A split's tokens in memory, for training to draw from in any order.

An example's tokens are a slice of one array: reading a record of its own for
every step cost the host more time than packing it.
"""

import itertools
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np


class TokenRow(NamedTuple):
  """An example without its texts; as `token_cache.Example` names them.

  Attributes:
    id: the record's id.
    inputs: [input_length] int32, read-only.
    targets: [target_length] int32, read-only.
    weight: of its targets' tokens in the training loss.
  """

  id: str
  inputs: np.ndarray
  targets: np.ndarray
  weight: float


class TokenTable(Sequence[TokenRow]):
  """The rows of a split: 4 bytes a token and some 200 a row.

  While they are read, twice that.

  Attributes:
    ids: of every row.
  """

  def __init__(self, rows: Iterable[tuple[str, bytes, bytes, float]]):
    """Reads all rows.

    Args:
      rows: id, inputs and targets as little-endian int32, and weight.
    """
    ids, inputs, targets, weights = [], [], [], []
    for row_id, row_inputs, row_targets, weight in rows:
      ids.append(row_id)
      inputs.append(row_inputs)
      targets.append(row_targets)
      weights.append(weight)
    self.ids, self._weights = ids, weights
    self._inputs, self._targets = map(_join, (inputs, targets))
    self._input_ends, self._target_ends = map(_find_ends, (inputs, targets))

  def __len__(self) -> int:
    return len(self.ids)

  def __getitem__(self, index) -> TokenRow:
    if not 0 <= index < len(self.ids):
      raise IndexError(index)  # What ends iteration over a sequence.
    start, end = self._input_ends[index : index + 2]
    inputs = self._inputs[start:end]
    start, end = self._target_ends[index : index + 2]
    return TokenRow(
      self.ids[index], inputs, self._targets[start:end], self._weights[index]
    )


def _join(arrays: list[bytes]) -> np.ndarray:
  # Of bytes: nobody can write to it.
  return np.frombuffer(b"".join(arrays), "<i4").astype(np.int32, copy=False)


def _find_ends(arrays: list[bytes]) -> list[int]:
  """Returns where each ends, in tokens, after a 0."""
  return list(itertools.accumulate((len(a) // 4 for a in arrays), initial=0))
