"""Tests of scripts/kill_test.py."""

import json
import shutil

import pytest
from script_import import import_script
from tiny_run import (
  TRAIN_STEPS,
  fixture_model_dir,  # noqa: F401
  fixture_own_model_dir,  # noqa: F401
)

kill_test = import_script("kill_test")


def _compare(found, expected):
  return kill_test.compare_runs(found, expected, TRAIN_STEPS)


def test_a_run_is_equal_to_itself(model_dir, own_model_dir):
  assert _compare(own_model_dir, model_dir) == []


def test_a_line_that_differs_is_found(model_dir, own_model_dir):
  path = own_model_dir / "metrics.jsonl"
  first, second = path.read_text().splitlines()
  row = json.loads(second)
  path.write_text(
    first + "\n" + json.dumps(row | {"examples_per_second": 0}) + "\n"
  )
  assert _compare(own_model_dir, model_dir) == []
  # The next number that there is.
  row["loss"] *= 1 + 1e-15
  path.write_text(first + "\n" + json.dumps(row) + "\n")
  (problem,) = _compare(own_model_dir, model_dir)
  assert "1 lines differ, first [2]" in problem
  path.write_text(first + "\n" + second + "\n" + second + "\n")
  (problem,) = _compare(own_model_dir, model_dir)
  assert "1 lines differ, first [2]" in problem


def test_a_state_that_differs_is_found(model_dir, own_model_dir):
  checkpoints = own_model_dir / "checkpoints"
  earlier = model_dir / "checkpoints" / str(TRAIN_STEPS)
  shutil.rmtree(checkpoints / str(TRAIN_STEPS))
  shutil.copytree(earlier, checkpoints / str(TRAIN_STEPS))
  assert _compare(own_model_dir, model_dir) == []
  step = kill_test._read_state(own_model_dir, TRAIN_STEPS)
  assert int.from_bytes(step["['step']"], "little") == TRAIN_STEPS
  assert any("opt_state" in name for name in step)


@pytest.mark.slow
@pytest.mark.tf
def test_a_run_that_is_killed_ends_as_if_nothing_happened(capsys):
  pytest.importorskip("seqio")
  assert kill_test.main(["--kills=3", "--train_steps=40"]) == 0
  result = json.loads(capsys.readouterr().out)
  assert result["kills"] == 3
  assert result["problems"] == []
