"""Checkpoints: what is kept, what is best, what survives, what fits."""

import contextlib
import errno
import logging
import os
import pathlib
import signal
import subprocess
import sys
import threading
import time

import jax
import numpy as np
import pytest
import tiny_student

from distill_jax.checkpoint import checksums, damage, manager, shape_check
from distill_jax.errors import UserError
from distill_jax.training import state as state_lib


def make_state(step, width=3):
  """A state that takes no time to make; its numbers tell its step."""
  kernel = np.arange(4 * width, dtype=np.float32).reshape(4, width) + step
  return state_lib.TrainState(
    step=np.int32(step),
    params={"mlp": {"kernel": jax.device_put(kernel)}},
    opt_state=(jax.device_put(kernel**2),),
  )


@contextlib.contextmanager
def open_run(folder, **kwargs):
  with contextlib.closing(manager.Checkpoints(folder, **kwargs)) as checkpoints:
    yield checkpoints


def save_steps(folder, metrics_by_step, **kwargs):
  """Saves small states; a number is short for that label accuracy."""
  with open_run(folder, **kwargs) as checkpoints:
    for step, metrics in metrics_by_step.items():
      if isinstance(metrics, float):
        metrics = {"label_accuracy": metrics, "loss": 1.0}
      checkpoints.save(step, make_state(step), {"position": step}, metrics)


def list_steps(folder):
  names = [path.name for path in (folder / manager.FOLDER).iterdir()]
  return sorted(int(name) for name in names if name.isdigit())


def to_abstract(state, shardings=None):
  if shardings is None:
    shardings = jax.tree.map(lambda _: jax.devices()[0], state)
    shardings = jax.tree.map(jax.sharding.SingleDeviceSharding, shardings)
  return jax.tree.map(
    lambda leaf, sharding: jax.ShapeDtypeStruct(
      leaf.shape, leaf.dtype, sharding=sharding
    ),
    state,
    shardings,
  )


def assert_trees_equal(found, expected):
  assert jax.tree.structure(found) == jax.tree.structure(expected)
  jax.tree.map(np.testing.assert_array_equal, found, expected)


def test_continuing_from_a_checkpoint_is_bitwise_the_same(tmp_path):
  batches = tiny_student.make_batches(4)
  whole = tiny_student.start("adamw")
  expected = whole.take_steps(batches)

  before = tiny_student.start("adamw")
  before.take_steps(batches[:2])
  with open_run(tmp_path) as checkpoints:
    checkpoints.save(2, before.state, {"position": [1, "two"]}, None)
    # The next step is given these arrays while they are written.
    before.take_steps(batches[2:3])
  after = tiny_student.start("adamw")
  with open_run(tmp_path) as checkpoints:
    after.state, data_iterator_state = checkpoints.restore(
      2, to_abstract(after.state, after.shardings)
    )
  assert data_iterator_state == {"position": [1, "two"]}
  assert_trees_equal(after.take_steps(batches[2:]), expected[2:])
  assert_trees_equal(after.state, whole.state)


@pytest.mark.parametrize("optimizer", ["adamw", "adafactor"])
def test_a_state_is_restored_onto_another_mesh(tmp_path, optimizer):
  one = tiny_student.start(optimizer)
  many = tiny_student.start(optimizer, {"data": 2, "fsdp": 2, "model": 2})
  with open_run(tmp_path) as checkpoints:
    checkpoints.save(1, one.state, {}, None)
  target = to_abstract(many.state, many.shardings)
  with open_run(tmp_path) as checkpoints:
    restored, _ = checkpoints.restore(1, target)
  assert_trees_equal(restored, one.state)

  def check_sharding(leaf, sharding):
    assert leaf.sharding == sharding

  jax.tree.map(check_sharding, restored, many.shardings)


def test_the_newest_and_the_best_are_kept(tmp_path):
  metrics = {1: 0.1, 2: 0.9, 3: 0.2, 4: 0.3, 5: 0.4}
  save_steps(tmp_path, metrics, keep_last=2)
  assert list_steps(tmp_path) == [2, 4, 5]
  with open_run(tmp_path) as checkpoints:
    assert checkpoints.latest_step == 5
    assert checkpoints.best_step == 2
    for step in (2, 4, 5):
      state, data_iterator_state = checkpoints.restore(
        step, to_abstract(make_state(0))
      )
      assert_trees_equal(state, make_state(step))
      assert data_iterator_state == {"position": step}


