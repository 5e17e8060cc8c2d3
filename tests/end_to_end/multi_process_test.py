"""Two processes of four devices are one run: as one process of eight.

They run on this machine, over loopback, with gloo for their collectives. What
they add up in another order than one process differs in the last bits, so
losses are compared to 1e-6 between one process and two, and exactly between
two and two.
"""

import contextlib
import itertools
import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import time
from unittest import mock

import jax
import numpy as np
import pytest
import toy_run
from synthetic_cache import make_cache

from distill_jax.checkpoint import manager
from distill_jax.data import token_cache
from distill_jax.data.feed import batch as batch_lib
from distill_jax.data.feed import pipeline
from distill_jax.errors import UserError
from distill_jax.model.t5.t5 import T5
from distill_jax.partitioning import mesh as mesh_lib
from distill_jax.run_folder import metric_files
from distill_jax.runs import prepare, train
from distill_jax.training import state as state_lib

pytestmark = pytest.mark.slow

PROGRAM = pathlib.Path(__file__).parents[1] / "support" / "multi_process_run.py"
TRAIN_STEPS = 16
# Nothing is saved or evaluated at the steps where signals come.
EVAL_PERIOD = 8
LOST_SECONDS = 10
TIMEOUT_SECONDS = 300
DETERMINISTIC = (
  "loss",
  "label_loss",
  "rationale_loss",
  "gradient_norm",
  "label_tokens",
  "learning_rate",
  "padding_share",
  "label_accuracy",
)


@pytest.fixture(name="cache_folder", scope="module")
def fixture_cache_folder(tmp_path_factory):
  folder = tmp_path_factory.mktemp("cache")
  make_cache(folder, num_examples=24, splits=("train", "validation"))
  return folder


_started: list[subprocess.Popen] = []


@pytest.fixture(autouse=True, scope="module")
def fixture_nothing_is_left():
  """Ends what a test that failed has left behind."""
  yield
  for process in _started:
    process.kill()


