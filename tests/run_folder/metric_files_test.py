"""Tests of run_folder/metric_files.py: lines, events, and taking lines back."""

import errno
import json
import math
import os

import pytest
from event_reading import read_events
from tensorboardX.proto import event_pb2
from tensorboardX.record_writer import RecordWriter

from distill_jax.errors import UserError
from distill_jax.run_folder import event_files, metric_files


def _write(folder, steps, start_step=0, offset=0.0):
  files = metric_files.MetricFiles(folder, start_step)
  for step in steps:
    files.write(step, "train", {"loss": step + offset})
  files.close()


def _steps(folder, name="metrics.jsonl"):
  lines = (folder / name).read_text().splitlines()
  return [json.loads(line)["step"] for line in lines]


def test_lines_can_be_read_while_the_run_goes_on(tmp_path):
  files = metric_files.MetricFiles(tmp_path)
  files.write(10, "train", {"loss": 1.5, "label_tokens": 3})
  files.write(10, "validation/toy_label", {"label_accuracy": 0.25})
  assert metric_files.read_metrics(tmp_path) == [
    {"step": 10, "split": "train", "loss": 1.5, "label_tokens": 3.0},
    {"step": 10, "split": "validation/toy_label", "label_accuracy": 0.25},
  ]
  files.close()


def test_events_sort_as_they_were_written_whatever_the_clock(
  tmp_path, monkeypatch
):
  """TensorBoard reads files by name, and a clock may run backwards."""
  for seconds in (2_000_000_000, 1_000_000_000, 1_000_000_000.5, 5.0):
    monkeypatch.setattr(event_files.time, "time", lambda t=seconds: t)
    step = len(list(tmp_path.glob("events.*"))) + 1
    _write(tmp_path, [step], start_step=step - 1)
  assert len(list(tmp_path.glob("events.*"))) == 4
  events = [event for event in read_events(tmp_path) if event.summary.value]
  assert [event.step for event in events] == [1, 2, 3, 4]
  assert _steps(tmp_path) == [1, 2, 3, 4]


@pytest.mark.parametrize("line", ["[1]", "3", '{"split":"train"}', "\xff", "{"])
def test_a_damaged_line_is_left_out(tmp_path, line):
  _write(tmp_path, [10, 20])
  path = tmp_path / "metrics.jsonl"
  first, second = path.read_bytes().splitlines(keepends=True)
  path.write_bytes(first + line.encode("latin-1") + b"\n" + second)
  assert [row["step"] for row in metric_files.read_metrics(tmp_path)] == [
    10,
    20,
  ]
  _write(tmp_path, [20], start_step=10)
  assert _steps(tmp_path) == [10, 20]


def test_what_is_no_number_is_null(tmp_path):
  files = metric_files.MetricFiles(tmp_path)
  files.write(1, "train", {"a": math.nan, "b": math.inf, "c": -math.inf})
  files.close()

  def refuse(constant):
    raise AssertionError(f"{constant} is no JSON")

  line = json.loads(
    (tmp_path / "metrics.jsonl").read_text(), parse_constant=refuse
  )
  assert line == {"step": 1, "split": "train", "a": None, "b": None, "c": None}


@pytest.mark.parametrize("start_step", [0, 2])
def test_events_of_steps_that_are_made_again_are_purged(tmp_path, start_step):
  _write(tmp_path, [1, 2, 3])
  _write(tmp_path, [start_step + 1], start_step)
  starts = [
    event.step
    for event in read_events(tmp_path)
    if event.session_log.status == event_pb2.SessionLog.START
  ]
  # TensorBoard drops earlier events from this step on.
  assert starts == [1, start_step + 1]


def test_a_resumed_run_moves_later_lines_aside(tmp_path):
  _write(tmp_path, [10, 20, 30])
  _write(tmp_path, [30, 40], start_step=20, offset=0.5)
  assert [
    (row["step"], row["loss"]) for row in metric_files.read_metrics(tmp_path)
  ] == [(10, 10.0), (20, 20.0), (30, 30.5), (40, 40.5)]
  assert _steps(tmp_path, "metrics.superseded.jsonl") == [30]
  _write(tmp_path, [50], start_step=10)
  assert _steps(tmp_path) == [10, 50]
  assert _steps(tmp_path, "metrics.superseded.jsonl") == [30, 20, 30, 40]


def test_a_run_resumed_at_its_end_keeps_every_line(tmp_path):
  _write(tmp_path, [10, 20])
  _write(tmp_path, [30], start_step=20)
  assert _steps(tmp_path) == [10, 20, 30]
  assert not (tmp_path / "metrics.superseded.jsonl").exists()


def test_a_torn_last_line_is_dropped(tmp_path):
  _write(tmp_path, [10, 20])
  path = tmp_path / "metrics.jsonl"
  path.write_text(path.read_text()[:-5])
  assert [row["step"] for row in metric_files.read_metrics(tmp_path)] == [10]
  _write(tmp_path, [20, 30], start_step=10)
  assert _steps(tmp_path) == [10, 20, 30]


def test_a_run_that_wrote_nothing(tmp_path):
  assert metric_files.read_metrics(tmp_path) == []
  (tmp_path / "metrics.jsonl").touch()
  _write(tmp_path, [10])
  assert _steps(tmp_path) == [10]


class _FullDisk(RecordWriter):
  """A file whose every write fails, as on a full disk."""

  def __init__(self):
    pass

  def write(self, content):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

  flush = close = lambda self: self.write("")


@pytest.mark.parametrize("which", ["lines", "events"])
def test_a_full_disk_ends_the_run_and_does_not_hang(tmp_path, which):
  files = metric_files.MetricFiles(tmp_path)
  files.write(1, "train", {"loss": 1.0})
  if which == "lines":
    files._file.close()
    files._file = _FullDisk()
  else:
    files._events.close()
    files._events._writers["train"] = _FullDisk()
  # More often than a queue between threads would take.
  for step in range(2, 30):
    with pytest.raises(UserError, match="No space left.* intact. Free some"):
      files.write(step, "train", {"loss": 1.0})
  files.close()
  assert metric_files.read_metrics(tmp_path)[0]["step"] == 1


def test_a_folder_that_is_none(tmp_path):
  (tmp_path / "run").write_text("")
  with pytest.raises(UserError, match="run cannot be written: .*Not a dir"):
    metric_files.MetricFiles(tmp_path / "run")
