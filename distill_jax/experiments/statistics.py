"""Statistics of two arms whose accuracy differs between seeds.

Arrays and counts in, numbers out: it knows nothing of runs, tables or words.

The model. A run's accuracy on a test set has two sources of chance: its seed
(initial weights, order of examples, dropout) and the test examples. A
difference of two arms is estimated with the variance

  s_a^2 / S_a + s_b^2 / S_b + s_d^2 / n,

where s_a is the standard deviation of arm a's accuracies over its S_a seeds and
s_d that of the n per-example differences, each averaged over seeds. Degrees of
freedom are Satterthwaite's (1946). s_a holds some of the test examples' chance
already, so the sum errs on the side of caution; in exchange it holds for other
seeds and other test examples, with as few as two seeds.
`scripts/simulate_verdicts.py` measures both.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import scipy.optimize
import scipy.stats

LEVEL = 0.05
POWER = 0.8
# What is assumed of runs that are not made yet: the share of test examples that
# two runs of equally good arms answer differently.
PLANNED_DISCORDANCE = 0.3
# Terms of more degrees of freedom are taken as known where power is computed.
_MANY = 100
# Of Gauss and Legendre's rule over the distribution of each other term.
_NUM_NODES = 40


@dataclasses.dataclass(frozen=True)
class VarianceTerm:
  """One part of a difference's variance.

  Attributes:
    variance: of the difference, from this source.
    degrees_of_freedom: how well it is known; infinite: exactly.
  """

  variance: float
  degrees_of_freedom: float


@dataclasses.dataclass(frozen=True)
class Estimate:
  """A difference of two arms' accuracies.

  Attributes:
    difference: first arm minus second, in [-1, 1].
    low: lower bound of the 95% interval.
    high: upper bound.
    p_value: two-sided, of the hypothesis that the arms are equal.
    standard_error: of the difference.
    degrees_of_freedom: of Student's t; infinite: the normal distribution.
    terms: what the variance is made of.
    seed_sd: standard deviation of a run's accuracy over seeds, pooled over the
      arms; None: neither arm has two runs, so the estimate speaks of these runs
      only.
  """

  difference: float
  low: float
  high: float
  p_value: float
  standard_error: float
  degrees_of_freedom: float
  terms: Sequence[VarianceTerm]
  seed_sd: float | None

  @property
  def detectable(self) -> float:
    """The true difference that such a design shows in 80% of cases."""
    return detectable_difference(self.terms)


def compare_paired(correct_a: np.ndarray, correct_b: np.ndarray) -> Estimate:
  """Compares two arms that answered the same test examples.

  With one run each: McNemar's mid-p and Agresti & Min's interval. Else: the
  variance of the module's docstring. An arm of one run has no spread of its
  own; it is taken to be that of the other arm, as in a t test of equal
  variances. Seeds are not paired: where arms share what a seed shapes, that
  errs on the side of caution.

  Args:
    correct_a: whether each run answered each example, [runs, examples].
    correct_b: of the other arm, [runs, examples], in the same order.

  Returns:
    The estimate.
  """
  if len(correct_a) == len(correct_b) == 1:
    return _compare_two_runs(correct_a[0], correct_b[0])
  differences = correct_a.mean(axis=0) - correct_b.mean(axis=0)
  return compare_means(
    correct_a.mean(axis=1),
    correct_b.mean(axis=1),
    [make_example_term(differences, (-1, 1))],
  )


def compare_unpaired(
  counts_a: Sequence[tuple[int, int]], counts_b: Sequence[tuple[int, int]]
) -> Estimate:
  """Compares two arms of which only counts are known, or on other examples.

  Welch's t over seeds, with the binomial variance of each arm's test examples
  added: nothing says that they are the same, and without it two test sets drawn
  apart would pass for a difference of the arms.

  Args:
    counts_a: right answers and examples of each run.
    counts_b: of the other arm.

  Returns:
    The estimate.
  """
  accuracies_a, accuracies_b = (
    np.array([num_correct / num_examples for num_correct, num_examples in runs])
    for runs in (counts_a, counts_b)
  )
  return compare_means(
    accuracies_a,
    accuracies_b,
    [make_binomial_term(runs) for runs in (counts_a, counts_b)],
  )


def compare_means(
  accuracies_a: np.ndarray,
  accuracies_b: np.ndarray,
  example_terms: Sequence[VarianceTerm] = (),
) -> Estimate:
  """Compares the means of two arms' runs by t with Satterthwaite's degrees.

  Args:
    accuracies_a: of each run.
    accuracies_b: of each run of the other arm.
    example_terms: what the choice of test examples adds; without any this is
      Welch's t test.

  Returns:
    The estimate.

  Raises:
    ValueError: nothing varies, so that nothing can be said of chance.
  """
  seed_terms, seed_sd = _make_seed_terms(accuracies_a, accuracies_b)
  terms = [*seed_terms, *example_terms]
  if len(seed_terms) == 1:
    # A spread that is half assumed: examples do not make it better known.
    (few,) = seed_terms
    terms = [
      VarianceTerm(sum(term.variance for term in terms), few.degrees_of_freedom)
    ]
  standard_error, degrees = _add_terms(terms)
  difference = float(np.mean(accuracies_a) - np.mean(accuracies_b))
  margin = float(scipy.stats.t.ppf(1 - LEVEL / 2, degrees)) * standard_error
  return Estimate(
    difference=difference,
    low=max(difference - margin, -1.0),
    high=min(difference + margin, 1.0),
    p_value=float(
      2 * scipy.stats.t.sf(abs(difference) / standard_error, degrees)
    ),
    standard_error=standard_error,
    degrees_of_freedom=degrees,
    terms=terms,
    seed_sd=seed_sd,
  )


def estimate_mean(
  accuracies: np.ndarray, example_term: VarianceTerm
) -> tuple[float, float]:
  """Returns the 95% interval of an arm's accuracy from two or more runs.

  It holds for other seeds and other test examples.

  Args:
    accuracies: of each run.
    example_term: variance of their mean by the choice of test examples.

  Returns:
    Lower and upper bound, in [0, 1].
  """
  seeds = VarianceTerm(
    float(np.var(accuracies, ddof=1)) / len(accuracies), len(accuracies) - 1
  )
  standard_error, degrees = _add_terms([seeds, example_term])
  margin = float(scipy.stats.t.ppf(1 - LEVEL / 2, degrees)) * standard_error
  mean = float(np.mean(accuracies))
  return max(mean - margin, 0.0), min(mean + margin, 1.0)


def make_example_term(
  values: np.ndarray, extremes: tuple[float, float]
) -> VarianceTerm:
  """Returns the variance of a mean over examples.

  Two examples are added, one of either extreme: without them a handful of equal
  values would have no variance at all and prove whatever they say (the thought
  of Agresti & Coull 1998, and for pairs of Agresti & Min 2005).

  Args:
    values: one an example.
    extremes: the least and the largest value an example can have.
  """
  variance = np.var(np.append(values, extremes), ddof=1)
  return VarianceTerm(float(variance) / len(values), len(values) + 1)


def make_binomial_term(counts: Sequence[tuple[int, int]]) -> VarianceTerm:
  """Returns the variance of an arm's accuracy by examples, from counts alone.

  No per-example answers are needed: whatever they are, averaged over runs they
  vary at most as much. One success and one failure are added (Agresti & Caffo
  2000).

  Args:
    counts: right answers and examples of each run.
  """
  share = (sum(correct for correct, _ in counts) + 1) / (
    sum(total for _, total in counts) + 2
  )
  # Runs may share their examples, which then count once.
  num_examples = min(total for _, total in counts)
  return VarianceTerm(share * (1 - share) / num_examples, num_examples + 1)


def mcnemar_mid_p(num_only_a: int, num_only_b: int) -> float:
  """Returns McNemar's two-sided mid-p (Fagerland, Lydersen & Laake 2013).

  Args:
    num_only_a: examples that only the first run answers.
    num_only_b: examples that only the second does.
  """
  fewer, total = min(num_only_a, num_only_b), num_only_a + num_only_b
  return float(
    2 * scipy.stats.binom.cdf(fewer, total, 0.5)
    - scipy.stats.binom.pmf(fewer, total, 0.5)
  )


def agresti_min_interval(
  num_only_a: int, num_only_b: int, num_examples: int
) -> tuple[float, float, float]:
  """Returns the 95% interval of a difference of paired proportions.

  Wald's after half an example is added to each cell of the paired table
  (Agresti & Min 2005), so it has a width even where all runs agree.

  Args:
    num_only_a: examples that only the first run answers.
    num_only_b: examples that only the second does.
    num_examples: all examples.

  Returns:
    Lower and upper bound, in [-1, 1], and the standard error.
  """
  total = num_examples + 2
  center = (num_only_a - num_only_b) / total
  standard_error = math.sqrt(
    ((num_only_a + num_only_b + 1) / total - center**2) / total
  )
  margin = float(scipy.stats.norm.ppf(1 - LEVEL / 2)) * standard_error
  return max(center - margin, -1.0), min(center + margin, 1.0), standard_error


def adjust_holm(p_values: Sequence[float]) -> list[float]:
  """Returns Holm's adjusted p-values (1979), in the order given."""
  adjusted = [0.0] * len(p_values)
  largest = 0.0
  order = sorted(range(len(p_values)), key=lambda index: p_values[index])
  for rank, index in enumerate(order):
    largest = max(largest, (len(p_values) - rank) * p_values[index])
    adjusted[index] = min(largest, 1.0)
  return adjusted


