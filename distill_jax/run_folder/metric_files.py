"""Metrics on disk: `metrics.jsonl`, and TensorBoard events beside it.

A resumed run takes back the lines past the checkpoint it starts from, since it
writes those steps again; they are kept in `metrics.superseded.jsonl`.
"""

import contextlib
import json
import math
import pathlib
from collections.abc import Iterator, Mapping, Sequence

from distill_jax.errors import UserError
from distill_jax.files import atomic
from distill_jax.run_folder.event_files import EventFiles

_METRICS = "metrics.jsonl"
_SUPERSEDED = "metrics.superseded.jsonl"


class MetricFiles:
  """Appends metrics of steps to the files of a run."""

  def __init__(
    self,
    model_dir: str | pathlib.Path,
    start_step: int = 0,
    gin_text: str = "",
    results: Sequence[str] = ("loss",),
  ):
    """Opens the files.

    Args:
      model_dir: folder of the run.
      start_step: lines of later steps are moved aside.
      gin_text: the settings, for TensorBoard to show.
      results: training's metrics beside them in its table.

    Raises:
      UserError: the folder cannot be written.
    """
    self._folder = folder = pathlib.Path(model_dir)
    with _explain_unwritable(folder):
      _move_later_lines(folder, start_step)
      self._file = open(folder / _METRICS, "a", encoding="utf-8")
      self._events = EventFiles(folder, start_step, gin_text, results)

  def write(self, step: int, split: str, metrics: Mapping[str, float]) -> None:
    """Writes one line and the same scalars as events.

    Args:
      step: updates made.
      split: "train", or the task and split that was evaluated.
      metrics: finite or not; not a number is written as null.

    Raises:
      UserError: the disk is full, or the files cannot be written.
    """
    values = {
      name: float(value) if math.isfinite(value) else None
      for name, value in metrics.items()
    }
    line = json.dumps({"step": step, "split": split, **values})
    with _explain_unwritable(self._folder):
      self._file.write(line + "\n")
      self._file.flush()
      self._events.write(step, split, values)

  def close(self) -> None:
    """Closes the files."""
    self._events.close()
    # All was flushed when it was written, and what failed was told then.
    with contextlib.suppress(OSError):
      self._file.close()


def read_metrics(model_dir: str | pathlib.Path) -> list[dict]:
  """Returns the lines of `metrics.jsonl`, [] when there is none.

  Lines that are none, as the last after a crash may be, are left out.

  Args:
    model_dir: folder of the run.
  """
  path = pathlib.Path(model_dir) / _METRICS
  if not path.exists():
    return []
  rows = []
  for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
    try:
      row = json.loads(line)
    except ValueError:
      continue
    if isinstance(row, dict) and isinstance(row.get("step"), int):
      rows.append(row)
  return rows


@contextlib.contextmanager
def _explain_unwritable(folder: pathlib.Path) -> Iterator[None]:
  try:
    yield
  except OSError as error:
    raise UserError(
      f"The metrics in {folder} cannot be written: {error}. The checkpoints so"
      " far are intact. Free some room, or mend what it says, and run the same"
      " command again."
    ) from error


def _move_later_lines(folder: pathlib.Path, start_step: int) -> None:
  rows = read_metrics(folder)
  later = [row for row in rows if row["step"] > start_step]
  path = folder / _METRICS
  if not later and (
    not path.exists() or path.read_bytes()[-1:] in (b"", b"\n")
  ):
    return
  with open(folder / _SUPERSEDED, "a", encoding="utf-8") as file:
    file.writelines(json.dumps(row) + "\n" for row in later)
  kept = [row for row in rows if row["step"] <= start_step]
  atomic.write_text(path, "".join(json.dumps(row) + "\n" for row in kept))
