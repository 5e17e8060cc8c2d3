"""Ctrl-C and SIGTERM: one line, what is half-built removed, 130 or 143.

`train` and `label` save what they have and take the signals themselves while
they do.
"""

import contextlib
import signal
import threading
import types
from collections.abc import Iterator

_JAX_GC_CALLBACK = "_xla_gc_callback"
_RETRY_SECONDS = 0.05


class Terminated(KeyboardInterrupt):
  """SIGTERM came; like Ctrl-C it passes through what handles errors."""


def exit_code(interrupt: KeyboardInterrupt) -> int:
  """Returns 128 and the signal's number, as shells and schedulers have it."""
  is_term = isinstance(interrupt, Terminated)
  return 128 + (signal.SIGTERM if is_term else signal.SIGINT)


def raise_on_signals() -> None:
  """Makes SIGTERM raise as Ctrl-C does, and neither be swallowed by Python.

  Half-built files are removed on the way out then. Outside the main thread
  Python takes no handlers, and nothing changes.
  """
  if threading.current_thread() is threading.main_thread():
    for number in (signal.SIGINT, signal.SIGTERM):
      signal.signal(number, _raise)


@contextlib.contextmanager
def deferred() -> Iterator[None]:
  """Raises an interrupt when the block ends, not inside of it.

  For imports of libraries that swallow `KeyboardInterrupt`, as TensorFlow does.
  The same signal a second time ends the process at once.

  Raises:
    KeyboardInterrupt: a signal came within the block.
  """
  if threading.current_thread() is not threading.main_thread():
    yield
    return
  received: list[int] = []

  def receive(number: int, _) -> None:
    received.append(number)
    signal.signal(number, signal.SIG_DFL)

  numbers = (signal.SIGINT, signal.SIGTERM)
  previous = {number: signal.signal(number, receive) for number in numbers}
  try:
    yield
  finally:
    for number, handler in previous.items():
      signal.signal(number, handler)
    if received:
      raise _make(received[0])


def _make(number: int) -> KeyboardInterrupt:
  return Terminated() if number == signal.SIGTERM else KeyboardInterrupt()


def _raise(number: int, frame: types.FrameType | None) -> None:
  """Raises where the exception gets out, else a moment later.

  Python prints what finalizers and callbacks of its garbage collector raise
  ("Exception ignored in ..."), and goes on.
  """
  while frame is not None:
    if frame.f_code.co_name in ("__del__", _JAX_GC_CALLBACK):
      signal.signal(signal.SIGALRM, lambda _, again: _raise(number, again))
      signal.setitimer(signal.ITIMER_REAL, _RETRY_SECONDS)
      return
    frame = frame.f_back
  raise _make(number)
