"""Tests of experiments/verdicts.py."""

import dataclasses

import numpy as np
import pytest
from run_results import make_run

from distill_jax.errors import UserError
from distill_jax.experiments import statistics, verdicts
from distill_jax.experiments.results import RunResult


def _make_rows(arm, correct, size=100):
  return [make_run(arm, size, s, answers) for s, answers in enumerate(correct)]


def _draw(seed, num_seeds, share, num_examples=400):
  rng = np.random.default_rng(seed)
  return rng.random((num_seeds, num_examples)) < share


def test_a_verdict_is_the_estimate_of_its_runs():
  correct_a, correct_b = _draw(1, 4, 0.6), _draw(2, 3, 0.5)
  rows = _make_rows("b", correct_b) + _make_rows("a", correct_a)
  (verdict,) = verdicts.compare_arms(rows)
  estimate = statistics.compare_paired(correct_a, correct_b)
  assert verdict == verdicts.Verdict(
    arm_a="a",
    arm_b="b",
    size=100,
    num_train_examples_a=100,
    num_train_examples_b=100,
    num_seeds_a=4,
    num_seeds_b=3,
    num_examples=400,
    difference=estimate.difference,
    low=estimate.low,
    high=estimate.high,
    p_value=estimate.p_value,
    adjusted_p_value=estimate.p_value,
    degrees_of_freedom=estimate.degrees_of_freedom,
    seed_sd=estimate.seed_sd,
    detectable=estimate.detectable,
    basis="seeds",
    is_paired=True,
    num_comparisons=1,
  )
  assert verdict.is_shown
  assert verdicts.describe(verdict) == "a higher (p < 0.001)"


def test_examples_are_paired_by_id_and_not_by_position():
  run = make_run("a", 10, 0, [1] * 50 + [0] * 50)
  other = dataclasses.replace(
    run, arm="b", correct_by_id=dict(reversed(run.correct_by_id.items()))
  )
  (verdict,) = verdicts.compare_arms([run, other])
  # Equal on every example, which proves no equality to the last digit.
  assert verdict.difference == 0 and verdict.p_value == 1
  assert -0.05 < verdict.low < 0 < verdict.high < 0.05


def test_every_pair_once_at_every_size_the_baseline_last():
  rows = [
    make_run(arm, size, 0, [1, 0])
    for arm in ("finetune", "distill", "joint")
    for size in (200, 100)
  ]
  found = verdicts.compare_arms(rows)
  assert [(each.size, each.arm_a, each.arm_b) for each in found] == [
    (size, later, earlier)
    for size in (100, 200)
    for later, earlier in (
      ("distill", "finetune"),
      ("joint", "finetune"),
      ("joint", "distill"),
    )
  ]
  assert {each.num_comparisons for each in found} == {6}


def test_only_declared_comparisons_are_made_and_corrected_for():
  rows = [
    row
    for index, arm in enumerate(("base", "better", "other"))
    for row in _make_rows(arm, _draw(index, 4, 0.5 + 0.1 * (arm == "better")))
  ]
  (declared,) = verdicts.compare_arms(rows, [("better", "base")])
  every = verdicts.compare_arms(rows)
  (same,) = (each for each in every if (each.arm_a, each.arm_b) == (
    "better", "base"
  ))  # fmt: skip
  assert declared.adjusted_p_value == declared.p_value == same.p_value
  assert 2 * same.p_value <= same.adjusted_p_value <= 3 * same.p_value
  (mirrored,) = verdicts.compare_arms(rows, [("base", "better")])
  assert mirrored.difference == -declared.difference
  assert mirrored.p_value == declared.p_value
  # An arm without runs yet is waited for.
  assert verdicts.compare_arms(rows, [("better", "still to come")]) == []


@pytest.mark.parametrize(
  "comparisons, message",
  [
    ([("a", "a")], "no comparison"),
    ([("a", "b", "c")], "no comparison"),
    ([("a", "b"), ("b", "a")], "twice"),
  ],
)
def test_what_is_no_comparison_is_refused(comparisons, message):
  with pytest.raises(UserError, match=message):
    verdicts.compare_arms([], comparisons)


def test_a_run_given_twice_is_refused():
  rows = _make_rows("a", [[1, 0]]) * 2
  with pytest.raises(UserError, match="two results of a"):
    verdicts.compare_arms(rows)


def test_one_seed_speaks_of_its_runs_only():
  rows = _make_rows("a", [[1] * 60 + [0] * 140])
  rows += _make_rows("b", [[1] * 30 + [0] * 170])
  (verdict,) = verdicts.compare_arms(rows)
  assert verdict.basis == "this run only"
  assert verdict.degrees_of_freedom is None and verdict.seed_sd is None
  assert verdict.p_value == pytest.approx(2**-30)
  assert verdicts.describe(verdict) == "a higher in these two runs (p < 0.001)"
  rows = rows[:1] + _make_rows("b", _draw(0, 1, 0.3, 200))
  (equal,) = verdicts.compare_arms(rows)
  assert verdicts.describe(equal) == "no difference shown in these two runs"