def test_without_the_metric_no_checkpoint_is_best(tmp_path):
  save_steps(
    tmp_path, {1: 0.0, 2: None, 3: {"loss": 9.0}, 4: None}, keep_last=1
  )
  assert list_steps(tmp_path) == [1, 4]
  with open_run(tmp_path) as checkpoints:
    assert checkpoints.best_step == 1
  save_steps(tmp_path / "b", {1: None, 2: {"loss": 9.0}})
  with open_run(tmp_path / "b") as checkpoints:
    assert checkpoints.latest_step == 2
    assert checkpoints.best_step is None


def test_another_metric_may_decide(tmp_path):
  metrics = {1: {"rouge_l": 7.0}, 2: {"rouge_l": 9.0}, 3: {"rouge_l": 8.0}}
  save_steps(tmp_path, metrics, best_metric="rouge_l", keep_last=1)
  assert list_steps(tmp_path) == [2, 3]
  # Asked for the metric that it lacks, a run still has checkpoints.
  assert manager.find_checkpoint(tmp_path).name in ("2", "3")


def test_a_new_run_has_no_checkpoint(tmp_path):
  with open_run(tmp_path) as checkpoints:
    assert checkpoints.latest_step is None
    assert checkpoints.best_step is None


def test_what_a_users_path_means(tmp_path):
  best, newest = tmp_path / "evaluated", tmp_path / "not_evaluated"
  save_steps(best, {1: 0.1, 2: 0.9, 3: 0.2})
  save_steps(newest, {1: None, 12: None})
  folder = best / "checkpoints"
  assert manager.find_checkpoint(best) == folder / "2"
  assert manager.find_checkpoint(str(folder)) == folder / "2"
  assert manager.find_checkpoint(folder / "3") == folder / "3"
  assert manager.find_checkpoint(newest) == newest / "checkpoints" / "12"


@pytest.mark.parametrize(
  "folder", ["", "checkpoints", "checkpoints/1.orbax-checkpoint-tmp"]
)
def test_no_checkpoint_at_a_path(tmp_path, folder):
  (tmp_path / folder).mkdir(parents=True, exist_ok=True)
  with pytest.raises(UserError, match=f"no checkpoint at {tmp_path}"):
    manager.find_checkpoint(tmp_path)
  missing = tmp_path / "missing"
  with pytest.raises(UserError, match=f"no checkpoint at {missing}"):
    manager.find_checkpoint(missing)
  assert not missing.exists()


def test_an_unfinished_newest_checkpoint_is_ignored(tmp_path):
  """Orbax writes aside and renames; a killed run leaves the other name."""
  save_steps(tmp_path, {1: None, 2: None})
  folder = tmp_path / "checkpoints"
  (folder / "2").rename(folder / "2.orbax-checkpoint-tmp")
  assert manager.find_checkpoint(tmp_path) == folder / "1"
  save_steps(tmp_path, {2: None})
  assert list_steps(tmp_path) == [1, 2]
  with open_run(tmp_path) as checkpoints:
    state, _ = checkpoints.restore(2, to_abstract(make_state(0)))
  assert_trees_equal(state, make_state(2))


@pytest.mark.parametrize(
  "error",
  [
    OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)),
    # What TensorStore raised on a full tmpfs.
    ValueError(
      "RESOURCE_EXHAUSTED: Error writing 'opt_state': Failed to write 296039"
      " bytes to file 8: No space left on device [os_error_code='28']"
    ),
  ],
  ids=["os", "tensorstore"],
)
def test_a_full_disk_leaves_earlier_checkpoints_intact(
  tmp_path, monkeypatch, error, caplog
):
  save_steps(tmp_path, {1: None}, keep_last=1)

  def fail(*args, **kwargs):
    raise error

  checkpoints = manager.Checkpoints(tmp_path, keep_last=1)
  with monkeypatch.context() as patch:
    patch.setattr(os, "rename", fail)
    with pytest.raises(UserError, match="disk of .*checkpoints is full"):
      checkpoints.save(2, make_state(2), {}, None)
      for _ in range(200):
        checkpoints.raise_if_failed()
        time.sleep(0.01)
  checkpoints.close()
  # Orbax's traces of the same error would bury our message.
  assert [record for record in caplog.records if record.exc_info] == []
  assert list_steps(tmp_path) == [1]
  with open_run(tmp_path, keep_last=1) as checkpoints:
    assert checkpoints.latest_step == 1
    state, _ = checkpoints.restore(1, to_abstract(make_state(0)))
  assert_trees_equal(state, make_state(1))
  # With room again the same step is saved, over what was left half written.
  save_steps(tmp_path, {2: None}, keep_last=1)
  assert list_steps(tmp_path) == [2]