def detectable_difference(terms: Sequence[VarianceTerm]) -> float:
  """Returns the true difference that a two-sided test shows in 80% of cases.

  The test is that of `compare_means`. The terms are taken as true; in an
  experiment each is estimated with its degrees of freedom, and with few seeds
  the estimates, and with them Satterthwaite's degrees, scatter widely. So the
  power is averaged over the terms' chi-squared distributions. With one term it
  is the noncentral t distribution's.

  Args:
    terms: what the difference's variance is made of. All but the two of the
      fewest degrees of freedom are taken as known.
  """
  by_degrees = sorted(terms, key=lambda term: term.degrees_of_freedom)
  few = [t for t in by_degrees[:2] if t.degrees_of_freedom <= _MANY]
  known = by_degrees[len(few) :]
  nodes, weights = np.polynomial.legendre.leggauss(_NUM_NODES)
  weight, parts = np.array(1.0), []
  for axis, term in enumerate(few):
    degrees = term.degrees_of_freedom
    drawn = scipy.stats.chi2.ppf((nodes + 1) / 2, degrees) / degrees
    shape = [1] * len(few)
    shape[axis] = _NUM_NODES
    parts.append((term.variance * drawn.reshape(shape), degrees))
    weight = weight * weights.reshape(shape) / 2
  parts += [(term.variance, term.degrees_of_freedom) for term in known]
  variance = sum((part for part, _ in parts), np.array(0.0))
  # Satterthwaite's degrees of freedom, as each such experiment finds them.
  shares = [(part / variance) ** 2 / degrees for part, degrees in parts]
  with np.errstate(divide="ignore"):
    degrees = 1 / sum(shares, np.array(0.0))
  margins = scipy.stats.t.ppf(1 - LEVEL / 2, degrees) * np.sqrt(variance)
  standard_error = math.sqrt(sum(term.variance for term in terms))

  def miss_power(difference: float) -> float:
    upper, lower = (
      scipy.stats.norm.sf((margins - side) / standard_error)
      for side in (difference, -difference)
    )
    return float(np.sum(weight * (upper + lower))) - POWER

  # One degree of freedom, the fewest, needs 17 standard errors.
  root: Any = scipy.optimize.brentq(
    miss_power, 0.1 * standard_error, 50 * standard_error
  )
  return float(root)


