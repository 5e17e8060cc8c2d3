"""A sending session at a terminal: its progress bar and its signals.

Ctrl-C and SIGTERM end the sending, not the program: what is under way is waited
for, and what came is kept.
"""

import asyncio
import contextlib
import dataclasses
import logging
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import tqdm

from distill_jax.teacher.asking import exchange, journal, labelling

_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Session:
  """How a session went.

  Attributes:
    progress: what became of the requests.
    seconds: it took.
    signal_number: of the signal that ended it; None: none did.
  """

  progress: labelling.Progress
  seconds: float
  signal_number: int | None

  def describe(self) -> dict[str, Any]:
    """Returns what it achieved, for a summary."""
    progress, seconds = self.progress, max(self.seconds, 1e-6)
    num_tokens = progress.prompt_tokens + progress.completion_tokens
    return {
      **dataclasses.asdict(progress),
      "seconds": self.seconds,
      "requests_per_second": progress.num_answered / seconds,
      "tokens_per_second": num_tokens / seconds,
    }


def send_all(
  requests: Iterable[tuple[exchange.Request, str]],
  num_to_send: int,
  make_transport_fn: Callable[[], exchange.Transport],
  own: journal.Journal,
  answers: journal.Answers,
  limits: labelling.Limits,
) -> Session:
  """Runs `labelling.answer_requests` with a bar and with signals handled.

  Args:
    requests: see there.
    num_to_send: how many of them have no answer; the bar's length.
    make_transport_fn: makes the transport, which is closed at the end.
    own: the journal that is written.
    answers: of all journals.
    limits: see `labelling.Limits`.

  Returns:
    How it went.

  Raises:
    UserError: see there.
  """
  started = time.monotonic()
  progress, signal_number = asyncio.run(
    _send_all(requests, num_to_send, make_transport_fn, own, answers, limits)
  )
  return Session(progress, time.monotonic() - started, signal_number)


async def _send_all(
  requests, num_to_send, make_transport_fn, own, answers, limits
) -> tuple[labelling.Progress, int | None]:
  stop = labelling.Stop()
  signal_number = None

  def end(number: int) -> None:
    nonlocal signal_number
    if signal_number is None:
      _log.warning(
        "%s: nothing more is sent; answers under way are waited for, at most"
        " %g seconds. Once more: they are not.",
        signal.Signals(number).name,
        limits.drain_seconds,
      )
    signal_number = number
    stop.ask()

  for number in (signal.SIGINT, signal.SIGTERM):
    # Only a program's main thread has signals.
    with contextlib.suppress(ValueError, RuntimeError):
      asyncio.get_running_loop().add_signal_handler(number, end, number)
  transport = make_transport_fn()
  try:
    with _show_progress(num_to_send) as progress_fn:
      progress = await labelling.answer_requests(
        requests, transport, own, answers, limits, stop, progress_fn
      )
  finally:
    await transport.close()
  return progress, signal_number


@contextlib.contextmanager
def _show_progress(
  num_to_send: int,
) -> Iterator[Callable[[labelling.Progress], None]]:
  """Yields a function that brings a bar up to date."""
  started = time.monotonic()
  with tqdm.tqdm(
    total=num_to_send,
    desc="label",
    unit=" requests",
    # A log file is not to be filled with bars.
    mininterval=0.5 if sys.stderr.isatty() else 30.0,
  ) as bar:

    def show(progress: labelling.Progress) -> None:
      seconds = max(time.monotonic() - started, 1e-6)
      num_tokens = progress.prompt_tokens + progress.completion_tokens
      bar.set_postfix_str(
        f"{progress.num_answered} answered,"
        f" {progress.num_failed + progress.num_open} failed,"
        f" {num_tokens / seconds:.0f} tokens/s",
        refresh=False,
      )
      bar.update()

    yield show
