"""Tests of given_records.py: objects in, a data set out, or what is wrong."""

import types

import numpy as np
import pytest

from distill_jax.data import datasets, given_records
from distill_jax.data.records import Record
from distill_jax.data.settings import DataSettings
from distill_jax.errors import UserError

_ROWS = [{"input": f"question {i}", "label": str(i)} for i in range(20)]


def _load(spec, split):
  given_records.register(spec)
  return datasets.load_records(spec.name, split, DataSettings())


def test_mappings_become_records():
  spec = given_records.make_dataset(_ROWS)
  train, validation = _load(spec, "train"), _load(spec, "validation")
  assert (len(train), len(validation)) == (18, 2)
  assert {record.input for record in [*train, *validation]} == {
    row["input"] for row in _ROWS
  }
  assert sorted(int(record.id) for record in [*train, *validation]) == [
    *range(20)
  ]
  assert spec.splits == ("train", "validation")


def test_splits_that_are_given_stay():
  spec = given_records.make_dataset(
    {
      "train": [Record("a", "one", "1", "so", weight=2.0)],
      "validation": _ROWS[:3],
      "test": _ROWS[3:5],
    },
    metric="equation",
    label_set=["1", "2"],
  )
  assert _load(spec, "train") == [Record("a", "one", "1", "so", weight=2.0)]
  assert [len(_load(spec, name)) for name in ("validation", "test")] == [3, 2]
  assert (spec.metric, spec.label_set) == ("equation", ("1", "2"))


def test_a_table_becomes_records():
  rows = [
    {
      "id": np.int64(7),
      "input": "one",
      "rationale": float("nan"),
      "weight": float("nan"),
    },
    {"id": 8, "input": "two", "rationale": "so", "weight": np.float32(0.5)},
  ]
  table = types.SimpleNamespace(to_dict=lambda orient: rows * (orient > ""))
  assert given_records.read_records(table, "data") == [
    Record("7", "one"),
    Record("8", "two", rationale="so", weight=0.5),
  ]


def test_the_name_tells_the_records():
  name = given_records.make_dataset(_ROWS).name
  again = given_records.make_dataset([dict(row) for row in _ROWS])
  assert again.name == name
  given_records.register(again)
  given_records.register(given_records.make_dataset(_ROWS))
  for others in (
    given_records.make_dataset(_ROWS[:-1]),
    given_records.make_dataset(_ROWS, label_set=["0"]),
    given_records.make_dataset(_ROWS, metric="equation"),
    given_records.make_dataset({"train": _ROWS, "test": _ROWS}),
  ):
    assert others.name != name


@pytest.mark.parametrize(
  "data, told",
  [
    ([], "data has no records to train on"),
    ({"test": _ROWS}, "data has no records to train on"),
    ({"dev": _ROWS}, "data has 'dev'; its splits are 'train', 'validation'"),
    ("svamp", r"data\['train'\] is 'svamp'; it must be a list of records"),
    (3, r"data\['train'\] is 3; it must be"),
    (
      {"train": {"input": "a"}},
      r"data\['train'\] is \{'input': 'a'\}; it must",
    ),
    ([3], r"data\['train'\]\[0\] is 3; it must be a Record or a mapping"),
    ([{"label": "1"}], r"data\['train'\]\[0\]:input: missing"),
    ([{"input": "a", "answer": "1"}], r"\[0\]:answer: unknown field"),
    ([{"input": "a", "label": 1}], r"\[0\]:label: 1 is not text or null"),
    ([{"id": "1", "input": "a"}] * 2, r"\[1\]:id: '1' is already the id"),
    ([{"input": "a", "meta": {"b": {1}}}], r"\[0\]:meta: .*set is not JSON"),
    ([{"input": "\ud800"}], "half a surrogate pair"),
    ([{"input": "a", "weight": float("inf")}], "weight: inf is not a number"),
  ],
)
def test_what_is_no_data(data, told):
  with pytest.raises(UserError, match=told):
    given_records.make_dataset(data)
