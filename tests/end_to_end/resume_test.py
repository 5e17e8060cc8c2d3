"""Killed and restarted equals not killed; the same twice is the same."""

import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest
from synthetic_cache import make_cache

from distill_jax.checkpoint import manager
from distill_jax.run_folder import metric_files

PROGRAM = pathlib.Path(__file__).parents[1] / "support" / "toy_run.py"
TRAIN_STEPS = 24
DETERMINISTIC = (
  "loss",
  "label_loss",
  "rationale_loss",
  "gradient_norm",
  "label_tokens",
  "learning_rate",
  "padding_share",
)


@pytest.fixture(scope="module")
def cache_folder(tmp_path_factory):
  folder = tmp_path_factory.mktemp("cache")
  make_cache(folder, num_examples=24, splits=("train", "validation"))
  return folder


def start(cache_folder, model_dir):
  return subprocess.Popen(
    [sys.executable, PROGRAM, cache_folder, model_dir, str(TRAIN_STEPS)],
    stdout=subprocess.DEVNULL,
    stderr=subprocess.PIPE,
    env=os.environ
    | {
      "JAX_COMPILATION_CACHE_DIR": str(cache_folder / "xla"),
      "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    },
  )


def finish(process):
  _, errors = process.communicate(timeout=240)
  assert process.returncode == 0, errors.decode()


def read_losses(model_dir):
  return {
    row["step"]: tuple(row[name] for name in DETERMINISTIC)
    for row in metric_files.read_metrics(model_dir)
    if row["split"] == "train"
  }


@pytest.fixture(scope="module")
def uninterrupted(cache_folder, tmp_path_factory):
  model_dir = tmp_path_factory.mktemp("uninterrupted") / "run"
  finish(start(cache_folder, model_dir))
  return model_dir


def test_losses_fall(uninterrupted):
  losses = read_losses(uninterrupted)
  assert sorted(losses) == list(range(1, TRAIN_STEPS + 1))
  assert losses[TRAIN_STEPS][0] < 0.8 * losses[1][0]


def test_the_same_settings_give_the_same_losses(
  uninterrupted, cache_folder, tmp_path
):
  finish(start(cache_folder, tmp_path / "run"))
  assert read_losses(tmp_path / "run") == read_losses(uninterrupted)


@pytest.mark.parametrize("kill_after_step", [5, 15])
def test_killed_and_restarted_equals_uninterrupted(
  uninterrupted, cache_folder, tmp_path, kill_after_step
):
  model_dir = tmp_path / "run"
  process = start(cache_folder, model_dir)
  wait_for_step(process, model_dir, kill_after_step)
  process.send_signal(signal.SIGKILL)
  process.wait()
  process.stderr.close()
  assert max(read_losses(model_dir)) < TRAIN_STEPS
  finish(start(cache_folder, model_dir))
  assert_same_run(model_dir, uninterrupted)


@pytest.mark.parametrize(
  "number,code", [(signal.SIGTERM, 143), (signal.SIGINT, 130)]
)
def test_a_signal_saves_the_step_and_the_run_goes_on_from_it(
  uninterrupted, cache_folder, tmp_path, number, code
):
  model_dir = tmp_path / "run"
  process = start(cache_folder, model_dir)
  # Evaluations and checkpoints come every 8 steps, and not here.
  wait_for_step(process, model_dir, 10)
  process.send_signal(number)
  _, errors = process.communicate(timeout=120)
  assert process.returncode == code, errors.decode()
  last_step = max(read_losses(model_dir))
  assert last_step < TRAIN_STEPS
  told = f"{signal.Signals(number).name}: stopped after step {last_step} of 24"
  assert told in errors.decode()
  assert "Traceback" not in errors.decode()
  path = manager.find_checkpoint(model_dir / "checkpoints" / str(last_step))
  assert path.name == str(last_step)
  finish(start(cache_folder, model_dir))
  assert_same_run(model_dir, uninterrupted)
  # Not a step was made twice.
  assert not (model_dir / "metrics.superseded.jsonl").exists()


def wait_for_step(process, model_dir, step):
  deadline = time.monotonic() + 120
  while max(read_losses(model_dir), default=0) < step:
    assert process.poll() is None, process.stderr.read().decode()
    assert time.monotonic() < deadline
    time.sleep(0.002)


def assert_same_run(model_dir, uninterrupted):
  assert read_losses(model_dir) == read_losses(uninterrupted)
  found = manager.Checkpoints(model_dir)
  expected = manager.Checkpoints(uninterrupted)
  assert found.latest_step == expected.latest_step == TRAIN_STEPS
  assert found.best_step == expected.best_step
  found.close()
  expected.close()
