"""Kills a training run again and again; it must end as if nothing happened.

  python scripts/kill_test.py --kills=100 --seed=0

One run of `distill_jax.main` goes through undisturbed. The same run, in another
folder, is killed with SIGKILL at times drawn from the seed and started again,
each time with the same command: while it starts, restores, trains or, most
often, saves, since it saves all the time. When it reaches its last step its
losses and its last checkpoint, optimizer state included, are compared bit for
bit with the undisturbed run, and it begins anew in another folder until all
kills are spent. Prints a JSON object; the exit code is 0 if all was equal.

Needs SeqIO once, to prepare made-up word problems.
"""

import argparse
import json
import os
import pathlib
import random
import signal
import subprocess
import sys
import tempfile
import time

# What a second run of the same steps does not repeat: the speed.
_NOT_COMPARED = ("examples_per_second", "tokens_per_second")
_POLL_SECONDS = 0.005
# Kills while the program starts, and how long it then goes on at most, in the
# time that starting takes; the others come so many seconds into training.
_STARTING_SHARE = 0.25
_MAX_TRAINING_SECONDS = 2.0
_TIMEOUT_SECONDS = 900.0
# Few tensors, so that much of the time is not spent in making their files.
_STUDENT = """
from __gin__ import dynamic_registration
from distill_jax.model.t5 import config
include 'gin/models/t5_1_1/tiny.gin'
config.T5Config:
  num_encoder_layers = 1
  num_decoder_layers = 1
"""


class KillTest:
  """The undisturbed run, and those that are killed."""

  def __init__(self, folder: pathlib.Path, train_steps: int, seed: int):
    """Draws nothing yet.

    Args:
      folder: for everything; empty.
      train_steps: of each run.
      seed: of the kills.
    """
    self._folder, self._train_steps = folder, train_steps
    self._random = random.Random(seed)
    self._starting_seconds = 1.0
    self.counts = {
      "kills": 0,
      "kills_while_starting": 0,
      "kills_while_saving": 0,
      "runs_compared": 0,
      "starts": 0,
    }

  def run(self, kills: int, max_seconds: float) -> list[str]:
    """Runs it all.

    Args:
      kills: how many.
      max_seconds: no more kills after so long; what was begun is ended.

    Returns:
      A line for each difference found; none is good.
    """
    self._finish(self._start("prepare", None))
    expected = self._folder / "undisturbed"
    started = time.monotonic()
    self._finish(self._start("train", expected))
    print(f"undisturbed: {time.monotonic() - started:.0f} s", file=sys.stderr)
    started, problems = time.monotonic(), []
    while self.counts["kills"] < kills:
      found = self._folder / f"killed-{self.counts['runs_compared']}"
      while self.counts["kills"] < kills:
        is_over = time.monotonic() - started > max_seconds
        if is_over or self._start_and_kill(found):
          break
      else:
        is_over = False
      self._finish(self._start("train", found))
      problems += compare_runs(found, expected, self._train_steps)
      self.counts["runs_compared"] += 1
      if is_over:
        break
    return problems

  def _start(self, run_mode, model_dir) -> subprocess.Popen:
    settings = {
      "MIXTURE_OR_TASK_NAME": "word_problems_distill",
      "CACHE_DIR": str(self._folder / "cache"),
      # Without validation examples nothing is evaluated.
      "SPLITS": ("train",),
      "WORD_PROBLEMS": {"num_train_examples": 50},
    }
    files = ["gin/runs/prepare.gin"]
    if run_mode == "train":
      (self._folder / "student.gin").write_text(_STUDENT)
      files = ["student.gin", "gin/runs/train_adamw.gin"]
      settings |= {
        "MODEL_DIR": str(model_dir),
        "TRAIN_STEPS": self._train_steps,
        "TASK_FEATURE_LENGTHS": {"inputs": 96, "targets": 96},
        "BATCH_SIZE": 4,
        "DROPOUT_RATE": 0.1,
        "LEARNING_RATE": 1e-3,
        "LOG_PERIOD": 1,
        "CHECKPOINT_PERIOD": 2,
      }
    self.counts["starts"] += run_mode == "train"
    environment = os.environ | {
      "JAX_PLATFORMS": "cpu",
      "JAX_COMPILATION_CACHE_DIR": str(self._folder / "xla"),
      "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
      # Compiled Python is kept, wherever the libraries lie.
      "PYTHONPYCACHEPREFIX": str(self._folder / "python"),
    }
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    with open(self._folder / "log.txt", "wb") as log:
      return subprocess.Popen(
        [
          sys.executable,
          "-m",
          "distill_jax.main",
          f"--run_mode={run_mode}",
          *(f"--gin_file={file}" for file in files),
          *(f"--gin.{name}={value!r}" for name, value in settings.items()),
        ],
        cwd=self._folder,
        env=environment,
        stdout=log,
        stderr=log,
      )

  def _finish(self, process: subprocess.Popen) -> None:
    """Lets a process end, which it must do well."""
    code = process.wait(timeout=_TIMEOUT_SECONDS)
    if code != 0:
      log = (self._folder / "log.txt").read_text(errors="replace")
      raise RuntimeError(f"ended with {code}:\n{log[-4000:]}")

  def _start_and_kill(self, model_dir: pathlib.Path) -> bool:
    """Starts a run and kills it; returns whether it had ended before."""
    is_starting = self._random.random() < _STARTING_SHARE
    share = self._random.random()
    num_files = _count_event_files(model_dir)
    unfinished = _list_unfinished(model_dir)
    started = time.monotonic()
    process = self._start("train", model_dir)
    if is_starting:
      deadline = started + share * self._starting_seconds
    else:
      # The last file opened before the first step, which writes a line.
      while (
        _count_event_files(model_dir) == num_files and process.poll() is None
      ):
        time.sleep(_POLL_SECONDS)
      num_bytes = _count_metric_bytes(model_dir)
      while (
        _count_metric_bytes(model_dir) <= num_bytes and process.poll() is None
      ):
        time.sleep(_POLL_SECONDS)
      self._starting_seconds = time.monotonic() - started
      deadline = time.monotonic() + share * _MAX_TRAINING_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
      time.sleep(_POLL_SECONDS)
    process.send_signal(signal.SIGKILL)
    if process.wait() != -signal.SIGKILL:
      self._finish(process)
      return True
    self.counts["kills"] += 1
    self.counts["kills_while_starting"] += is_starting
    # Those that were there before are of an earlier kill.
    self.counts["kills_while_saving"] += bool(
      _list_unfinished(model_dir) - unfinished
    )
    print(
      f"kill {self.counts['kills']}: {time.monotonic() - started:.1f} s,"
      f" step {_last_line(model_dir)}",
      file=sys.stderr,
    )
    return False


