"""TensorBoard events of a run: its settings, training, validation beside it.

Training's events lie in the run's folder and those of each validated task in a
folder of its own below, which TensorBoard shows as another line of the same
chart where the tags are the same.

Events are written by the caller's thread: tensorboardX's `SummaryWriter` has a
thread that a full disk ends, after which adding to its full queue waits for
ever.
"""

# The classes of protocol buffers are made when they are imported.
# pyright: reportAttributeAccessIssue=false

import ast
import contextlib
import pathlib
import re
import socket
import time
from collections.abc import Mapping, Sequence
from typing import Any

from tensorboardX import summary
from tensorboardX.proto import event_pb2, summary_pb2
from tensorboardX.record_writer import RecordWriter

from distill_jax.data import task_kinds

TRAIN = "train"


class EventFiles:
  """Writes events of steps."""

  def __init__(
    self,
    model_dir: pathlib.Path,
    start_step: int,
    gin_text: str,
    results: Sequence[str] = ("loss",),
  ):
    """Opens training's file and writes the settings into it.

    Args:
      model_dir: folder of the run.
      start_step: TensorBoard drops what earlier files have after it.
      gin_text: the settings; "" for none.
      results: training's metrics that TensorBoard's table of settings shows.
    """
    self._folder, self._start_step = model_dir, start_step
    self._writers: dict[str, RecordWriter] = {}
    writer = self._open(TRAIN)
    if gin_text:
      # A block of code in Markdown.
      shown = "".join(f"    {line}\n" for line in gin_text.splitlines())
      experiment, session, _ = summary.hparams(
        read_macros(gin_text), dict.fromkeys(results, 0.0)
      )
      for part in (summary.text("config.gin", shown), experiment, session):
        _write(writer, step=start_step, summary=part)

  def write(
    self, step: int, split: str, values: Mapping[str, float | None]
  ) -> None:
    """Writes scalars; None is left out.

    Args:
      step: updates made.
      split: "train", or validation's as "validation/<task>".
      values: by name.
    """
    scalars = summary_pb2.Summary()
    for name, value in values.items():
      if value is not None:
        tag = _choose_tag(split, name, values)
        scalars.MergeFrom(summary.scalar(tag, value))
    _write(self._open(split), step=step, summary=scalars)

  def close(self) -> None:
    """Closes the files."""
    for writer in self._writers.values():
      # All was flushed when it was written, and what failed was told then.
      with contextlib.suppress(OSError):
        writer.close()

  def _open(self, split: str) -> RecordWriter:
    """Opens the file of a split when it is first written."""
    if split not in self._writers:
      folder = self._folder if split == TRAIN else self._folder / split
      folder.mkdir(parents=True, exist_ok=True)
      writer = RecordWriter(str(_name_events(folder)))
      self._writers[split] = writer
      _write(writer, file_version="brain.Event:2")
      # TensorBoard drops what earlier files have from this step on.
      start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
      _write(writer, step=self._start_step + 1, session_log=start)
    return self._writers[split]


def read_macros(gin_text: str) -> dict[str, Any]:
  """Reads the macros of an operative configuration, for a table of settings.

  Args:
    gin_text: what gin writes: `NAME = value`, long values on lines of their
      own.

  Returns:
    Numbers, texts and booleans as they are, other literals as text; without
    references to objects and None.
  """
  joined = re.sub(r" = \\\n", " = ", gin_text)
  macros = {}
  for name, text in re.findall(
    r"^([A-Z][A-Z0-9_]*) = (.*(?:\n[ \t]+.*)*)", joined, re.MULTILINE
  ):
    try:
      value = ast.literal_eval(text.strip())
    except (SyntaxError, ValueError):
      continue
    if value is not None:
      is_plain = isinstance(value, bool | int | float | str)
      macros[name] = value if is_plain else str(value)
  return macros


def _choose_tag(
  split: str, name: str, values: Mapping[str, float | None]
) -> str:
  """Names a validated task's loss as training names the loss of such tasks."""
  if split == TRAIN or name != "loss":
    return name
  is_spans = task_kinds.split_task_name(split)[1] == "span_corruption"
  if is_spans or "label_accuracy" in values:
    return "label_loss"
  return "rationale_loss"


def _write(writer: RecordWriter, **fields) -> None:
  event = event_pb2.Event(wall_time=time.time(), **fields)
  writer.write(event.SerializeToString())
  writer.flush()


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
