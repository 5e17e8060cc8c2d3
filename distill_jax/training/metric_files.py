"""Metrics on disk: `metrics.jsonl` and TensorBoard events.

Layer 1; imports tensorboardX, which needs no TensorFlow. A resumed run takes
back the lines past the checkpoint it starts from, since it writes those steps
again; they are kept in `metrics.superseded.jsonl`.
"""

import json
import math
import os
import pathlib
from collections.abc import Mapping

import tensorboardX

_METRICS = "metrics.jsonl"
_SUPERSEDED = "metrics.superseded.jsonl"


class MetricFiles:
  """Appends metrics of steps to the files of a run."""

  def __init__(self, model_dir: str | pathlib.Path, start_step: int = 0):
    """Opens the files.

    Args:
      model_dir: folder of the run.
      start_step: lines of later steps are moved aside.
    """
    folder = pathlib.Path(model_dir)
    _move_later_lines(folder, start_step)
    self._file = open(folder / _METRICS, "a", encoding="utf-8")
    self._events = tensorboardX.SummaryWriter(
      str(folder), purge_step=start_step + 1
    )

  def write(self, step: int, split: str, metrics: Mapping[str, float]) -> None:
    """Writes one line and the same scalars as events.

    Args:
      step: updates made.
      split: "train", or the task and split that was evaluated.
      metrics: finite or not; not a number is written as null.
    """
    values = {
      name: float(value) if math.isfinite(value) else None
      for name, value in metrics.items()
    }
    line = json.dumps({"step": step, "split": split, **values})
    self._file.write(line + "\n")
    self._file.flush()
    for name, value in values.items():
      if value is not None:
        self._events.add_scalar(f"{split}/{name}", value, step)

  def close(self) -> None:
    """Flushes and closes the files."""
    self._file.close()
    self._events.close()


def read_metrics(model_dir: str | pathlib.Path) -> list[dict]:
  """Returns the lines of `metrics.jsonl`, [] when there is none.

  A last line that was cut off by a crash is left out.

  Args:
    model_dir: folder of the run.
  """
  path = pathlib.Path(model_dir) / _METRICS
  if not path.exists():
    return []
  rows = []
  for line in path.read_text(encoding="utf-8").splitlines():
    try:
      rows.append(json.loads(line))
    except ValueError:
      continue
  return rows


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
  rewritten = path.with_suffix(".rewriting")
  rewritten.write_text("".join(json.dumps(row) + "\n" for row in kept))
  os.replace(rewritten, path)