def test_other_errors_are_not_taken_for_a_full_disk(
  tmp_path, monkeypatch, caplog
):
  def fail(*args, **kwargs):
    raise PermissionError(errno.EACCES, "no")

  checkpoints = manager.Checkpoints(tmp_path)
  with monkeypatch.context() as patch:
    patch.setattr(os, "rename", fail)
    with pytest.raises(Exception) as caught:
      checkpoints.save(1, make_state(1), {}, None)
      checkpoints.wait()
  assert not isinstance(caught.value, UserError)
  assert any(record.exc_info for record in caplog.records)


def test_another_optimizer_is_refused(tmp_path):
  save_steps(tmp_path, {1: None})
  other = make_state(0).replace(opt_state={"mu": np.zeros(3, np.float32)})
  with (
    open_run(tmp_path) as checkpoints,
    pytest.raises(UserError, match=r"opt_state/mu: checkpoint has nothing"),
  ):
    checkpoints.restore(1, to_abstract(other))


def test_damaged_metrics_name_their_checkpoint(tmp_path):
  save_steps(tmp_path, {9: 0.1, 10: 0.2})
  (tmp_path / "checkpoints" / "10" / "metrics" / "metrics").write_text("")
  with pytest.raises(
    UserError, match="checkpoints/10 cannot .* from step 9[.]"
  ):
    manager.Checkpoints(tmp_path)


@pytest.mark.parametrize("lost", ["emptied", "gone"])
@pytest.mark.parametrize(
  "pattern",
  [
    "state/**/_METADATA",
    "state/**/manifest.ocdbt",
    "data_iterator/*",
    "**/d/*",
  ],
)
def test_a_damaged_newest_checkpoint_names_the_one_before(
  tmp_path, pattern, lost
):
  save_steps(tmp_path, {9: None, 10: None})
  damaged = [
    path
    for path in (tmp_path / "checkpoints" / "10").glob(pattern)
    if path.is_file()
  ]
  assert damaged
  for path in damaged:
    path.write_bytes(b"") if lost == "emptied" else path.unlink()
  with (
    open_run(tmp_path) as checkpoints,
    pytest.raises(
      UserError,
      match="checkpoints/10 cannot be read .* move that folder .* step 9[.]",
    ),
  ):
    checkpoints.restore(10, to_abstract(make_state(0)))


def restore_newest(folder):
  """Resumes as a run does; returns the step, the damaged, what is left."""
  with open_run(folder, may_set_aside=True) as checkpoints:
    step, state, data_iterator_state = checkpoints.restore_newest(
      to_abstract(make_state(0))
    )
  assert_trees_equal(state, make_state(step))
  assert data_iterator_state == {"position": step}
  names = [path.name for path in (folder / manager.FOLDER).iterdir()]
  return step, sorted(name for name in names if "damaged" in name)


def list_files(folder):
  return sorted(
    path.relative_to(folder) for path in folder.rglob("*") if path.is_file()
  )


def test_every_file_of_a_checkpoint_has_a_checksum(tmp_path):
  save_steps(tmp_path, {1: 0.5, 2: None})
  for step in (1, 2):
    folder = tmp_path / "checkpoints" / str(step)
    names = {str(name) for name in list_files(folder)}
    sums = checksums._read(folder / checksums.MANIFEST)
    assert set(sums) == names - {checksums.MANIFEST}
    assert {"_CHECKPOINT_METADATA", "state/_METADATA"} < set(sums)
  assert restore_newest(tmp_path) == (2, [])


def test_checksums_are_there_before_the_folder_has_its_name(
  tmp_path, monkeypatch
):
  found, rename = [], os.rename

  def note(source, target):
    path = tmp_path / "checkpoints" / os.path.basename(target)
    if os.fspath(target) == str(path):
      manifest = pathlib.Path(source) / checksums.MANIFEST
      found.append(set(checksums._read(manifest)))
    rename(source, target)

  monkeypatch.setattr(os, "rename", note)
  save_steps(tmp_path, {1: None})
  (names,) = found
  assert "state/_METADATA" in names
  assert any(name.startswith("state/d/") for name in names)


def test_one_flipped_byte_anywhere_falls_back_loudly(tmp_path, caplog):
  """Each file of the newest in turn; nothing is deleted."""
  save_steps(tmp_path, {9: 0.1, 10: 0.2})
  folder = tmp_path / "checkpoints"
  files = list_files(folder / "10")
  assert len(files) > 8
  for file in files:
    path = folder / "10" / file
    content = path.read_bytes()
    assert content
    place = len(content) // 2
    flip = bytes([content[place] ^ 1])
    path.write_bytes(content[:place] + flip + content[place + 1 :])
    with capture_log(caplog):
      assert restore_newest(tmp_path) == (9, ["damaged-10"]), file
    assert "checkpoints/10 cannot be read as a checkpoint" in caplog.text
    assert f"kept as {folder}/damaged-10" in caplog.text
    assert list_files(folder / "damaged-10") == files
    path = folder / "damaged-10" / file
    path.write_bytes(content)
    (folder / "damaged-10").rename(folder / "10")
  assert restore_newest(tmp_path) == (10, [])


