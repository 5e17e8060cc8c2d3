"""Tests of experiments/results.py."""

import dataclasses
import json

import pytest

from distill_jax.errors import UserError
from distill_jax.experiments import results

RUN = results.RunResult(
  arm="distill",
  num_train_examples=100,
  seed=1,
  num_correct=1,
  num_examples=2,
  correct_by_id={"test-0": True, "test-1": False},
  seconds=12.5,
  metrics={"rouge_l": 41.5},
)


def test_results_come_back_as_written(tmp_path):
  rows = [RUN, dataclasses.replace(RUN, seed=2, correct_by_id={}, metrics={})]
  path = tmp_path / "new" / "results.json"
  results.write_results(path, rows)
  assert results.read_results(path) == rows
  assert [file.name for file in path.parent.iterdir()] == ["results.json"]


@pytest.mark.parametrize(
  "changes, message",
  [
    ({"num_train_examples": 0}, "num_train_examples is 0"),
    ({"num_correct": 3, "correct_by_id": {}}, "3 of 2 correct"),
    ({"num_correct": 0, "num_examples": 0, "correct_by_id": {}}, "0 of 0"),
    ({"num_correct": 2}, "correct_by_id says 1 of 2"),
    ({"num_examples": 3}, "the counts say 1 of 3"),
  ],
)
def test_contradictions_are_refused(changes, message):
  with pytest.raises(ValueError, match=message):
    dataclasses.replace(RUN, **changes)


@pytest.mark.parametrize(
  "text, message",
  [
    (None, "There are no results at"),
    ("[", "not a JSON file"),
    ("{}", "not a list of results"),
    ("[1]", "entry 0 is not a result"),
    ('[{"arm": "distill"}]', "entry 0 is not a result: .*seed"),
  ],
)
def test_unreadable_files_are_a_users_mistake(tmp_path, text, message):
  path = tmp_path / "results.json"
  if text is not None:
    path.write_text(text)
  with pytest.raises(UserError, match=message):
    results.read_results(path)


@pytest.mark.parametrize(
  "field, value",
  [("num_correct", "1"), ("correct_by_id", [1]), ("correct_by_id", {"a": "x"})],
)
def test_a_field_of_the_wrong_type_is_a_users_mistake(tmp_path, field, value):
  path = tmp_path / "results.json"
  entry = dataclasses.asdict(RUN) | {field: value}
  path.write_text(json.dumps([dataclasses.asdict(RUN), entry]))
  with pytest.raises(UserError, match="entry 1 is not a result"):
    results.read_results(path)


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
  path = tmp_path / "results.json"
  results.write_results(path, [RUN])

  def fail(*args):
    raise OSError("disk full")

  monkeypatch.setattr(results.os, "replace", fail)
  with pytest.raises(OSError, match="disk full"):
    results.write_results(path, [])
  assert results.read_results(path) == [RUN]
  assert [file.name for file in tmp_path.iterdir()] == ["results.json"]


def test_files_of_earlier_versions_call_the_arm_method(tmp_path):
  path = tmp_path / "results.json"
  entry = dataclasses.asdict(RUN)
  entry["method"] = entry.pop("arm")
  path.write_text(json.dumps([entry]))
  assert results.read_results(path) == [RUN]


def test_a_result_without_a_size_has_that_of_its_examples():
  row = dataclasses.replace(RUN, size=0)
  assert row.size == row.num_train_examples