def planned_difference(
  seed_sd: float,
  num_seeds: int,
  num_examples: int,
  discordance: float = PLANNED_DISCORDANCE,
) -> float:
  """Returns the difference that a planned design shows in 80% of cases.

  Args:
    seed_sd: standard deviation of a run's accuracy over seeds on one test set.
    num_seeds: runs of each arm, at least 2.
    num_examples: test examples.
    discordance: share of them that two runs answer differently by chance;
      averaging over seeds divides its variance.
  """
  seeds = VarianceTerm(seed_sd**2 / num_seeds, num_seeds - 1)
  examples = VarianceTerm(
    discordance / num_seeds / num_examples, num_examples + 1
  )
  return detectable_difference([seeds, seeds, examples])


def _compare_two_runs(correct_a, correct_b) -> Estimate:
  num_only_a = int(np.sum(correct_a & ~correct_b))
  num_only_b = int(np.sum(correct_b & ~correct_a))
  num_examples = len(correct_a)
  low, high, standard_error = agresti_min_interval(
    num_only_a, num_only_b, num_examples
  )
  p_value = mcnemar_mid_p(num_only_a, num_only_b)
  if p_value >= LEVEL:
    # Of very few examples the two disagree by a hair; caution has it.
    low, high = min(low, 0.0), max(high, 0.0)
  return Estimate(
    difference=(num_only_a - num_only_b) / num_examples,
    low=low,
    high=high,
    p_value=p_value,
    standard_error=standard_error,
    degrees_of_freedom=math.inf,
    terms=[VarianceTerm(standard_error**2, math.inf)],
    seed_sd=None,
  )


def _make_seed_terms(
  accuracies_a, accuracies_b
) -> tuple[list[VarianceTerm], float | None]:
  """Returns what seeds add to a difference's variance, and the pooled SD."""
  spread = [
    (float(np.var(each, ddof=1)), len(each))
    for each in (accuracies_a, accuracies_b)
    if len(each) > 1
  ]
  if not spread:
    return [], None
  degrees = sum(count - 1 for _, count in spread)
  pooled = sum((count - 1) * variance for variance, count in spread) / degrees
  if len(spread) == 1:
    # The other arm's one run: the same spread, not divided.
    ((variance, count),) = spread
    terms = [VarianceTerm(variance * (1 + 1 / count), count - 1)]
  else:
    terms = [
      VarianceTerm(variance / count, count - 1) for variance, count in spread
    ]
  return terms, math.sqrt(pooled)


def _add_terms(terms: Sequence[VarianceTerm]) -> tuple[float, float]:
  """Returns the standard error and Satterthwaite's degrees of freedom."""
  variance = sum(term.variance for term in terms)
  if not variance > 0:
    raise ValueError("the runs do not vary at all")
  # Shares, as squares of small variances would underflow.
  degrees = 1 / sum(
    (term.variance / variance) ** 2 / term.degrees_of_freedom for term in terms
  )
  return math.sqrt(variance), degrees
