"""Tests of run_folder/run_lock.py: one run a folder, whoever dies how."""

import errno
import fcntl
import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

from distill_jax.errors import UserError
from distill_jax.run_folder import run_lock

_HOLDER = """
import pathlib, sys, time
from distill_jax.run_folder import run_lock
run_lock.RunLock(pathlib.Path(sys.argv[1]), beat_seconds=0.1).acquire()
print("held", flush=True)
time.sleep(600)
"""


def make_lock(folder, watch_seconds=1.0):
  return run_lock.RunLock(folder, beat_seconds=0.1, watch_seconds=watch_seconds)


@pytest.fixture(name="holder")
def fixture_holder(tmp_path):
  """Another process that holds the folder."""
  process = subprocess.Popen(
    [sys.executable, "-c", _HOLDER, str(tmp_path)],
    stdout=subprocess.PIPE,
    text=True,
  )
  assert process.stdout.readline() == "held\n"
  yield process
  process.kill()
  process.communicate()


@pytest.fixture(name="no_flock")
def fixture_no_flock(monkeypatch):
  """A file system without locks."""

  def refuse(*_):
    raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

  monkeypatch.setattr(fcntl, "flock", refuse)


def read_owner(folder):
  return json.loads((folder / run_lock.FILE).read_text())


def write_owner(folder, **changes):
  owner = run_lock._describe_process() | {"beats": 0, "host": "far"} | changes
  (folder / run_lock.FILE).write_text(json.dumps(owner))
  return owner


def is_refused(folder):
  lock = make_lock(folder)
  try:
    lock.acquire()
  except UserError:
    return True
  lock.release()
  return False


def test_the_second_run_is_refused_and_the_first_named(tmp_path, holder):
  with pytest.raises(UserError) as raised:
    make_lock(tmp_path).acquire()
  host = read_owner(tmp_path)["host"]
  assert f"process {holder.pid} on host {host!r}, since 2" in str(raised.value)
  assert str(tmp_path / run_lock.FILE) in str(raised.value)
  assert raised.value.exit_code == 2
  # It still holds the folder, and its file.
  assert read_owner(tmp_path)["pid"] == holder.pid


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_killed_run_lets_go_at_once(tmp_path, holder, number):
  holder.send_signal(number)
  holder.wait()
  started = time.monotonic()
  with make_lock(tmp_path, watch_seconds=60.0) as lock:
    lock.acquire()
    assert read_owner(tmp_path)["pid"] == os.getpid()
  assert time.monotonic() - started < 10


def test_in_one_process_too(tmp_path):
  with make_lock(tmp_path) as lock:
    lock.acquire()
    assert is_refused(tmp_path)
  assert not is_refused(tmp_path)
  assert not list(tmp_path.iterdir())


def test_a_folder_made_for_a_run_that_was_refused_is_removed(tmp_path):
  folder = tmp_path / "runs" / "first"
  lock = make_lock(folder)
  lock.acquire()
  assert folder.is_dir()
  lock.release()
  assert not (tmp_path / "runs").exists()
  lock = make_lock(folder)
  lock.acquire()
  (folder / "run.json").write_text("{}")
  lock.release()
  assert [path.name for path in folder.iterdir()] == ["run.json"]


@pytest.mark.parametrize(
  "path, message",
  [
    ("/proc/run", "cannot be written"),
    ("/proc/a/b", "cannot be written"),
    ("/dev/null", "is a file"),
    ("/dev/null/run", "cannot be written"),
  ],
)
def test_what_cannot_be_written_is_refused(path, message):
  with pytest.raises(UserError, match=f"MODEL_DIR {path} {message}"):
    make_lock(pathlib.Path(path)).acquire()


# --- Other machines ---------------------------------------------------------


@pytest.mark.parametrize("has_flock", [True, False])
def test_another_machine_that_beats_is_alive(tmp_path, request, has_flock):
  if not has_flock:
    request.getfixturevalue("no_flock")
  owner = write_owner(tmp_path, machine="far")
  beating = subprocess.Popen(
    [
      sys.executable,
      "-c",
      "import json, pathlib, sys, time\n"
      "for beats in range(1, 600):\n"
      "  time.sleep(0.1)\n"
      "  owner = json.loads(sys.argv[2]) | {'beats': beats}\n"
      "  pathlib.Path(sys.argv[1]).write_text(json.dumps(owner))\n",
      str(tmp_path / run_lock.FILE),
      json.dumps(owner),
    ]
  )
  try:
    with pytest.raises(UserError, match="on host 'far'"):
      make_lock(tmp_path, watch_seconds=30.0).acquire()
  finally:
    beating.kill()
    beating.wait()


@pytest.mark.parametrize("has_flock", [True, False])
def test_another_machine_that_is_silent_is_gone(tmp_path, request, has_flock):
  if not has_flock:
    request.getfixturevalue("no_flock")
  write_owner(tmp_path, machine="far")
  assert not is_refused(tmp_path)


@pytest.mark.usefixtures("no_flock")
def test_without_locks_of_the_system_a_live_process_is_seen(tmp_path, holder):
  assert is_refused(tmp_path)
  holder.kill()
  holder.wait()
  started = time.monotonic()
  lock = make_lock(tmp_path, watch_seconds=60.0)
  lock.acquire()
  lock.release()
  assert time.monotonic() - started < 10


@pytest.mark.usefixtures("no_flock")
def test_a_number_given_to_another_process_is_not_the_first(tmp_path):
  write_owner(tmp_path, pid=1, pid_started="another")
  assert not is_refused(tmp_path)


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", "\x00"])
def test_a_torn_file_is_no_hindrance(tmp_path, content):
  (tmp_path / run_lock.FILE).write_text(content)
  assert not is_refused(tmp_path)


def test_a_run_whose_folder_was_taken_is_told(tmp_path):
  lock = make_lock(tmp_path)
  lock.acquire()
  lock.raise_if_lost()
  write_owner(tmp_path, pid=77)
  deadline = time.monotonic() + 30
  with pytest.raises(UserError, match="process 77 on host 'far'.* has taken"):
    while time.monotonic() < deadline:
      lock.raise_if_lost()
      time.sleep(0.05)
  lock.release()
  # It is the other's.
  assert read_owner(tmp_path)["pid"] == 77
