"""Which examples are evaluated together, and in arrays of which shape.

Every shape is compiled once, so there must be few; and a short example costs as
much as the longest beside it, so it should be short. Both hold if examples are
taken by length and shapes are halves of the largest.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

NUM_BUCKETS = 4
# Lengths are a multiple of so many tokens, as vector units are.
_LENGTH_STEP = 8


class PlannedBatch(NamedTuple):
  """One batch of an evaluation.

  Attributes:
    indices: of its examples among all.
    rows: of its arrays, at least as many.
    length: of its rows, at least that of its longest example.
  """

  indices: list[int]
  rows: int
  length: int


def round_up(
  size: int, largest: int, step: int = 1, num_buckets: int = NUM_BUCKETS
) -> int:
  """Returns the smallest bucket that holds `size`.

  Args:
    size: at most `largest`.
    largest: the last bucket; the others are a half, a quarter and an eighth of
      it.
    step: all buckets but the last are a multiple of it.
    num_buckets: at most; four are those above.
  """
  for halvings in reversed(range(1, num_buckets)):
    bucket = -(-largest // (step * 2**halvings)) * step
    if size <= bucket < largest:
      return bucket
  return largest


def round_up_length(length: int, longest: int) -> int:
  """As `round_up`, for numbers of tokens."""
  return round_up(length, longest, _LENGTH_STEP)


def plan_batches(
  lengths: Sequence[int],
  longest: int,
  batch_rows: int,
  row_step: int,
  num_row_buckets: int = NUM_BUCKETS,
) -> list[PlannedBatch]:
  """Groups examples by length, the longest first.

  Args:
    lengths: tokens of each example, `longest` at most.
    longest: tokens of the longest rows there may be.
    batch_rows: examples a batch, fewer only in the last; a multiple of
      `row_step`.
    row_step: rows of every batch are a multiple of it.
    num_row_buckets: numbers of rows that the last batch may have, at most.

  Returns:
    Batches that hold each example once. They have four lengths at most, and
    all but the last have `batch_rows` rows.
  """
  # What does not fit in memory shows at once, and a last batch that is not
  # full is cheap. Stable: equal lengths stay in order.
  order = np.argsort(-np.asarray(lengths, np.int64), kind="stable").tolist()
  batches = []
  for start in range(0, len(order), batch_rows):
    indices = order[start : start + batch_rows]
    batches.append(
      PlannedBatch(
        indices,
        round_up(len(indices), batch_rows, row_step, num_row_buckets),
        round_up_length(lengths[indices[0]], longest),
      )
    )
  return batches
