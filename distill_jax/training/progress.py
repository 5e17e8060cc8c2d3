"""Where a run stands: a bar on a terminal, a line now and then in a log.

Metrics arrive as named numbers; what they mean, and which process of several
should speak, is the caller's.
"""

import io
import math
import sys
import time
from collections.abc import Callable, Mapping

import tqdm

_RATE_SUFFIX = "_per_second"
_SEPARATOR = " · "


class ProgressReporter:
  """Reports steps and metrics to a stream; a context manager.

  On a terminal it keeps one tqdm bar. Elsewhere it writes plain lines: the
  first update, then at most one every `min_seconds`, then the last.
  """

  def __init__(
    self,
    total_steps: int,
    start_step: int = 0,
    description: str = "step",
    stream: io.TextIOBase | None = None,
    *,
    min_seconds: float = 10.0,
    time_fn: Callable[[], float] = time.monotonic,
  ):
    """Opens the bar, if there is one.

    Args:
      total_steps: the step at which the run ends.
      start_step: steps done before, by the run that this one resumes.
      description: first word of the bar or line.
      stream: where to write; None is standard error.
      min_seconds: shortest time between two plain lines.
      time_fn: a clock in seconds, for the plain lines.
    """
    self._total_steps = total_steps
    self._description = description
    self._stream = stream or sys.stderr
    self._min_seconds = min_seconds
    self._time_fn = time_fn
    self._start_seconds = time_fn()
    self._first_update: tuple[float, int] | None = None
    self._written_seconds = -math.inf
    self._unwritten_line: str | None = None
    self._bar = None
    if self._stream.isatty():
      self._bar = tqdm.tqdm(
        total=total_steps,
        initial=start_step,
        desc=description,
        unit=" steps",
        file=self._stream,
        dynamic_ncols=True,
      )

  def update(self, step: int, metrics: Mapping[str, float]) -> None:
    """Takes note that `step` steps are done, counting those before a resume.

    Args:
      step: optimizer steps done.
      metrics: name -> value; a name ending in `_per_second` is shown as a rate,
        one ending in `_loss` without that ending.
    """
    if self._bar is not None:
      self._bar.set_postfix_str(
        _SEPARATOR.join(_format_metrics(metrics)), refresh=False
      )
      self._bar.update(step - self._bar.n)
      return
    now = self._time_fn()
    self._unwritten_line = self._make_line(now, step, metrics)
    if now - self._written_seconds >= self._min_seconds:
      self._written_seconds = now
      self._write_line()

  def show(self, line: str) -> None:
    """Writes a line that stays, whatever the bar does.

    Args:
      line: without its end.
    """
    if self._bar is not None:
      self._bar.write(line, file=self._stream)
      return
    self._write_line()
    self._stream.write(line + "\n")
    self._stream.flush()

  def _make_line(
    self, now: float, step: int, metrics: Mapping[str, float]
  ) -> str:
    parts = [
      f"{self._description} {step}/{self._total_steps}",
      *_format_metrics(metrics),
    ]
    # The first step compiles, so the rate counts from its end.
    if self._first_update is None:
      self._first_update = now, step
    first_seconds, first_step = self._first_update
    if step > first_step and now > first_seconds:
      rate = (step - first_step) / (now - first_seconds)
      remaining_seconds = max(self._total_steps - step, 0) / rate
      parts += [
        f"{format_number(rate)} steps/s",
        f"ETA {_format_seconds(remaining_seconds)}",
      ]
    parts.append(f"elapsed {_format_seconds(now - self._start_seconds)}")
    return _SEPARATOR.join(parts)

  def _write_line(self) -> None:
    if self._unwritten_line is not None:
      self._stream.write(self._unwritten_line + "\n")
      self._stream.flush()
      self._unwritten_line = None

  def close(self) -> None:
    """Closes the bar, or writes the last update if it is not written yet."""
    if self._bar is not None:
      self._bar.close()
    self._write_line()

  def __enter__(self) -> "ProgressReporter":
    return self

  def __exit__(self, *exception) -> None:
    self.close()


def format_number(value: float, digits: int = 3) -> str:
  """Returns a short form of a number, thousands as k, M and G.

  Args:
    value: any float; infinities and NaN are named.
    digits: significant digits, at least 3.

  Returns:
    Such as "2.31", "18.2k" or "1.5M".
  """
  for suffix in ("", "k", "M"):
    # Rounded first, so that 999.96 becomes 1k and not 1000.
    rounded = float(f"{value:.{digits}g}")
    if not abs(rounded) >= 1000 or math.isinf(rounded):
      return f"{rounded:.{digits}g}{suffix}"
    value /= 1000
  return f"{value:.{digits}g}G"


def _format_metrics(metrics: Mapping[str, float]) -> list[str]:
  parts = []
  for name, value in metrics.items():
    if name.endswith(_RATE_SUFFIX):
      unit = name.removesuffix(_RATE_SUFFIX).replace("_", " ")
      parts.append(f"{format_number(float(value))} {unit}/s")
    else:
      label = name.removesuffix("_loss").replace("_", " ")
      parts.append(f"{label} {format_number(float(value), digits=4)}")
  return parts


def _format_seconds(seconds: float) -> str:
  minutes, seconds = divmod(round(seconds), 60)
  hours, minutes = divmod(minutes, 60)
  if hours:
    return f"{hours}:{minutes:02}:{seconds:02}"
  return f"{minutes}:{seconds:02}"
