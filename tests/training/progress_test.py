"""Tests of training/progress.py."""

import io
import math

import pytest

from distill_jax.training import progress


class _Clock:
  seconds = 100.0

  def __call__(self):
    return self.seconds


class _Terminal(io.StringIO):
  def isatty(self):
    return True


def _run(steps, **kwargs):
  """Returns the lines of a run that takes one second a step."""
  stream, clock = io.StringIO(), _Clock()
  with progress.ProgressReporter(
    stream=stream, time_fn=clock, **kwargs
  ) as reporter:
    for step in steps:
      clock.seconds += 1
      reporter.update(step, {"loss": float(step)})
  return stream.getvalue().splitlines()


def test_plain_line_in_full():
  stream, clock = io.StringIO(), _Clock()
  reporter = progress.ProgressReporter(300, stream=stream, time_fn=clock)
  clock.seconds += 20  # compilation
  reporter.update(1, {"loss": 9.0})
  clock.seconds += 119 / 2.5
  reporter.update(
    120,
    {
      "loss": 2.3141,
      "label_loss": 1.02,
      "rationale_loss": 1.29,
      "examples_per_second": 412.3,
      "tokens_per_second": 18_234,
    },
  )
  assert stream.getvalue().splitlines() == [
    "step 1/300 · loss 9 · elapsed 0:20",
    "step 120/300 · loss 2.314 · label 1.02 · rationale 1.29 · 412 examples/s"
    " · 18.2k tokens/s · 2.5 steps/s · ETA 1:12 · elapsed 1:08",
  ]


def test_lines_keep_their_distance_and_include_first_and_last():
  lines = _run(range(1, 26), total_steps=25, min_seconds=10)
  assert [line.split()[1] for line in lines] == [
    "1/25",
    "11/25",
    "21/25",
    "25/25",
  ]


def test_a_run_cut_short_still_shows_its_last_step_once():
  lines = _run(range(1, 6), total_steps=25, min_seconds=10)
  assert [line.split()[1] for line in lines] == ["1/25", "5/25"]


def test_nothing_is_written_of_a_run_without_steps():
  assert _run([], total_steps=5, start_step=5) == []


def test_the_rate_of_a_resumed_run_counts_its_own_steps():
  lines = _run(range(101, 112), total_steps=121, start_step=100)
  assert "1 steps/s · ETA 0:10 · elapsed 0:11" in lines[-1]


def test_terminal_gets_one_bar_and_no_lines():
  stream = _Terminal()
  with progress.ProgressReporter(
    20, start_step=10, description="train", stream=stream
  ) as reporter:
    for step in range(11, 21):
      reporter.update(step, {"label_loss": 0.5, "tokens_per_second": 2e6})
  shown = stream.getvalue()
  assert "10/20" in shown.split("\r")[1]
  assert "train: 100%" in shown and "20/20" in shown
  assert "label 0.5 · 2M tokens/s" in shown
  assert shown.count("\n") == 1


def test_a_line_that_stays_follows_the_step_it_is_of():
  stream, clock = io.StringIO(), _Clock()
  with progress.ProgressReporter(9, stream=stream, time_fn=clock) as reporter:
    for step in (1, 2):
      reporter.update(step, {})
    reporter.show("validation at step 2")
    reporter.update(3, {})
  lines = [line.partition(" ·")[0] for line in stream.getvalue().splitlines()]
  assert lines == ["step 1/9", "step 2/9", "validation at step 2", "step 3/9"]


def test_a_line_that_stays_is_whole_beside_a_bar():
  stream = _Terminal()
  with progress.ProgressReporter(20, stream=stream) as reporter:
    reporter.update(10, {})
    reporter.show("validation at step 10")
  assert "\rvalidation at step 10\n" in stream.getvalue()


def test_standard_error_is_the_default(capsys):
  with progress.ProgressReporter(2) as reporter:
    reporter.update(2, {})
  captured = capsys.readouterr()
  assert captured.err.startswith("step 2/2") and not captured.out


@pytest.mark.parametrize(
  "value, expected",
  [
    (0, "0"),
    (2.3141, "2.31"),
    (0.00005, "5e-05"),
    (-1234, "-1.23k"),
    (999.4, "999"),
    (999.9, "1k"),
    (999_950, "1M"),
    (18_234, "18.2k"),
    (7.5e9, "7.5G"),
    (math.inf, "inf"),
    (math.nan, "nan"),
  ],
)
def test_format_number(value, expected):
  assert progress.format_number(value) == expected
