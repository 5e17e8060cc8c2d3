"""Tests of experiments/statistics.py.

The level and the power are measured on worlds of scripts/simulate_verdicts.py,
the formulas against numbers of statsmodels that
scripts/make_statistics_golden.py wrote.
"""

import json
import math
import pathlib

import numpy as np
import pytest
import scipy.stats
from script_import import import_script

from distill_jax.experiments import statistics
from distill_jax.experiments.statistics import VarianceTerm

_GOLDEN = pathlib.Path(__file__).parents[1] / "testdata/statistics_golden.json"

simulation = import_script("simulate_verdicts")
oracle = import_script("make_statistics_golden")


def _measure(rule, num_worlds, num_seeds, seed_sd, **world):
  worlds = simulation.draw_worlds(
    np.random.default_rng(0),
    num_worlds,
    (num_seeds, num_seeds),
    num_examples=1000,
    seed_sd=seed_sd,
    **world,
  )
  return np.mean([rule(*answers) for answers in worlds])


def test_numbers_are_those_of_statsmodels():
  golden = json.loads(_GOLDEN.read_text(encoding="utf-8"))
  deviations = oracle.measure_deviations(golden)
  power = deviations.pop("power effect")
  assert len(deviations) == 9 and max(deviations.values()) < 1e-12
  # Integrated by us, in units of an SD.
  assert power < 1e-4


@pytest.mark.parametrize("num_seeds", [2, 3, 5])
@pytest.mark.parametrize("seed_sd", [0.0, 0.015, 0.03])
def test_equal_arms_are_seldom_called_different(seed_sd, num_seeds):
  rate = _measure(simulation.is_shown, 300, num_seeds, seed_sd)
  assert rate <= 0.07


def test_arms_that_find_different_examples_hard_are_called_equal():
  world = (300, 5, 0.0)
  assert _measure(simulation.is_shown, *world, arm_sd=1.0) <= 0.07
  # Seeds alone do not know that another test set would differ.
  assert _measure(simulation.is_shown_by_welch, *world, arm_sd=1.0) > 0.08


@pytest.mark.parametrize("num_seeds", [2, 5])
def test_test_examples_alone_call_seeds_a_difference(num_seeds):
  # What the report did before: more seeds do not mend it.
  world = (300, num_seeds, 0.03)
  assert _measure(simulation.is_shown_by_examples, *world) > 0.3
  assert _measure(simulation.is_shown, *world) <= 0.07


@pytest.mark.parametrize("num_seeds, power", [(3, 0.42), (5, 0.72)])
def test_five_points_are_shown_as_often_as_seeds_allow(num_seeds, power):
  # A run's accuracy has an SD of 2.4 points, of which the seed's share is 2.0.
  rate = _measure(simulation.is_shown, 600, num_seeds, 0.0204, difference=0.05)
  assert rate > power - 2 * math.sqrt(power * (1 - power) / 600)


def test_a_planned_difference_is_shown_four_times_in_five():
  # What users know is the SD on one test set, single answers' chance included.
  measured_sd = math.hypot(0.03, math.sqrt(0.17 / 1000))
  difference = statistics.planned_difference(measured_sd, 3, 1000)
  rate = _measure(simulation.is_shown, 600, 3, 0.03, difference=difference)
  assert rate == pytest.approx(0.8, abs=0.04)


def test_the_variance_by_hand():
  correct_a = np.array([[1, 1, 0, 0], [1, 1, 1, 0], [1, 1, 1, 0]], bool)
  correct_b = np.array([[1, 0, 0, 0], [0, 1, 1, 0]], bool)
  estimate = statistics.compare_paired(correct_a, correct_b)
  # Accuracies 1/2, 3/4, 3/4 and 1/4, 1/2.
  seeds_a, seeds_b = (1 / 48) / 3, (1 / 32) / 2
  per_example = [1 / 2, 1 / 2, 2 / 3 - 1 / 2, 0, 1, -1]
  examples = np.var(per_example, ddof=1) / 4
  variance = seeds_a + seeds_b + examples
  degrees = variance**2 / (seeds_a**2 / 2 + seeds_b**2 / 1 + examples**2 / 5)
  assert estimate.difference == pytest.approx(2 / 3 - 3 / 8)
  assert estimate.standard_error == pytest.approx(math.sqrt(variance))
  assert estimate.degrees_of_freedom == pytest.approx(degrees)
  assert estimate.seed_sd == pytest.approx(math.sqrt((2 / 48 + 1 / 32) / 3))
  t = estimate.difference / math.sqrt(variance)
  assert estimate.p_value == pytest.approx(2 * scipy.stats.t.sf(t, degrees))
  margin = scipy.stats.t.ppf(0.975, degrees) * math.sqrt(variance)
  assert estimate.low == pytest.approx(estimate.difference - margin)
  # The upper bound would be above 1.
  assert estimate.difference + margin > 1 and estimate.high == 1


