"""Tests of experiments/aggregation.py."""

import dataclasses

import numpy as np
import pytest
from run_results import make_run

from distill_jax.answers import text_metrics
from distill_jax.errors import UserError
from distill_jax.experiments import aggregation, results, statistics
from distill_jax.experiments.results import RunResult


def test_aggregate_by_hand():
  cells = aggregation.aggregate(
    [
      make_run("finetune", 200, 0, [1, 1, 1, 0]),
      make_run("distill", 100, 0, [1, 1, 0, 0]),
      make_run("finetune", 100, 1, [1, 0, 0, 0], seconds=30),
      make_run("finetune", 100, 0, [1, 1, 1, 1], seconds=90),
    ]
  )
  assert [(cell.arm, cell.num_train_examples) for cell in cells] == [
    ("finetune", 100),
    ("finetune", 200),
    ("distill", 100),
  ]
  low, high = statistics.estimate_mean(
    np.array([1 / 4, 1]),
    statistics.make_example_term(np.array([1, 0.5, 0.5, 0.5]), (0, 1)),
  )
  assert cells[0] == aggregation.Cell(
    arm="finetune",
    size=100,
    num_train_examples=100,
    num_seeds=2,
    num_examples=8,
    num_correct=5,
    mean_accuracy=5 / 8,
    min_accuracy=1 / 4,
    max_accuracy=1,
    low=low,
    high=high,
    mean_seconds=60,
  )
  # One run: Wilson's.
  assert (cells[1].low, cells[1].high) == text_metrics.wilson_interval(3, 4)


def test_a_run_given_twice_is_refused():
  rows = [make_run("distill", 100, 3, [1, 0])] * 2
  with pytest.raises(UserError, match="distill on 100 .* seed 3"):
    aggregation.aggregate(rows)


def test_seeds_that_differ_widen_the_interval():
  # Both arms answer 1,000 of 2,000.
  steady = [make_run("a", 10, s, [1] * 500 + [0] * 500) for s in (0, 1)]
  restless = [
    make_run("a", 10, s, [1] * count + [0] * (1000 - count))
    for s, count in enumerate((450, 550))
  ]
  (narrow,) = aggregation.aggregate(steady)
  (wide,) = aggregation.aggregate(restless)
  assert narrow.mean_accuracy == wide.mean_accuracy == 0.5
  # Twice the same answers are no more than one run's.
  low, high = text_metrics.wilson_interval(500, 1000)
  assert (narrow.low, narrow.high) == pytest.approx((low, high), abs=0.001)
  assert wide.high - wide.low > 3 * (narrow.high - narrow.low)


def test_without_answers_by_example_the_interval_is_no_narrower():
  rng = np.random.default_rng(1)
  rows = [make_run("a", 10, s, rng.random(300) < 0.6) for s in range(4)]
  bare = [dataclasses.replace(row, correct_by_id={}) for row in rows]
  (kept,), (counted,) = map(aggregation.aggregate, (rows, bare))
  assert counted.low < kept.low < kept.high < counted.high


def test_the_interval_holds_for_new_seeds_and_examples():
  rng = np.random.default_rng(2)
  held = 0
  for _ in range(300):
    ease = rng.normal(0, 1.5, 400)
    odds = ease + rng.normal(0, 0.2, (3, 1))
    correct = rng.random((3, 400)) < 1 / (1 + np.exp(-odds))
    low, high = statistics.estimate_mean(
      correct.mean(1), statistics.make_example_term(correct.mean(0), (0, 1))
    )
    held += low < 0.5 < high
  assert held > 0.93 * 300


def test_answers_are_stacked_by_id_and_not_by_position():
  run = make_run("a", 10, 0, [1, 1, 0])
  other = dataclasses.replace(
    run, seed=1, correct_by_id=dict(reversed(run.correct_by_id.items()))
  )
  stacked = aggregation.stack_answers([run, other])
  assert stacked.tolist() == [[True, True, False]] * 2
  for odd in (
    RunResult("b", 10, 0, 1, 2, {}, 1.0),
    RunResult("b", 10, 0, 1, 2, {"x": True, "y": False}, 1.0),
  ):
    assert aggregation.stack_answers([run, odd]) is None
    assert aggregation.stack_answers([odd, run]) is None


def test_numbers_of_runs_are_averaged_where_they_are_numbers():
  rows = [
    make_run("a", 10, 0, [1], tokens=100, best_step=None, note="x", ok=True),
    make_run("a", 10, 1, [1], tokens=200, best_step=50, loss=float("nan")),
  ]
  (cell,) = aggregation.aggregate(rows)
  assert cell.mean_metrics == {"tokens": 150, "best_step": 50}


def test_the_time_of_a_run_is_that_of_runs_never_stopped():
  whole = RunResult("a", 10, 0, 1, 2, {}, 60.0)
  part = RunResult("a", 10, 1, 1, 2, {}, 2.0, {results.RESUMED: 1})
  (cell,) = aggregation.aggregate([whole, part])
  assert cell.mean_seconds == 60.0
  (cell,) = aggregation.aggregate([part])
  assert cell.mean_seconds is None