@pytest.mark.parametrize(
  "num_examples, num_better", [(1, 1), (3, 3), (200, 4), (200, 0)]
)
@pytest.mark.parametrize("seeds_a, seeds_b", [(1, 1), (1, 3), (2, 2), (3, 2)])
def test_a_handful_of_examples_proves_nothing(
  num_examples, num_better, seeds_a, seeds_b
):
  better = [1] * num_better + [0] * (num_examples - num_better)
  rows = _make_rows("a", [better] * seeds_a)
  rows += _make_rows("b", [[0] * num_examples] * seeds_b)
  (verdict,) = verdicts.compare_arms(rows)
  assert not verdict.is_shown
  assert verdict.low <= 0 <= verdict.high and verdict.low < verdict.high
  assert verdict.low <= verdict.difference <= verdict.high


@pytest.mark.parametrize(
  "ids_b", [{}, {str(i + 500): i < 190 for i in range(400)}]
)
@pytest.mark.parametrize("num_seeds", [1, 3])
def test_runs_that_cannot_be_paired_are_compared_with_more_caution(
  num_seeds, ids_b
):
  rows_a = _make_rows("a", [[1] * 210 + [0] * 190] * num_seeds)
  rows_b = [
    RunResult("b", 100, seed, 190, 400, ids_b, 1.0) for seed in range(num_seeds)
  ]
  (verdict,) = verdicts.compare_arms(rows_a + rows_b)
  assert not verdict.is_paired and not verdict.is_shown
  assert verdict.difference == pytest.approx(-0.05)
  # The standard error of two shares of 400 examples, 0.035.
  assert verdict.high - verdict.low == pytest.approx(0.138, abs=0.002)
  paired = verdicts.compare_arms(
    rows_a + _make_rows("b", [[1] * 190 + [0] * 210] * num_seeds)
  )
  assert paired[0].is_shown


def test_what_a_design_would_show_is_said():
  rows = _make_rows("a", _draw(3, 3, 0.5)) + _make_rows("b", _draw(4, 3, 0.5))
  (verdict,) = verdicts.compare_arms(rows)
  points = f"{100 * verdict.detectable:.1f}"
  assert verdicts.describe(verdict) == (
    f"no difference shown; this design would show {points} points 4 times in 5"
  )
  hopeless = dataclasses.replace(verdict, detectable=1.2)
  assert "would not show even 100 points" in verdicts.describe(hopeless)
  lost = dataclasses.replace(
    verdict, p_value=0.02, adjusted_p_value=0.06, num_comparisons=3
  )
  assert verdicts.describe(lost) == (
    "no difference shown after Holm (p = 0.020 before)"
  )
  won = dataclasses.replace(lost, adjusted_p_value=0.012, difference=-0.1)
  assert verdicts.describe(won) == "a higher (p = 0.012 after Holm)"


def test_a_plan_says_what_it_can_show():
  plan = verdicts.describe_plan(0.03, 5, 1000)
  points = 100 * statistics.planned_difference(0.03, 5, 1000)
  assert f"a true difference of {points:.1f} points is shown 4 times" in plan
  assert "Warning" not in plan
  assert "below 3 seeds" in verdicts.describe_plan(0.03, 2, 1000)
  assert "not even a difference of 100" in verdicts.describe_plan(0.2, 2, 50)
  assert "State SEED_SD" in verdicts.describe_plan(None, 5, 1000)
  # 1.96 times the square root of 2 times 3.
  one = verdicts.describe_plan(0.03, 1, 1000)
  assert "up to 8.3 points apart" in one and "these runs only" in one
  assert "these runs only" in verdicts.describe_plan(None, 1, 1000)


@pytest.mark.parametrize(
  "p_value, text",
  [(0.0004, "< 0.001"), (0.0123, "= 0.012"), (0.0496, "= 0.050"),
   (0.123, "= 0.12"), (1.0, "= 1.00")],
)  # fmt: skip
def test_p_values_are_short(p_value, text):
  assert verdicts.format_p(p_value) == text


def test_comparisons_whose_runs_are_missing_count_in_the_family():
  rows = _make_rows("a", [[True] * 90 + [False] * 10] * 3) + _make_rows(
    "b", [[True] * 70 + [False] * 30] * 3
  )
  (alone,) = verdicts.compare_arms(rows, [("a", "b")])
  (one_of_six,) = verdicts.compare_arms(rows, [("a", "b")], num_planned=6)
  assert one_of_six.p_value == alone.adjusted_p_value
  assert one_of_six.adjusted_p_value == pytest.approx(6 * alone.p_value)
  assert one_of_six.num_comparisons == 6
