"""Tests of aot.batch_search."""

import math

from hypothesis import given
from hypothesis import strategies as st

from distill_jax.aot import batch_search


def _search(limit, unit, fixed=0, per_row=1):
  """Searches memory of fixed + rows * per_row; returns result and calls."""
  asked = []

  def fits(rows):
    asked.append(rows)
    return fixed + rows * per_row <= limit

  return batch_search.find_largest(fits, unit), asked


@given(
  limit=st.integers(0, 10_000),
  unit=st.integers(1, 64),
  fixed=st.integers(0, 2000),
  per_row=st.integers(1, 9),
)
def test_nothing_larger_fits(limit, unit, fixed, per_row):
  found, asked = _search(limit, unit, fixed, per_row)
  if found is None:
    assert fixed + unit * per_row > limit
  else:
    assert found % unit == 0
    assert fixed + found * per_row <= limit
    assert fixed + (found + unit) * per_row > limit
  assert len(asked) == len(set(asked))
  assert len(asked) <= 2 * math.log2((found or unit) / unit) + 2
  assert all(rows % unit == 0 for rows in asked)


@given(st.integers(0, 5000), st.integers(0, 5000))
def test_more_memory_never_means_a_smaller_batch(first, second):
  small, large = sorted((first, second))
  results = [_search(limit, 8)[0] or 0 for limit in (small, large)]
  assert results[0] <= results[1]


def test_without_a_limit_it_ends():
  assert batch_search.find_largest(lambda rows: True, 4) == 4 * 2**20
