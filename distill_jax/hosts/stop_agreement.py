"""Processes of one run stop after the same step, whichever is asked to stop.

The host runs ahead of its devices, and every process by another number of
steps. So whoever is asked to stop says so; then each tells the last step it has
come to, and goes no further until all have told. All stop after the step behind
the last of these, which none has passed.

JAX has a service for it, which Orbax uses too: both count steps in the one
place there is, and it counts from 0, so a resumed run never comes to its step.
It is switched off where the processes are joined.
"""

import contextlib
import logging
import threading
import time
from typing import Any

_log = logging.getLogger(__name__)

_WANTED = "distill_jax/stop/wanted"
_TOLD = "distill_jax/stop/last_step"
_POLL_SECONDS = 0.5
_WAIT_MS = 60_000


class StopAgreement:
  """What one process knows of it; asked after every step."""

  def __init__(self, client: Any, index: int, count: int, start_step: int):
    """Starts to listen.

    Args:
      client: of JAX's key-value store.
      index: of this process.
      count: of all processes.
      start_step: the step that all processes start from.
    """
    self._client, self._index, self._count = client, index, count
    self._last_step, self._stop_step = start_step, None
    # Held while the processes agree: until then no step may begin.
    self._lock = threading.Lock()
    self._told: int | None = None
    self._is_wanted = False
    self._closed = threading.Event()
    self._thread = threading.Thread(
      target=self._listen, name="stop_agreement", daemon=True
    )
    self._thread.start()

  def request(self) -> None:
    """Asks all to stop; a signal's handler may call it, so it only notes."""
    self._is_wanted = True

  def is_reached(self, step: int) -> bool:
    """Whether all stop after this step; waits while they agree.

    Args:
      step: made by now; never less than before.
    """
    with self._lock:
      self._last_step = step
      return self._stop_step is not None and step >= self._stop_step

  def close(self) -> None:
    """Stops listening; this process makes no more steps."""
    self._closed.set()
    # Others may agree even now, and would wait for what this one says.
    with contextlib.suppress(Exception), self._lock:
      self._tell()
    self._thread.join()

  def _listen(self) -> None:
    while not self._closed.wait(_POLL_SECONDS):
      # One call may fail, and is made again. Where process 0 is gone,
      # `hosts.end_together` ends this one.
      try:
        if self._is_wanted:
          self._set(f"{_WANTED}/{self._index}", "")
        if self._client.key_value_dir_get(f"{_WANTED}/"):
          self._agree()
          return
      except Exception as error:
        _log.debug("No agreement to stop yet: %s", error)

  def _agree(self) -> None:
    """Holds the process until all have told; whoever told must not go on."""
    with self._lock:
      last_steps: dict[int, int] = {}
      while len(last_steps) < self._count and not self._closed.is_set():
        try:
          self._tell()
          for index in range(self._count):
            told = self._client.blocking_key_value_get(
              f"{_TOLD}/{index}", _WAIT_MS
            )
            last_steps[index] = int(told)
        except Exception as error:
          _log.debug("Waiting for others to agree to stop: %s", error)
          time.sleep(_POLL_SECONDS)
      if len(last_steps) == self._count:
        self._stop_step = max(last_steps.values()) + 1

  def _tell(self) -> None:
    """Tells the same however often it is called: others may have read it."""
    if self._told is None:
      self._told = self._last_step
    self._set(f"{_TOLD}/{self._index}", str(self._told))

  def _set(self, key: str, value: str) -> None:
    # Again, where it was not known whether it was set.
    self._client.key_value_set(key, value, allow_overwrite=True)
