"""Tests of experiments/aggregation.py."""

import numpy as np
import pytest

from distill_jax.errors import UserError
from distill_jax.evaluation import text_metrics
from distill_jax.experiments import aggregation
from distill_jax.experiments.results import RunResult


def _make_run(method, size, seed, correct, seconds=60.0):
  return RunResult(
    method=method,
    num_train_examples=size,
    seed=seed,
    num_correct=int(sum(correct)),
    num_examples=len(correct),
    correct_by_id={str(i): bool(value) for i, value in enumerate(correct)},
    seconds=seconds,
  )


def test_aggregate_by_hand():
  cells = aggregation.aggregate(
    [
      _make_run("finetune", 200, 0, [1, 1, 1, 0]),
      _make_run("distill", 100, 0, [1, 1, 0, 0]),
      _make_run("finetune", 100, 1, [1, 0, 0, 0], seconds=30),
      _make_run("finetune", 100, 0, [1, 1, 1, 1], seconds=90),
    ]
  )
  assert [(cell.method, cell.num_train_examples) for cell in cells] == [
    ("finetune", 100),
    ("finetune", 200),
    ("distill", 100),
  ]
  low, high = text_metrics.wilson_interval(5, 8)
  assert cells[0] == aggregation.Cell(
    method="finetune",
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


def test_a_run_given_twice_is_refused():
  rows = [_make_run("distill", 100, 3, [1, 0])] * 2
  with pytest.raises(UserError, match="distill on 100 .* seed 3"):
    aggregation.aggregate(rows)


def test_compare_against_a_plain_bootstrap():
  rng = np.random.default_rng(5)
  correct_a = rng.random((2, 300)) < 0.6
  correct_b = rng.random((3, 300)) < 0.5
  rows = [_make_run("a", 100, seed, row) for seed, row in enumerate(correct_a)]
  rows += [_make_run("b", 100, seed, row) for seed, row in enumerate(correct_b)]
  comparison = aggregation.compare(rows, "a", "b", 100)

  per_example = correct_a.mean(0) - correct_b.mean(0)
  population = np.append(per_example, [1, -1])
  means = [rng.choice(population, 300).mean() for _ in range(4000)]
  assert comparison.difference == pytest.approx(per_example.mean())
  assert (comparison.low, comparison.high) == pytest.approx(
    tuple(np.quantile(means, (0.025, 0.975))), abs=0.006
  )
  assert comparison.num_examples == 300
  assert comparison == aggregation.compare(rows, "a", "b", 100)


def test_examples_are_paired_by_id_and_not_by_position():
  run = _make_run("a", 10, 0, [1] * 50 + [0] * 50)
  other = RunResult(
    method="b",
    num_train_examples=10,
    seed=0,
    num_correct=50,
    num_examples=100,
    correct_by_id=dict(reversed(run.correct_by_id.items())),
    seconds=1,
  )
  comparison = aggregation.compare([run, other], "a", "b", 10)
  # Equal on every example: only the two added ones can differ.
  assert comparison.difference == 0
  assert -0.05 < comparison.low < 0 < comparison.high < 0.05


def test_a_clear_lead_is_distinguishable_in_either_direction():
  rows = [
    _make_run("a", 10, 0, [1] * 100 + [0] * 100),
    _make_run("b", 10, 0, [1] * 60 + [0] * 140),
  ]
  comparison = aggregation.compare(rows, "a", "b", 10)
  mirrored = aggregation.compare(rows, "b", "a", 10)
  assert comparison.is_distinguishable and comparison.low > 0.1
  assert mirrored.is_distinguishable and mirrored.high < -0.1


@pytest.mark.parametrize(
  "num_examples, num_better", [(1, 1), (3, 3), (200, 4), (200, 0)]
)
def test_a_handful_of_examples_proves_nothing(num_examples, num_better):
  better = [1] * num_better + [0] * (num_examples - num_better)
  rows = [
    _make_run("a", 10, 0, better),
    _make_run("b", 10, 0, [0] * num_examples),
  ]
  assert not aggregation.compare(rows, "a", "b", 10).is_distinguishable


def test_runs_that_cannot_be_paired_are_not_compared():
  run = _make_run("a", 10, 0, [1, 0])
  counts_only = RunResult("b", 10, 0, 1, 2, {}, 1.0)
  other_examples = RunResult("b", 10, 0, 1, 2, {"x": True, "y": False}, 1.0)
  for rows in ([run], [run, counts_only], [run, other_examples]):
    assert aggregation.compare(rows, "a", "b", 10) is None
  assert aggregation.compare_all([run, counts_only]) == []


def test_compare_all_takes_each_pair_once_baseline_last():
  rows = [
    _make_run(method, size, 0, [1, 0])
    for method in ("finetune", "distill", "joint")
    for size in (200, 100)
  ]
  pairs = [
    (each.num_train_examples, each.method_a, each.method_b)
    for each in aggregation.compare_all(rows)
  ]
  assert pairs == [
    (size, later, earlier)
    for size in (100, 200)
    for later, earlier in (
      ("distill", "finetune"),
      ("joint", "finetune"),
      ("joint", "distill"),
    )
  ]
