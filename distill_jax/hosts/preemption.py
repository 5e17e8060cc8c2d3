"""SIGTERM and SIGINT: the run saves what it has and says how to go on.

The first signal lets the step under way end, with the evaluation that may
belong to it, saves one checkpoint, waits for it, and ends the process. The
second one ends it at once, in whatever it is.

The exit code is 128 and the signal's number, as shells and schedulers have it:

  143   SIGTERM: preempted, or past its time; run the same command again
  130   SIGINT: Ctrl-C

It is the same when the checkpoint was not written within the time given, since
the earlier ones are intact. A run at its last step ends as if nothing were.

With several processes a signal to any of them stops all after the same step,
see `hosts.stop_agreement`; those that had none end with 143.
"""

import logging
import os
import signal
import threading
from collections.abc import Callable, Mapping
from typing import Any

from distill_jax.hosts.stop_agreement import StopAgreement

_log = logging.getLogger(__name__)

PyTree = Any
SIGNALS = (signal.SIGTERM, signal.SIGINT)


class PreemptionHook:
  """Ends the run after the step in which a signal came."""

  def __init__(
    self,
    save_fn: Callable[[int, PyTree, Mapping[str, Any]], None],
    wait_fn: Callable[[float], bool],
    train_steps: int,
    save_seconds: float,
    agreement: StopAgreement | None = None,
    exit_fn: Callable[[int], Any] = os._exit,
  ):
    """Takes the signals; outside the main thread Python gives them to nobody.

    Args:
      save_fn: (step, state, metrics) -> None; saves that step, if it is not
        saved yet.
      wait_fn: waits so many seconds for saves, returns whether they ended.
      train_steps: the last step, after which there is nothing to stop.
      save_seconds: the longest to wait for the checkpoint.
      agreement: with the other processes that train with this one, if any.
      exit_fn: ends the process without waiting for its threads.
    """
    self._save_fn, self._wait_fn = save_fn, wait_fn
    self._train_steps, self._save_seconds = train_steps, save_seconds
    self._exit_fn = exit_fn
    self._agreement = agreement
    self._received: signal.Signals | None = None
    self._previous = {}
    if threading.current_thread() is not threading.main_thread():
      _log.info("Not in the main thread: signals end the run unsaved.")
      return
    for number in SIGNALS:
      self._previous[number] = signal.signal(number, self._receive)

  def _receive(self, number: int, frame) -> None:
    del frame
    self._received = signal.Signals(number)
    # By the system, and not by Python, which may be waiting for a device.
    for each in self._previous:
      signal.signal(each, signal.SIG_DFL)
    # A logger may be in use where the signal came.
    os.write(
      2,
      f"\n{self._received.name}: stopping after this step; a checkpoint will be"
      " saved. The same signal again ends the run at once.\n".encode(),
    )
    if self._agreement is not None:
      self._agreement.request()

  def after_step(self, step, state, batch, metrics) -> None:
    """See `training.loop.Hook`.

    Raises:
      SystemExit: with the code above, when a signal came.
    """
    del batch
    if self._agreement is not None:
      if not self._agreement.is_reached(step):
        return
      self._received = self._received or signal.SIGTERM
    if self._received is None or step == self._train_steps:
      return
    exit_code = 128 + self._received
    self._save_fn(step, state, metrics)
    if not self._wait_fn(self._save_seconds):
      _log.error(
        "%s: the checkpoint of step %d was not written within %g seconds"
        " (PREEMPTION_SAVE_SECONDS) and is given up; the earlier ones are"
        " intact. The same command goes on from the newest.",
        self._received.name, step, self._save_seconds,
      )  # fmt: skip
      logging.shutdown()
      # The thread that saves would keep the process.
      self._exit_fn(exit_code)
    _log.warning(
      "%s: stopped after step %d of %d, which is saved. The same command goes"
      " on from there.",
      self._received.name, step, self._train_steps,
    )  # fmt: skip
    raise SystemExit(exit_code)

  def close(self) -> None:
    """See `training.loop.Hook`; gives the signals back."""
    if self._agreement is not None:
      self._agreement.close()
    # After the first one, a second one keeps its meaning to the end.
    if self._received is None:
      for number, handler in self._previous.items():
        signal.signal(number, handler)