@contextlib.contextmanager
def capture_log(caplog):
  caplog.clear()
  logger = logging.getLogger("distill_jax")
  before, logger.propagate = logger.propagate, True
  with caplog.at_level("INFO", "distill_jax"):
    yield
  logger.propagate = before


@pytest.mark.parametrize("lost", ["emptied", "gone"])
@pytest.mark.parametrize("has_checksums", [True, False])
def test_without_checksums_what_cannot_be_read_is_damaged(
  tmp_path, lost, has_checksums, caplog
):
  save_steps(tmp_path, {9: None, 10: None})
  damaged = tmp_path / "checkpoints" / "10"
  if not has_checksums:
    (damaged / checksums.MANIFEST).unlink()
    with capture_log(caplog):
      assert restore_newest(tmp_path) == (10, [])
    assert "10 has no checksums" in caplog.text
  for path in (damaged / "data_iterator").iterdir():
    path.write_bytes(b"") if lost == "emptied" else path.unlink()
  assert restore_newest(tmp_path) == (9, ["damaged-10"])


def test_the_step_of_a_damaged_checkpoint_is_saved_again(tmp_path):
  save_steps(tmp_path, {9: 0.1, 10: 0.9})
  for expected in (["damaged-10"], ["damaged-10", "damaged-10-2"]):
    (tmp_path / "checkpoints" / "10" / "state" / "_METADATA").unlink()
    with open_run(tmp_path, may_set_aside=True) as checkpoints:
      step, *_ = checkpoints.restore_newest(to_abstract(make_state(0)))
      assert (step, checkpoints.latest_step, checkpoints.best_step) == (9, 9, 9)
      checkpoints.save(10, make_state(10), {"position": 10}, None)
    assert restore_newest(tmp_path) == (10, expected)


def test_damaged_metrics_fall_back_too(tmp_path):
  save_steps(tmp_path, {9: 0.1, 10: 0.2})
  (tmp_path / "checkpoints" / "10" / "metrics" / "metrics").write_text("3")
  assert restore_newest(tmp_path) == (9, ["damaged-10"])


@pytest.mark.parametrize("file", ["metrics/metrics", "state/_METADATA"])
def test_when_none_is_whole_all_stay_where_they_are(tmp_path, file):
  save_steps(tmp_path, {9: 0.1, 10: 0.2})
  folder = tmp_path / "checkpoints"
  for step in ("9", "10"):
    (folder / step / file).write_text("{")
  with pytest.raises(UserError, match="checkpoints/10 cannot be read"):
    restore_newest(tmp_path)
  assert sorted(path.name for path in folder.iterdir()) == ["10", "9"]


def test_another_shape_is_no_damage(tmp_path):
  save_steps(tmp_path, {9: None, 10: None})
  other = to_abstract(make_state(0, width=5))
  with open_run(tmp_path, may_set_aside=True) as checkpoints:
    with pytest.raises(UserError, match="does not fit the model") as error:
      checkpoints.restore_newest(other)
  assert not isinstance(error.value, damage.DamagedCheckpointError)
  assert list_steps(tmp_path) == [9, 10]


@pytest.mark.parametrize(
  "error",
  [
    PermissionError(errno.EACCES, "no"),
    ValueError("UNAVAILABLE: try again"),
    # Its bytes are those that were saved: what fails is something else.
    KeyError("an Orbax of another version"),
  ],
)
def test_what_is_no_damage_renames_nothing(tmp_path, monkeypatch, error):
  save_steps(tmp_path, {9: None, 10: None})
  with open_run(tmp_path, may_set_aside=True) as checkpoints:
    with monkeypatch.context() as patch:
      patch.setattr(shape_check, "check_shapes", raise_(error))
      with pytest.raises(UserError, match="no damage was found"):
        checkpoints.restore_newest(to_abstract(make_state(0)))
  assert list_steps(tmp_path) == [9, 10]


def raise_(error):
  def fail(*args, **kwargs):
    raise error

  return fail


