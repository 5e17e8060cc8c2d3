"""Tests of hosts/end_together.py: who ends, with which code and word.

Each process is an `EndTogether` with threads of its own, over one store.
"""

import json
import threading
import time

import jax
import process_fakes
import pytest

from distill_jax.errors import UserError
from distill_jax.hosts import distributed, end_together


class _Process:
  """One of several processes, that notes how it would have ended."""

  def __init__(self, store, index, count=2, timeout_seconds=1.0):
    self.codes, self.ended = [], threading.Event()
    self.together = end_together.EndTogether(
      store, index, count, timeout_seconds, self._exit
    )

  def _exit(self, code):
    self.codes.append(code)
    self.ended.set()

  def wait(self):
    assert self.ended.wait(20)
    return self.codes[0]


@pytest.fixture(name="store")
def fixture_store(monkeypatch):
  store = process_fakes.KeyValueStore()
  monkeypatch.setattr(end_together, "_GRACE_SECONDS", 0.1)
  monkeypatch.setattr(end_together, "_LEAVE_SECONDS", 2.0)
  monkeypatch.setattr(distributed, "_hosts", ["north", "south", "west"])
  process_fakes.join(monkeypatch, distributed, 0, 2, store)
  yield store
  # The threads that listen end, and say nothing.
  store.values.setdefault(end_together._FIRST, json.dumps({"code": None}))
  store.is_gone = True


@pytest.mark.parametrize("failing", [0, 1])
def test_what_ends_one_ends_all_with_its_code_and_reason(store, failing, capfd):
  processes = [_Process(store, index) for index in (0, 1)]
  thread = threading.Thread(
    target=processes[failing].together.end, args=(2, "the loss is nan")
  )
  thread.start()
  assert [process.wait() for process in processes] == [2, 2]
  thread.join()
  hosts = "north", "south"
  assert (
    f"process {1 - failing} ({hosts[1 - failing]}) ends because process"
    f" {failing} ({hosts[failing]}) did: the loss is nan\n"
  ) in capfd.readouterr().err


def test_the_coordinator_goes_last(store):
  ends = []
  coordinator = _Process(store, 0)
  threading.Thread(
    target=lambda: (coordinator.together.end(2, "x"), ends.append(time.time()))
  ).start()
  time.sleep(0.3)
  assert not coordinator.ended.is_set()
  other = _Process(store, 1)
  assert other.wait() == coordinator.wait() == 2


def test_one_that_is_silent_is_named_and_ends_the_others(store, capfd):
  processes = [_Process(store, index, count=3) for index in (0, 1)]
  started = time.monotonic()
  codes = [process.wait() for process in processes]
  assert codes == [end_together.LOST_CODE] * 2
  assert time.monotonic() - started < 10
  told = "process 2 (west) sent no heartbeat for 1 seconds"
  assert capfd.readouterr().err.count(told) == 2


def test_one_that_is_heard_from_is_not_lost(store):
  processes = [_Process(store, index, timeout_seconds=0.5) for index in (0, 1)]
  time.sleep(2.0)
  assert [process.codes for process in processes] == [[], []]


def test_one_call_that_fails_is_not_the_end(store, monkeypatch):
  processes = [_Process(store, index) for index in (0, 1)]
  key_value_set, failed = store.key_value_set, []

  def fail_twice(key, *args, **kwargs):
    if key.endswith("beat/1") and len(failed) < 2:
      failed.append(key)
      raise jax.errors.JaxRuntimeError("UNAVAILABLE: try again")
    return key_value_set(key, *args, **kwargs)

  monkeypatch.setattr(store, "key_value_set", fail_twice)
  time.sleep(3.0)
  assert len(failed) == 2
  assert [process.codes for process in processes] == [[], []]


def test_a_coordinator_that_is_gone_is_named(store, capfd):
  process = _Process(store, 1)
  store.is_gone = True
  assert process.wait() == end_together.LOST_CODE
  assert "process 0 (north), which coordinates" in capfd.readouterr().err


def test_an_error_is_told_after_the_others_were_heard_from(store):
  processes = [_Process(store, index) for index in (0, 1)]
  started = time.monotonic()
  processes[1].together.wait_for_others()
  assert time.monotonic() - started < 3
  # And of a process that is gone by its end, which comes first.
  alone = _Process(store, 2, count=4, timeout_seconds=0.5)
  started = time.monotonic()
  alone.together.wait_for_others()
  assert time.monotonic() - started > 0.5


def test_all_at_their_end_leave_as_they_are(store, monkeypatch):
  monkeypatch.setattr(distributed, "gather", lambda *_: None)
  processes = [_Process(store, index) for index in (0, 1)]
  for process in processes:
    process.together.close()
  assert [process.codes for process in processes] == [[], []]
  assert json.loads(store.values[end_together._FIRST])["code"] is None


class _Left(Exception):
  """The process is no more."""


def run(store, error, monkeypatch):
  """Ends a block with an error; returns the exit code it led to."""
  monkeypatch.setattr(distributed, "gather", lambda *_: None)
  codes = []

  def leave(code):
    codes.append(code)
    raise _Left

  peer = _Process(store, 1)
  with pytest.raises((_Left, SystemExit)) as raised:
    with end_together.end_together(0.5, leave):
      raise error
  assert end_together._current is None
  del peer
  return codes[0] if codes else ("exit", raised.value.code)


@pytest.mark.parametrize(
  "error,code,told",
  [
    (UserError("the disk is full"), 2, "distill-jax: the disk is full\n"),
    (KeyboardInterrupt(), 130, ""),
    (ZeroDivisionError("by zero"), 1, "ZeroDivisionError: by zero\n"),
    (SystemExit(143), ("exit", 143), ""),
  ],
)
def test_how_a_block_may_end(store, error, code, told, monkeypatch, capfd):
  assert run(store, error, monkeypatch) == code
  assert told in capfd.readouterr().err
  # The others are told the code, or that all is as it should be.
  said = json.loads(store.values[end_together._FIRST])["code"]
  assert said == (None if isinstance(error, SystemExit) else code)


def test_an_error_because_the_coordinator_is_gone_is_not_ours(
  store, monkeypatch, capfd
):
  def wait_for_others(self):
    raise RuntimeError("UNAVAILABLE")

  monkeypatch.setattr(
    end_together.EndTogether, "wait_for_others", wait_for_others
  )
  assert run(store, RuntimeError("a collective"), monkeypatch) == 75
  said = capfd.readouterr().err
  assert "process 0 (north), which coordinates" in said
  assert "Traceback" not in said


def test_one_process_is_left_as_it_is():
  with pytest.raises(UserError, match="mine"):
    with end_together.end_together(1.0):
      end_together.end_with(UserError("not told"))
      raise UserError("mine")
