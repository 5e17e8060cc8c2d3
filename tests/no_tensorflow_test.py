"""A host without TensorFlow and SeqIO trains, evaluates and predicts."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

_PROGRAM = pathlib.Path(__file__).with_name("support") / "without_tensorflow.py"


@pytest.fixture(name="run", scope="module")
def fixture_run(tmp_path_factory):
  """Runs the program once; returns its folder and what it printed."""
  folder = tmp_path_factory.mktemp("without_tensorflow")
  process = subprocess.run(
    [sys.executable, _PROGRAM, folder],
    cwd=folder,
    env=os.environ
    | {
      "HOME": str(folder),
      "JAX_COMPILATION_CACHE_DIR": str(folder / "xla"),
      "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    },
    capture_output=True,
    text=True,
    timeout=300,
  )
  assert process.returncode == 0, process.stderr
  return folder, process


def _read_lines(path):
  return [json.loads(line) for line in path.read_text().splitlines()]


def test_training(run):
  folder, process = run
  lines = _read_lines(folder / "run" / "metrics.jsonl")
  assert [(line["step"], line["split"]) for line in lines] == [
    (2, "train"),
    (2, "validation/word_problems_label"),
    (2, "validation/word_problems_rationale"),
  ]
  assert lines[0]["label_loss"] > 0 < lines[0]["rationale_loss"]
  # Its own config.gin, by itself, is the same run.
  assert "Step 2 is reached already" in process.stderr


def test_evaluation(run):
  folder, process = run
  results = folder / "run" / "eval" / "word_problems_label" / "test" / "2"
  results /= "greedy"
  assert json.loads((results / "metrics.json").read_text())["num_examples"] == 3
  assert len(_read_lines(results / "predictions.jsonl")) == 3
  assert "word_problems_rationale/test at step 2" in process.stdout


def test_prediction(run):
  folder, _ = run
  rows = _read_lines(folder / "predictions.jsonl")
  assert [row["input"] for row in rows] == ["ava has 12 apples .", "and ben ?"]
  assert all("prediction" in row for row in rows)
  assert all("predicted_rationale" in row for row in rows)