class _Pair:
  """Two processes that run together."""

  def __init__(
    self,
    cache_folder,
    model_dir,
    train_steps=TRAIN_STEPS,
    step_seconds=0,
    full_disk_of=None,
    changes=None,
    broken_of=None,
    **told_other,
  ):
    """Starts them.

    Args:
      cache_folder: of the token cache.
      model_dir: of the run.
      train_steps: of the run.
      step_seconds: the least a step takes.
      full_disk_of: the process that has no room for checkpoints, if any.
      changes: of the settings of the run.
      broken_of: batches without a finite loss, by the process that makes them.
      **told_other: `cache` or `steps` of process 1, where they differ.
    """
    with socket.socket() as probe:
      probe.bind(("127.0.0.1", 0))
      port = probe.getsockname()[1]
    told = {"cache": cache_folder, "steps": train_steps}
    self.processes = [
      subprocess.Popen(
        [
          sys.executable,
          PROGRAM,
          own["cache"],
          model_dir,
          str(own["steps"]),
          "4",
          f"--coordinator_address=127.0.0.1:{port}",
          "--process_count=2",
          f"--process_index={index}",
          f"--lost_process_seconds={LOST_SECONDS}",
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ
        | {
          "JAX_COMPILATION_CACHE_DIR": str(cache_folder / "xla"),
          "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
          "STEP_SECONDS": str(step_seconds),
          "FULL_DISK": "1" if full_disk_of == index else "",
          "CHANGES": json.dumps(changes or {}),
          "BROKEN_BATCHES": json.dumps((broken_of or {}).get(index, [])),
        },
      )
      for index, own in enumerate((told, told | told_other))
    ]
    self.model_dir = model_dir
    _started.extend(self.processes)

  def wait_for_step(self, step):
    deadline = time.monotonic() + TIMEOUT_SECONDS
    while max(read_losses(self.model_dir), default=0) < step:
      ended = [process.poll() for process in self.processes]
      assert ended == [None, None], self.finish()
      assert time.monotonic() < deadline
      time.sleep(0.002)

  def finish(self):
    """Waits for both; returns their exit codes and what they said."""
    said = [
      process.communicate(timeout=TIMEOUT_SECONDS)[1]
      for process in self.processes
    ]
    return [process.returncode for process in self.processes], said


def run_here(cache_folder, model_dir, train_steps=TRAIN_STEPS, **changes):
  """Trains in this process, on its eight devices."""
  (path,) = token_cache.list_caches(cache_folder, "toy_distill")
  cache = token_cache.TokenCache(path)
  settings = toy_run.make_run(
    model_dir, train_steps, eval_period=EVAL_PERIOD, **changes
  )
  with mock.patch.object(prepare, "find_or_prepare", lambda *_: cache):
    train.run(settings, operative_config=f"TRAIN_STEPS = {TRAIN_STEPS}\n")


def read_losses(model_dir, split="train"):
  return {
    row["step"]: {name: row[name] for name in DETERMINISTIC if name in row}
    for row in metric_files.read_metrics(model_dir)
    if row["split"] == split
  }


def assert_close(found, expected):
  assert found.keys() == expected.keys()
  for key in expected:
    assert found[key] == pytest.approx(expected[key], rel=1e-6), key


@pytest.fixture(name="alone", scope="module")
def fixture_alone(cache_folder, tmp_path_factory):
  """One process, not interrupted."""
  model_dir = tmp_path_factory.mktemp("alone") / "run"
  run_here(cache_folder, model_dir)
  return model_dir


@pytest.fixture(name="together", scope="module")
def fixture_together(cache_folder, tmp_path_factory):
  """Two processes, not interrupted."""
  pair = _Pair(cache_folder, tmp_path_factory.mktemp("together") / "run")
  codes, said = pair.finish()
  assert codes == [0, 0], said
  # What is no warning is process 0's to say.
  assert "[process 0]" in said[0] and "[process 1]" not in said[1]
  assert "loss" in said[0] and "loss" not in said[1]
  return pair.model_dir


@pytest.fixture(name="interrupted", scope="module")
def fixture_interrupted(cache_folder, tmp_path_factory):
  """Two processes, one of which is told to stop; and the step they did at."""
  pair = _Pair(
    cache_folder,
    tmp_path_factory.mktemp("interrupted") / "run",
    step_seconds=0.3,
  )
  pair.wait_for_step(2)
  pair.processes[1].send_signal(signal.SIGTERM)
  codes, said = pair.finish()
  assert codes == [143, 143], said
  step = max(read_losses(pair.model_dir))
  assert 2 <= step < TRAIN_STEPS
  for text in said:
    assert f"SIGTERM: stopped after step {step} of {TRAIN_STEPS}" in text
    assert "Traceback" not in text
  return pair.model_dir, step


def copy(model_dir, tmp_path):
  return shutil.copytree(model_dir, tmp_path / "run")


def test_two_processes_are_as_one(alone, together):
  found, expected = read_losses(together), read_losses(alone)
  assert sorted(found) == list(range(1, TRAIN_STEPS + 1))
  assert_close(found, expected)
  for task in ("toy_label", "toy_rationale"):
    found, expected = (
      read_losses(folder, f"validation/{task}") for folder in (together, alone)
    )
    assert sorted(found) == [8, 16]
    assert_close(found, expected)


def test_what_is_written_is_written_once(alone, together):
  names = [
    sorted(path.name.partition(".1")[0] for path in folder.iterdir())
    for folder in (together, alone)
  ]
  assert names[0] == names[1]
  assert len(list(together.glob("events.*"))) == 1
  lines = (together / "metrics.jsonl").read_text().splitlines()
  assert len(lines) == len(set(lines))
  # Every file of a checkpoint that two have written has its sum.
  for folder in (together / "checkpoints").iterdir():
    sums = json.loads((folder / "checksums.json").read_text())["files"]
    files = {
      path.relative_to(folder).as_posix()
      for path in folder.rglob("*")
      if path.is_file()
    }
    assert set(sums) == files - {"checksums.json"}


def test_a_signal_to_one_stops_both_and_both_go_on(
  together, interrupted, cache_folder, tmp_path
):
  model_dir, step = copy(interrupted[0], tmp_path), interrupted[1]
  steps = [path.name for path in (model_dir / "checkpoints").iterdir()]
  assert max(map(int, steps)) == step
  codes, said = _Pair(cache_folder, model_dir).finish()
  assert codes == [0, 0], said
  assert f"Resuming from the checkpoint of step {step}" in said[0]
  assert read_losses(model_dir) == read_losses(together)
  # Not a step was made twice.
  assert not (model_dir / "metrics.superseded.jsonl").exists()


def test_a_signal_to_a_resumed_run_stops_it_after_a_step(
  interrupted, cache_folder, tmp_path
):
  model_dir, step = copy(interrupted[0], tmp_path), interrupted[1]
  pair = _Pair(cache_folder, model_dir, 10**4, step_seconds=0.3)
  # Before the first step is compiled.
  for line in pair.processes[0].stderr:
    if "A step begins." in line:
      break
  pair.processes[0].send_signal(signal.SIGTERM)
  codes, said = pair.finish()
  assert codes == [143, 143], said
  stopped = max(read_losses(model_dir))
  assert step < stopped < step + 200
  assert str(stopped) in os.listdir(model_dir / "checkpoints")


@pytest.mark.parametrize("index", [0, 1])
def test_a_full_disk_of_one_process_ends_both_at_once(
  cache_folder, tmp_path, index
):
  pair = _Pair(
    cache_folder, tmp_path / "run", 10**4, step_seconds=0.1, full_disk_of=index
  )
  codes, said = pair.finish()
  assert codes == [2, 2], said
  assert f"The disk of {tmp_path}/run/checkpoints is full" in said[index]
  assert (
    f"process {index} ({socket.gethostname()}) did: The disk"
    in (said[1 - index])
  )
  # Not at the next save, nor when Orbax has waited long enough.
  assert max(read_losses(pair.model_dir)) < 2 * EVAL_PERIOD
  saved = os.listdir(pair.model_dir / "checkpoints")
  assert not [name for name in saved if name.isdigit()]


@pytest.mark.parametrize(
  "mesh", [{"data": 8}, {"data": 2, "fsdp": 2, "model": 2}]
)
def test_one_process_goes_on_from_two(
  alone, interrupted, cache_folder, tmp_path, mesh
):
  model_dir = copy(interrupted[0], tmp_path)
  run_here(cache_folder, model_dir, mesh=mesh)
  assert_close(read_losses(model_dir), read_losses(alone))


def test_what_two_have_saved_one_device_reads(interrupted):
  """Bit for bit what eight devices read."""
  model_dir, step = interrupted
  settings = toy_run.make_run(model_dir, TRAIN_STEPS)
  states = []
  for devices in (jax.devices()[:1], jax.devices()):
    mesh = mesh_lib.make_mesh({"fsdp": len(devices)}, devices)
    abstract, shardings = state_lib.shard_state(
      T5(settings.model_config), settings.optimizer, mesh
    )
    with contextlib.closing(manager.Checkpoints(model_dir)) as checkpoints:
      state, _ = checkpoints.restore(
        step,
        jax.tree.map(
          lambda leaf, sharding: jax.ShapeDtypeStruct(
            leaf.shape, leaf.dtype, sharding=sharding
          ),
          abstract,
          shardings,
        ),
      )
    states.append(state)
  assert int(states[0].step) == step
  jax.tree.map(np.testing.assert_array_equal, *states)


def test_a_killed_process_is_named_and_ends_the_other(
  alone, cache_folder, tmp_path
):
  """They start from what one process has saved, on another mesh."""
  model_dir = tmp_path / "run"
  run_here(cache_folder, model_dir, 2, mesh={"fsdp": 4, "model": 2})
  pair = _Pair(cache_folder, model_dir, 10**6)
  pair.wait_for_step(5)
  pair.processes[1].send_signal(signal.SIGKILL)
  started = time.monotonic()
  codes, said = pair.finish()
  assert codes == [75, -signal.SIGKILL], said
  assert time.monotonic() - started < 12 * LOST_SECONDS
  told = f"process 1 ({socket.gethostname()}) sent no heartbeat for 10 seconds"
  assert told in said[0]
  assert "Traceback" not in said[0]
  found, expected = read_losses(model_dir), read_losses(alone)
  steps = range(1, min(max(found), TRAIN_STEPS) + 1)
  assert_close(
    {step: found[step] for step in steps},
    {step: expected[step] for step in steps},
  )
  assert manager.find_checkpoint(model_dir).name in ("2", *map(str, steps))


def test_a_killed_coordinator_ends_the_others(cache_folder, tmp_path):
  pair = _Pair(cache_folder, tmp_path / "run", 10**6)
  pair.wait_for_step(1)
  pair.processes[0].send_signal(signal.SIGKILL)
  codes, said = pair.finish()
  # JAX aborts the program at the same moment as we end it.
  assert codes[0] == -signal.SIGKILL
  assert codes[1] in (75, -signal.SIGABRT), said
  assert "process 0" in said[1] or "leader task" in said[1]


def test_other_settings_in_one_process_are_refused_by_both(
  cache_folder, tmp_path
):
  pair = _Pair(cache_folder, tmp_path / "run", 4, steps=5)
  codes, said = pair.finish()
  assert codes == [2, 2], said
  for text in said:
    assert "All processes must be given the same settings" in text
    assert "'TRAIN_STEPS = 4'" in text and "'TRAIN_STEPS = 5'" in text
    assert "Traceback" not in text
  assert not (tmp_path / "run").exists()


def test_data_changed_under_one_process_ends_both(cache_folder, tmp_path):
  own = tmp_path / "own"
  shutil.copytree(cache_folder, own, ignore=shutil.ignore_patterns("xla"))
  pair = _Pair(cache_folder, tmp_path / "run", cache=own)
  pair.wait_for_step(1)
  next(own.rglob("toy_label-train.array_record")).unlink()
  codes, said = pair.finish()
  assert codes == [2, 2], said
  assert "changed under the running job" in said[1]
  assert f"process 1 ({socket.gethostname()}) did: The token cache" in said[0]
  assert not [
    path
    for path in (tmp_path / "run" / "checkpoints").iterdir()
    if path.name.isdigit()
  ]


SHARDED = {"num_shards": 4}


@pytest.fixture(name="sharded_alone", scope="module")
def fixture_sharded_alone(cache_folder, tmp_path_factory):
  """One process makes all shards of the data."""
  model_dir = tmp_path_factory.mktemp("sharded_alone") / "run"
  run_here(cache_folder, model_dir, **SHARDED)
  return model_dir


def read_place(model_dir, step):
  path = model_dir / "checkpoints" / str(step) / "data_iterator" / "metadata"
  return json.loads(path.read_text())


def test_hosts_make_their_shards_of_the_data(
  sharded_alone, alone, cache_folder, tmp_path
):
  """Each half of them, of the batches that one process makes alone."""
  pair = _Pair(cache_folder, tmp_path / "run", changes=SHARDED)
  codes, said = pair.finish()
  assert codes == [0, 0], said
  assert "at most 2 of 4 shards by a process" in said[0]
  found, expected = read_losses(pair.model_dir), read_losses(sharded_alone)
  # Counts of padding are of all rows, and exact.
  assert [row["padding_share"] for row in found.values()] == [
    row["padding_share"] for row in expected.values()
  ]
  assert_close(found, expected)
  assert found[1] != pytest.approx(read_losses(alone)[1])
  for task in ("toy_label", "toy_rationale"):
    split = f"validation/{task}"
    assert_close(
      read_losses(pair.model_dir, split), read_losses(sharded_alone, split)
    )
  for step in (8, 16):
    place = read_place(pair.model_dir, step)
    assert place == read_place(sharded_alone, step)
    assert sorted(place["iterator"]["shards"]) == ["0", "1", "2", "3"]


def test_other_hosts_go_on_with_shards_of_the_data(
  sharded_alone, cache_folder, tmp_path
):
  """Two processes, stopped by a signal; then one; then two."""
  model_dir = tmp_path / "run"
  pair = _Pair(cache_folder, model_dir, step_seconds=0.3, changes=SHARDED)
  pair.wait_for_step(2)
  pair.processes[1].send_signal(signal.SIGTERM)
  codes, said = pair.finish()
  assert codes == [143, 143], said
  step = max(read_losses(model_dir))
  assert 2 <= step < 8
  run_here(cache_folder, model_dir, 8, **SHARDED)
  codes, said = _Pair(cache_folder, model_dir, changes=SHARDED).finish()
  assert codes == [0, 0], said
  assert "Resuming from the checkpoint of step 8" in said[0]
  assert_close(read_losses(model_dir), read_losses(sharded_alone))
  assert read_place(model_dir, 16) == read_place(sharded_alone, 16)
  # The number of shards is of the run, that of hosts is not.
  with pytest.raises(UserError, match="feed.num_shards: 4 before, 2 now"):
    run_here(cache_folder, model_dir, num_shards=2)


@pytest.mark.parametrize("log_period", [1, 5])
def test_a_broken_batch_is_kept_whole_wherever_it_was_made(
  cache_folder, tmp_path, log_period
):
  """Process 1 made the rows that break the loss, and process 0 writes them."""
  changes = SHARDED | {"log_period": log_period}
  pair = _Pair(
    cache_folder, tmp_path / "run", changes=changes, broken_of={1: [3, 4]}
  )
  codes, said = pair.finish()
  assert codes == [2, 2], said
  assert "gradient norm is nan at step 3" in said[0]
  assert "Traceback" not in said[0] + said[1]
  assert_is_whole(cache_folder, pair.model_dir, 3)
  assert sorted(os.listdir(pair.model_dir / "nonfinite")) == ["3.json", "3.npz"]
  saved = os.listdir(pair.model_dir / "checkpoints")
  assert not [name for name in saved if name.isdigit()]


def test_broken_batches_are_skipped_by_all(cache_folder, tmp_path):
  changes = SHARDED | {"on_nonfinite_loss": "skip", "log_period": 5}
  pair = _Pair(
    cache_folder,
    tmp_path / "run",
    changes=changes,
    broken_of={0: [2], 1: [4, 9]},
  )
  codes, said = pair.finish()
  assert codes == [0, 0], said
  rows = [
    row
    for row in metric_files.read_metrics(pair.model_dir)
    if row["split"] == "train"
  ]
  assert [row["skipped_steps"] for row in rows] == [2, 3, 3, 3]
  for step in (2, 4, 9):
    assert_is_whole(cache_folder, pair.model_dir, step)


def assert_is_whole(cache_folder, model_dir, step):
  """What is kept of a step is its batch, as one process makes it."""
  (path,) = token_cache.list_caches(cache_folder, "toy_distill")
  feed = toy_run.make_run(model_dir, 1, **SHARDED).feed
  iterator = pipeline.make_train_iterator(
    token_cache.TokenCache(path), feed, with_example_ids=True
  )
  *_, batch = itertools.islice(iterator, step)
  iterator.close()
  arrays, example_ids = batch_lib.split_example_ids(batch)
  record = json.loads((model_dir / "nonfinite" / f"{step}.json").read_text())
  assert record["example_ids"] == example_ids
  assert all(example_ids)
  with np.load(model_dir / "nonfinite" / f"{step}.npz") as found:
    assert set(found.files) == arrays.keys()
    for key, value in arrays.items():
      np.testing.assert_array_equal(found[key], value)
