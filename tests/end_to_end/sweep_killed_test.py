"""A sweep of three arms that is killed twice and finished, by the command."""

import json
import os
import pathlib
import subprocess
import sys
import time

import pytest

ROOT = pathlib.Path(__file__).parents[2]
ARMS = {
  "finetuning": {
    "MIXTURE_OR_TASK_NAME": "word_problems_finetune",
    "BATCH_SIZE": 4,
  },
  "step by step": {
    "MIXTURE_OR_TASK_NAME": "word_problems_distill",
    "BATCH_SIZE": 8,
  },
  "light": {
    "MIXTURE_OR_TASK_NAME": "word_problems_distill",
    "BATCH_SIZE": 8,
    "RATIONALE_LOSS_WEIGHT": 0.25,
  },
}


def start(folder, tmp_path):
  settings = {
    "MODEL_DIR": str(folder),
    "CACHE_DIR": str(tmp_path / "tokens"),
    "ARMS": ARMS,
    "SIZES": (20,),
    "SEEDS": (0,),
    "TITLE": "killed",
    "TRAIN_STEPS": 40,
    "EVAL_PERIOD": 20,
    "CHECKPOINT_PERIOD": 5,
    "TASK_FEATURE_LENGTHS": {"inputs": 64, "targets": 40},
    "WORD_PROBLEMS": {"num_validation_examples": 5, "num_test_examples": 5},
  }
  return subprocess.Popen(
    [
      *(sys.executable, "-m", "distill_jax.main", "--run_mode=sweep"),
      "--gin_file=gin/models/t5_1_1/tiny.gin",
      "--gin_file=gin/runs/sweep.gin",
      *(f"--gin.{name}={value!r}" for name, value in settings.items()),
    ],
    cwd=ROOT,
    env=os.environ
    | {
      "PYTHONPATH": str(ROOT),
      "JAX_COMPILATION_CACHE_DIR": str(tmp_path / "xla"),
    },
    stdout=subprocess.DEVNULL,
  )


def kill_when(process, path):
  """Kills a process when a file is there, in whatever it is then."""
  deadline = time.monotonic() + 300
  while not path.exists() and time.monotonic() < deadline:
    assert process.poll() is None
    time.sleep(0.05)
  process.kill()
  process.wait()


def read(folder):
  rows = json.loads((folder / "results.json").read_text())
  for row in rows:
    del row["seconds"]
    row["metrics"].pop("was_resumed", None)
  return rows


@pytest.mark.slow
@pytest.mark.tf
def test_killed_twice_and_finished_it_is_as_one_never_stopped(tmp_path):
  whole, folder = tmp_path / "whole", tmp_path / "out"
  assert start(whole, tmp_path).wait() == 0
  first = folder / "finetuning-20-seed0"
  second = folder / "step-by-step-20-seed0"
  kill_when(start(folder, tmp_path), first / "checkpoints" / "10")
  assert not (folder / "results.json").exists()
  kill_when(start(folder, tmp_path), second / "checkpoints" / "20")
  assert [row["arm"] for row in read(folder)] == ["finetuning"]
  assert (folder / "report.html").exists()
  done_at = (first / "result.json").stat().st_mtime_ns
  assert start(folder, tmp_path).wait() == 0
  assert (first / "result.json").stat().st_mtime_ns == done_at
  assert read(folder) == read(whole)
