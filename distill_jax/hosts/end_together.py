"""Processes of one run end together: when one must stop, none is left waiting.

A process that waits for another in a collective cannot be told anything, so a
thread listens for it:

- A process that fails says so before it ends, and the others end with its exit
  code and its reason, though they may be anywhere.
- Every process sends a heartbeat to process 0 every few seconds. One that sends
  none for `timeout_seconds` (killed, its host gone) ends the others with
  code 75, and is named.
- JAX has a heartbeat of its own, which aborts the program (code 134) in its own
  words. It is given more time, and is left to tell what nobody here can: that
  process 0 itself is gone.

Nothing depends on clocks that agree: each process measures time by itself.
"""

import contextlib
import json
import logging
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from typing import Any

from distill_jax.errors import LostProcessError, UserError
from distill_jax.hosts import distributed

_log = logging.getLogger(__name__)

LOST_CODE = LostProcessError.exit_code
INTERRUPTED_CODE = 130
_FOLDER = "distill_jax/end_together"
_FIRST = f"{_FOLDER}/first"
# For a process that has the same reason to end, to say it in its own words.
_GRACE_SECONDS = 2.0
# The coordinator waits so long for the others to go before it.
_LEAVE_SECONDS = 10.0
_LISTEN_MS = 3_600_000
_INTACT = (
  "The checkpoints so far are intact; the same command goes on from the newest."
)


class EndTogether:
  """Listens for the end of others, and tells them of this one's."""

  def __init__(
    self,
    client: Any,
    index: int,
    count: int,
    timeout_seconds: float,
    exit_fn: Callable[[int], Any] = os._exit,
  ):
    """Starts to listen.

    Args:
      client: of JAX's key-value store.
      index: of this process.
      count: of all processes.
      timeout_seconds: how long a process may be silent.
      exit_fn: ends the process, whatever its threads do.
    """
    self._client, self._index, self._count = client, index, count
    self._timeout_seconds, self._exit_fn = timeout_seconds, exit_fn
    self._period = min(timeout_seconds / 5, 5.0)
    self._num_lost = 0
    self._closed = threading.Event()
    self._lock = threading.Lock()
    self._threads = [
      threading.Thread(target=target, name="end_together", daemon=True)
      for target in (self._listen, self._beat)
    ]
    for thread in self._threads:
      thread.start()

  def close(self) -> None:
    """Stops listening; all processes are at their end and call it."""
    # As long as it takes: process 0 may still sum up a large checkpoint.
    distributed.gather("end", None)
    self._closed.set()
    # Wakes the threads that listen, of all processes.
    self._publish(None, "")
    for thread in self._threads:
      thread.join(_LEAVE_SECONDS)

  def end(self, code: int, reason: str) -> None:
    """Tells the others, and ends this process.

    Args:
      code: exit code, for all of them.
      reason: for the others to say.
    """
    self._publish(code, reason)
    self._leave(code)

  def wait_for_others(self) -> None:
    """Returns when all others have sent a heartbeat after this was called.

    An error in a collective is most often another process's end. If it is, this
    process is ended while it waits here.
    """
    before = self._read_beats()
    deadline = time.monotonic() + self._timeout_seconds + 4 * self._period
    while time.monotonic() < deadline:
      beats = self._read_beats()
      # Twice: one may have been on its way.
      if len(beats) == self._count and all(
        beats[index] >= before.get(index, 0) + 2
        for index in beats
        if index != self._index
      ):
        return
      time.sleep(self._period / 2)

  def end_without_coordinator(self) -> None:
    """Ends this process where process 0 is gone, and nobody can be told."""
    _write(
      f"distill-jax: {distributed.describe(0)}, which coordinates the others,"
      f" is gone or cannot be reached. {_INTACT}\n"
    )
    self._exit_fn(LOST_CODE)

  def _publish(self, code: int | None, reason: str) -> None:
    told = {"index": self._index, "code": code, "reason": reason}
    # The first counts; and whoever is alone by now needs to tell nobody.
    with contextlib.suppress(Exception):
      self._client.key_value_set(_FIRST, json.dumps(told))

  def _listen(self) -> None:
    while not self._closed.is_set():
      try:
        told = json.loads(
          self._client.blocking_key_value_get(_FIRST, _LISTEN_MS)
        )
      except Exception as error:
        if "DEADLINE_EXCEEDED" in str(error):
          continue
        if not self._closed.is_set():
          # Before all else: JAX's own thread is about to abort the program.
          self.end_without_coordinator()
        return
      if told["code"] is None or told["index"] == self._index:
        return
      time.sleep(_GRACE_SECONDS)
      _write(
        f"distill-jax: {distributed.describe(self._index)} ends because"
        f" {distributed.describe(told['index'])} did: {told['reason']}\n"
      )
      self._leave(told["code"])
      return

  def _beat(self) -> None:
    """Sends heartbeats; process 0 also monitors those of the others."""
    heard: dict[int, tuple[int, float]] = {}
    number, said_at = 0, time.monotonic()
    while True:
      number += 1
      try:
        self._client.key_value_set(
          f"{_FOLDER}/beat/{self._index}", str(number), allow_overwrite=True
        )
        beats = self._read_beats() if self._index == 0 else {}
      except Exception:
        # One call may fail. That process 0 is gone, the thread that listens
        # tells.
        silent_for = time.monotonic() - said_at
        if silent_for > self._timeout_seconds or self._closed.wait(
          self._period
        ):
          return
        continue
      now = said_at = time.monotonic()
      for index in range(self._count if self._index == 0 else 0):
        beat = beats.get(index, 0)
        if index not in heard or heard[index][0] != beat:
          heard[index] = beat, now
      lost = [
        index
        for index, (_, since) in heard.items()
        if now - since > self._timeout_seconds
      ]
      if lost and not self._closed.is_set():
        self._tell_of_lost(lost)
        return
      if self._closed.wait(self._period):
        return

  def _tell_of_lost(self, lost: list[int]) -> None:
    names = ", ".join(distributed.describe(index) for index in lost)
    reason = (
      f"{names} sent no heartbeat for"
      f" {self._timeout_seconds:g} seconds: killed, or its host is gone."
      f" {_INTACT}"
    )
    self._num_lost = len(lost)
    self._publish(LOST_CODE, reason)
    _write(f"distill-jax: {reason}\n")
    self._leave(LOST_CODE)

  def _read_beats(self) -> dict[int, int]:
    found = self._client.key_value_dir_get(f"{_FOLDER}/beat/")
    return {int(key.rpartition("/")[2]): int(value) for key, value in found}

  def _leave(self, code: int) -> None:
    """Ends this process; the coordinator after the others, which need it."""
    # Never released: one thread ends the process, and another that comes waits.
    self._lock.acquire()
    for stream in (sys.stdout, sys.stderr):
      with contextlib.suppress(Exception):
        stream.flush()
    with contextlib.suppress(Exception):
      self._client.key_value_set(f"{_FOLDER}/left/{self._index}", "")
      deadline = time.monotonic() + _LEAVE_SECONDS
      while self._index == 0 and time.monotonic() < deadline:
        left = self._client.key_value_dir_get(f"{_FOLDER}/left/")
        if len(left) >= self._count - self._num_lost:
          break
        time.sleep(0.05)
    self._exit_fn(code)


