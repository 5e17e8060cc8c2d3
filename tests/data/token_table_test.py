"""Tests of distill_jax/data/token_table.py."""

import numpy as np
import pytest

from distill_jax.data.token_table import TokenTable

_ROWS = [
  ("a", [5, 6, 7], [1], 1.0),
  ("b", [], [8, 1], 0.5),
  ("c", [9], [], 2.0),
]


@pytest.fixture(name="table")
def fixture_table():
  def to_bytes(tokens):
    return np.array(tokens, "<i4").tobytes()

  return TokenTable(
    (name, to_bytes(inputs), to_bytes(targets), weight)
    for name, inputs, targets, weight in _ROWS
  )


def test_rows_are_as_given(table):
  read = [
    (row.id, row.inputs.tolist(), row.targets.tolist(), row.weight)
    for row in table
  ]
  assert read == _ROWS
  assert table.ids == ["a", "b", "c"]
  assert len(table) == 3
  assert table[0].inputs.dtype == np.int32


@pytest.mark.parametrize("index", [-1, 3])
def test_there_is_no_other_row(table, index):
  with pytest.raises(IndexError):
    table[index]


def test_nobody_writes_into_it(table):
  with pytest.raises(ValueError, match="read-only"):
    table[0].inputs[0] = 1


def test_an_empty_table():
  assert not list(TokenTable([]))