@pytest.mark.parametrize("is_run", [True, False])
def test_a_reader_names_the_damaged_and_the_one_before(tmp_path, is_run):
  save_steps(tmp_path, {9: 0.1, 10: 0.2})
  folder = tmp_path / "checkpoints"
  assert manager.find_checkpoint(tmp_path) == folder / "10"
  (path,) = list((folder / "10" / "state" / "d").iterdir())[:1]
  path.write_bytes(path.read_bytes()[:-1] + b"?")
  with pytest.raises(UserError, match="checkpoints/10 cannot .* step 9[.]"):
    manager.find_checkpoint(tmp_path if is_run else folder / "10")
  with open_run(tmp_path) as checkpoints, pytest.raises(UserError):
    checkpoints.restore_newest(to_abstract(make_state(0)))
  assert list_steps(tmp_path) == [9, 10]
  assert manager.find_checkpoint(folder / "9") == folder / "9"


def test_a_wait_has_an_end(tmp_path, monkeypatch):
  rename, is_blocked = os.rename, [True]

  def hang(*args):
    while is_blocked[0]:
      time.sleep(0.01)
    rename(*args)

  with open_run(tmp_path) as checkpoints:
    monkeypatch.setattr(os, "rename", hang)
    checkpoints.save(1, make_state(1), {}, None)
    assert not checkpoints.wait(timeout_seconds=0.1)
    is_blocked[0] = False
    assert checkpoints.wait(timeout_seconds=60.0)
  assert checksums.verify(tmp_path / "checkpoints" / "1")


def test_a_save_that_fails_while_it_is_waited_for(tmp_path, monkeypatch):
  """Its process meets no others any more, and Orbax takes it for under way."""
  checkpoints = manager.Checkpoints(tmp_path)
  monkeypatch.setattr(
    checkpoints._manager, "is_saving_in_progress", lambda: True
  )
  error = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
  threading.Timer(0.3, setattr, (checkpoints, "_failed", error)).start()
  started = time.monotonic()
  with pytest.raises(UserError, match="is full"):
    checkpoints.wait(60.0)
  assert time.monotonic() - started < 10
  with pytest.raises(UserError, match="is full"):
    checkpoints.raise_if_failed()


def test_a_clock_that_runs_backwards_changes_nothing(tmp_path, monkeypatch):
  seconds = iter(range(2_000_000_000, 0, -1000))
  monkeypatch.setattr(time, "time", lambda: float(next(seconds)))
  monkeypatch.setattr(time, "time_ns", lambda: next(seconds) * 10**9)
  metrics = {1: 0.1, 2: 0.9, 3: 0.2, 4: 0.3, 5: 0.4}
  save_steps(tmp_path, metrics, keep_last=2)
  assert list_steps(tmp_path) == [2, 4, 5]
  for age, step in enumerate((5, 4, 2)):
    for path in (tmp_path / "checkpoints" / str(step)).rglob("*"):
      os.utime(path, (10**9 + age, 10**9 + age))
  assert restore_newest(tmp_path) == (5, [])
  assert manager.find_checkpoint(tmp_path).name == "2"
  save_steps(tmp_path, {6: 0.5}, keep_last=2)
  assert list_steps(tmp_path) == [2, 5, 6]


# Dies where it is told to, in the thread that saves step 2.
_DYING = """
import os, signal, sys
import jax, numpy as np
from distill_jax.checkpoint import checksums, manager
from distill_jax.training.state import TrainState

def make_state(step):
  kernel = np.arange(12, dtype=np.float32).reshape(4, 3) + step
  return TrainState(
    np.int32(step),
    {"mlp": {"kernel": jax.device_put(kernel)}},
    (jax.device_put(kernel**2),),
  )

checkpoints = manager.Checkpoints(sys.argv[1])
checkpoints.save(1, make_state(1), {"position": 1}, None)
checkpoints.wait()
die = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
write, rename = checksums.write, os.rename
if sys.argv[2] == "after checksums":
  checksums.write = lambda *args, **kwargs: (write(*args, **kwargs), die())
elif sys.argv[2] == "before its name":
  os.rename = die
else:
  os.rename = lambda a, b: (rename(a, b), str(b).endswith("/2") and die())
checkpoints.save(2, make_state(2), {"position": 2}, None)
checkpoints.wait()
"""


@pytest.mark.parametrize(
  "where,newest",
  [
    ("after checksums", 1),
    ("before its name", 1),
    ("after its name", 2),
  ],
)
def test_killed_in_the_midst_of_a_save(tmp_path, where, newest):
  process = subprocess.run(
    [sys.executable, "-c", _DYING, tmp_path, where], capture_output=True
  )
  assert process.returncode == -signal.SIGKILL, process.stderr.decode()
  assert restore_newest(tmp_path) == (newest, [])
  save_steps(tmp_path, {newest + 1: None})
  assert restore_newest(tmp_path) == (newest + 1, [])