def test_exchanged_arms_give_the_mirrored_estimate():
  rng = np.random.default_rng(3)
  correct_a, correct_b = rng.random((1, 90)) < 0.6, rng.random((4, 90)) < 0.5
  one = statistics.compare_paired(correct_a, correct_b)
  other = statistics.compare_paired(correct_b, correct_a)
  assert (one.difference, one.low, one.high) == pytest.approx(
    (-other.difference, -other.high, -other.low)
  )
  assert one.p_value == pytest.approx(other.p_value)


def test_runs_that_all_agree_prove_no_equality_to_the_last_digit():
  correct = np.array([[True] * 60 + [False] * 140])
  for count_a, count_b in ((1, 1), (1, 4), (3, 2)):
    estimate = statistics.compare_paired(
      np.repeat(correct, count_a, axis=0), np.repeat(correct, count_b, axis=0)
    )
    assert estimate.difference == 0 and estimate.p_value == 1
    assert -0.03 < estimate.low < -0.005 and 0.005 < estimate.high < 0.03
  counts = statistics.compare_unpaired([(200, 200)] * 3, [(200, 200)] * 3)
  assert counts.p_value == 1 and counts.low < 0 < counts.high
  with pytest.raises(ValueError, match="do not vary"):
    statistics.compare_means(np.ones(2), np.zeros(2))


def test_an_arm_of_one_run_has_the_other_arms_spread():
  accuracies = np.array([0.50, 0.52, 0.57])
  estimate = statistics.compare_means(
    np.array([0.7]), accuracies, [VarianceTerm(1e-4, 999)]
  )
  spread = np.std(accuracies, ddof=1)
  assert estimate.seed_sd == pytest.approx(spread)
  assert estimate.standard_error == pytest.approx(
    math.sqrt(spread**2 * (1 + 1 / 3) + 1e-4)
  )
  assert estimate.degrees_of_freedom == 2


@pytest.mark.parametrize("total", [1, 2, 5, 40])
def test_the_interval_of_two_runs_does_not_contradict_its_p(total):
  for only_a in range(total + 1):
    for only_b in range(total + 1 - only_a):
      correct_a = np.arange(total) < only_a
      correct_b = np.arange(total)[::-1] < only_b
      estimate = statistics.compare_paired(
        correct_a[np.newaxis], correct_b[np.newaxis]
      )
      leaves_out_zero = estimate.low > 0 or estimate.high < 0
      assert leaves_out_zero == (estimate.p_value < 0.05)
      assert estimate.low <= estimate.difference <= estimate.high


@pytest.mark.parametrize("degrees", [1, 1.5, 4, 30, 99])
def test_power_of_one_term_is_the_noncentral_ts(degrees):
  shift = statistics.detectable_difference([VarianceTerm(1.0, degrees)])
  critical = scipy.stats.t.ppf(0.975, degrees)
  shown = scipy.stats.nct.sf(critical, degrees, shift)
  shown += scipy.stats.nct.sf(critical, degrees, -shift)
  assert shown == pytest.approx(0.8, abs=1e-4)


def test_power_of_known_terms_is_the_normals():
  terms = [VarianceTerm(0.25, math.inf), VarianceTerm(0.75, math.inf)]
  assert statistics.detectable_difference(terms) == pytest.approx(
    scipy.stats.norm.ppf(0.975) + scipy.stats.norm.ppf(0.8), abs=1e-4
  )


def test_power_of_many_uncertain_terms_takes_the_two_least_certain():
  terms = [VarianceTerm(1.0, degrees) for degrees in (1, 2, 21, 21)]
  known = [VarianceTerm(1.0, degrees) for degrees in (1, 2, 101, 101)]
  assert statistics.detectable_difference(terms) == pytest.approx(
    statistics.detectable_difference(known), rel=0.03
  )


def test_more_seeds_and_examples_show_smaller_differences():
  plans = [
    statistics.planned_difference(0.03, seeds, examples)
    for seeds, examples in ((2, 500), (3, 500), (5, 500), (5, 5000))
  ]
  assert plans == sorted(plans, reverse=True)
  assert statistics.planned_difference(0.0, 5, 500) > 0


def test_no_comparison_needs_no_correction():
  assert statistics.adjust_holm([]) == []
