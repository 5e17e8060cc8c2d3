"""Tests of runs/sweep_progress.py.

The plan, and what is left over the whole.
"""

import types

import pytest

from distill_jax.experiments import results
from distill_jax.runs import sweep_cells, sweep_progress


def make_cells(num_seeds=2, rows=(8, 16)):
  cells = []
  for seed in range(num_seeds):
    for name, count in zip(("a", "b"), rows, strict=True):
      settings = types.SimpleNamespace(
        train_steps=10, feed=types.SimpleNamespace(batch_rows=count)
      )
      arm = sweep_cells.Arm(name, {}, {4: range(num_seeds)})
      cells.append(sweep_cells.Cell(arm, 4, seed, settings))
  return cells


def test_the_plan_counts_runs_and_says_what_they_can_show():
  text = sweep_progress.describe_plan(make_cells(5), ["a-4-seed0"], 500, 0.03)
  assert text.startswith("The sweep has 10 runs: a 5, b 5.\n")
  assert "There already: 1; to train: 9." in text
  assert "5 seeds an arm, 500 test examples" in text
  assert "Warning" not in text


def test_the_plan_warns_of_few_seeds():
  for num_examples in (500, None):
    text = sweep_progress.describe_plan(make_cells(), [], num_examples, None)
    assert "There already" not in text
    assert "below 3" in text.lower()


def test_the_plan_says_what_each_number_of_seeds_can_show():
  cells = make_cells(5)
  few = sweep_cells.Arm("a", {}, {4: range(5), 8: range(3)})
  cells.append(sweep_cells.Cell(few, 8, 0))
  text = sweep_progress.describe_plan(cells, [], 500, 0.03)
  assert text.index("5 seeds an arm") < text.index("3 seeds an arm")


def test_what_is_left_is_weighed_by_steps_and_rows_of_each_arm():
  cells, lines = make_cells(), []
  progress = sweep_progress.Progress(cells, {}, lines.append)
  progress.start(cells[0])
  progress.end(cells[0], 10.0, "50.0% right on test")
  # A run that fails at once makes no other fast.
  progress.end(cells[1], 0.1, None)
  progress.end(cells[2], 8.0, "x")
  progress.start(cells[3])
  progress.end(cells[3], 16.0, "x")
  assert lines == [
    "Run 1 of 4, a, 4 examples, seed 0 begins; 4 runs left",
    "Run 1 of 4, a, 4 examples, seed 0: 50.0% right on test after 10 s; 3 runs"
    " left, about 50 s in all",
    "Run 2 of 4, b, 4 examples, seed 0: failed after 0 s; 2 runs left, about"
    " 30 s in all",
    "Run 3 of 4, a, 4 examples, seed 1: x after 8 s; 1 run left, about 16 s in"
    " all",
    "Run 4 of 4, b, 4 examples, seed 1 begins; 1 run left, about 16 s in all",
    "Run 4 of 4, b, 4 examples, seed 1: x after 16 s; it was the last",
  ]


def test_earlier_runs_say_how_long_the_first_will_take():
  cells, lines = make_cells(), []
  earlier = results.RunResult("a", 4, 0, 1, 2, {}, 20.0)
  progress = sweep_progress.Progress(
    cells, {"a-4-seed0": earlier}, lines.append
  )
  progress.start(cells[1])
  assert lines[0].endswith("begins; 3 runs left, about 1 min 40 s in all")


@pytest.mark.parametrize(
  ("seconds", "shown"),
  [
    (0.4, "0 s"),
    (59.6, "1 min 00 s"),
    (200, "3 min 20 s"),
    (7500, "2 h 05 min"),
  ],
)
def test_seconds_are_shown_in_units_of_their_size(seconds, shown):
  assert sweep_progress.format_seconds(seconds) == shown