def _count_event_files(model_dir: pathlib.Path) -> int:
  return len(list(model_dir.glob("events.*")))


def _count_metric_bytes(model_dir: pathlib.Path) -> int:
  path = model_dir / "metrics.jsonl"
  return path.stat().st_size if path.exists() else 0


def _list_unfinished(model_dir: pathlib.Path) -> set[tuple[str, int]]:
  """Names the checkpoints that Orbax has not renamed yet, by inode too."""
  return {
    (path.name, path.stat().st_ino)
    for path in (model_dir / "checkpoints").glob("*.orbax-checkpoint-tmp*")
  }


def _last_line(model_dir: pathlib.Path) -> int:
  from distill_jax.run_folder import metric_files

  rows = metric_files.read_metrics(model_dir)
  return rows[-1]["step"] if rows else 0


def compare_runs(
  found: pathlib.Path, expected: pathlib.Path, train_steps: int
) -> list[str]:
  """Compares what two runs logged and saved last, bit for bit.

  Args:
    found: folder of a run.
    expected: folder of the other.
    train_steps: the last step of both.

  Returns:
    A line for each difference.
  """
  problems = []
  found_lines, expected_lines = _read_lines(found), _read_lines(expected)
  if sorted(expected_lines) != list(range(1, train_steps + 1)):
    problems.append(f"{expected} has not logged every step once")
  if found_lines != expected_lines:
    steps = sorted(
      step
      for step in found_lines.keys() | expected_lines.keys()
      if found_lines.get(step) != expected_lines.get(step)
    )
    problems.append(f"{found}: {len(steps)} lines differ, first {steps[:5]}")
  found_tree = _read_state(found, train_steps)
  expected_tree = _read_state(expected, train_steps)
  if found_tree.keys() != expected_tree.keys():
    problems.append(f"{found}: other tensors")
  for name in sorted(found_tree.keys() & expected_tree.keys()):
    if found_tree[name] != expected_tree[name]:
      problems.append(f"{found}: {name} differs")
  return problems


def _read_lines(model_dir: pathlib.Path) -> dict[int, list[dict]]:
  from distill_jax.run_folder import metric_files

  lines: dict[int, list[dict]] = {}
  for row in metric_files.read_metrics(model_dir):
    kept = {key: row[key] for key in row if key not in _NOT_COMPARED}
    lines.setdefault(row["step"], []).append(kept)
  return lines


def _read_state(model_dir: pathlib.Path, step: int) -> dict[str, bytes]:
  import jax
  import numpy as np
  import orbax.checkpoint as ocp

  path = model_dir / "checkpoints" / str(step) / "state"
  with ocp.PyTreeCheckpointer() as checkpointer:
    target = jax.tree.map(
      lambda _: ocp.RestoreArgs(restore_type=np.ndarray),
      checkpointer.metadata(path).item_metadata.tree,
    )
    tree = checkpointer.restore(path, restore_args=target)
  return {
    jax.tree_util.keystr(key): np.asarray(leaf).tobytes()
    for key, leaf in jax.tree_util.tree_leaves_with_path(tree)
  }


def main(arguments: list[str] | None = None) -> int:
  """Runs the test; returns the exit code."""
  parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
  parser.add_argument("--kills", type=int, default=100)
  parser.add_argument("--seed", type=int, default=0)
  parser.add_argument("--train_steps", type=int, default=200)
  parser.add_argument(
    "--max_seconds",
    type=float,
    default=float("inf"),
    help="No more kills after so long.",
  )
  parser.add_argument(
    "--folder", help="Where to work, and leave it; an empty or new folder."
  )
  flags = parser.parse_args(arguments)
  os.environ.setdefault("JAX_PLATFORMS", "cpu")
  with tempfile.TemporaryDirectory() as temporary:
    folder = pathlib.Path(flags.folder or temporary).absolute()
    folder.mkdir(parents=True, exist_ok=True)
    test = KillTest(folder, flags.train_steps, flags.seed)
    started = time.monotonic()
    problems = test.run(flags.kills, flags.max_seconds)
  result = {
    "seed": flags.seed,
    "train_steps": flags.train_steps,
    **test.counts,
    "seconds": round(time.monotonic() - started),
    "problems": problems,
  }
  print(json.dumps(result))
  return 1 if problems else 0


if __name__ == "__main__":
  sys.exit(main())