_current: EndTogether | None = None


@contextlib.contextmanager
def end_together(
  timeout_seconds: float, exit_fn: Callable[[int], Any] = os._exit
) -> Iterator[None]:
  """Whatever ends the block in one process ends it in all.

  For one process it does nothing. Otherwise a `UserError` is shown here and
  ends all processes with its code, any other error with its trace and code 1; a
  `SystemExit` is what all processes have come to, as after a signal.

  Args:
    timeout_seconds: how long a process may be silent.
    exit_fn: ends the process.
  """
  global _current
  if distributed.process_count() == 1:
    yield
    return
  _current = EndTogether(
    distributed.client(),
    distributed.process_index(),
    distributed.process_count(),
    timeout_seconds,
    exit_fn,
  )
  try:
    yield
  except SystemExit:
    _current.close()
    raise
  except BaseException as error:
    end_with(error)
    raise
  else:
    _current.close()
  finally:
    _current = None


def end_with(error: BaseException | None) -> None:
  """Ends every process because of an error in this one, if there are others.

  It is called before anything is closed: what closes may wait for others.

  Args:
    error: none, and a `SystemExit`, are what all processes have come to.
  """
  if _current is None or error is None or isinstance(error, SystemExit):
    return
  if isinstance(error, UserError):
    _write(f"distill-jax: {error}\n")
    _current.end(error.exit_code, str(error))
  elif isinstance(error, KeyboardInterrupt):
    _current.end(INTERRUPTED_CODE, "it was interrupted")
  else:
    try:
      _current.wait_for_others()
    except Exception:
      # The error is that end's consequence, and the listener may not know yet.
      _current.end_without_coordinator()
    _write("".join(traceback.format_exception(error)))
    _current.end(1, f"{type(error).__name__}: {str(error)[:300]}")


def end_all(code: int) -> None:
  """Ends every process at once, without waiting for anything.

  Args:
    code: exit code.
  """
  if _current is None:
    os._exit(code)
  else:
    _current.end(code, f"all end with code {code}")


def _write(text: str) -> None:
  """Writes what must be read; other threads may hold locks of streams."""
  with contextlib.suppress(OSError):
    os.write(2, text.encode(errors="replace"))
