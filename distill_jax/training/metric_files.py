"""Metrics on disk: `metrics.jsonl` and TensorBoard events.

Layer 1; imports errors and tensorboardX, which needs no TensorFlow. A resumed
run takes back the lines past the checkpoint it starts from, since it writes
those steps again; they are kept in `metrics.superseded.jsonl`.

Events are written by the caller's thread: tensorboardX's `SummaryWriter` has a
thread that a full disk ends, after which adding to its full queue waits for
ever.
"""

# The classes of protocol buffers are made when they are imported.
# pyright: reportAttributeAccessIssue=false

import contextlib
import json
import math
import os
import pathlib
import socket
import time
from collections.abc import Iterator, Mapping

from tensorboardX import summary
from tensorboardX.proto import event_pb2, summary_pb2
from tensorboardX.record_writer import RecordWriter

from distill_jax.errors import UserError

_METRICS = "metrics.jsonl"
_SUPERSEDED = "metrics.superseded.jsonl"


class MetricFiles:
  """Appends metrics of steps to the files of a run."""

  def __init__(self, model_dir: str | pathlib.Path, start_step: int = 0):
    """Opens the files.

    Args:
      model_dir: folder of the run.
      start_step: lines of later steps are moved aside.

    Raises:
      UserError: the folder cannot be written.
    """
    self._folder = folder = pathlib.Path(model_dir)
    with _explain_unwritable(folder):
      _move_later_lines(folder, start_step)
      self._file = open(folder / _METRICS, "a", encoding="utf-8")
      self._events = RecordWriter(str(_name_events(folder)))
      self._write_event(file_version="brain.Event:2")
      # TensorBoard drops what earlier files have from this step on.
      start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
      self._write_event(step=start_step + 1, session_log=start)

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
    scalars = summary_pb2.Summary()
    for name, value in values.items():
      if value is not None:
        scalars.MergeFrom(summary.scalar(f"{split}/{name}", value))
    with _explain_unwritable(self._folder):
      self._file.write(line + "\n")
      self._file.flush()
      self._write_event(step=step, summary=scalars)

  def close(self) -> None:
    """Closes the files."""
    for file in (self._file, self._events):
      # All was flushed when it was written, and what failed was told then.
      with contextlib.suppress(OSError):
        file.close()

  def _write_event(self, **fields) -> None:
    event = event_pb2.Event(wall_time=time.time(), **fields)
    self._events.write(event.SerializeToString())
    self._events.flush()


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


def _name_events(folder: pathlib.Path) -> pathlib.Path:
  """Names a new file of events so that it sorts after those that are there.

  TensorBoard reads them in the order of their names, where the number is a time
  in seconds by custom. Clocks run backwards, and differ between the machines a
  run is resumed on; the order of the files must not.
  """
  prefix = "events.out.tfevents."
  numbers = [
    int(number)
    for path in folder.glob(f"{prefix}*")
    if (number := path.name.removeprefix(prefix).partition(".")[0]).isdecimal()
  ]
  number = max([int(time.time()), *(before + 1 for before in numbers)])
  return folder / f"{prefix}{number:010}.{socket.gethostname()}"


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
  rewritten = path.with_suffix(".rewriting")
  rewritten.write_text("".join(json.dumps(row) + "\n" for row in kept))
  os.replace(rewritten, path)
