"""Whether one arm of a sweep is better than another, in numbers and in words.

Knows nothing of tables or pages.
"""

import dataclasses
import itertools
from collections.abc import Sequence

from distill_jax.errors import UserError
from distill_jax.experiments import aggregation, statistics
from distill_jax.experiments.results import RunResult

OVER_SEEDS = "seeds"
THIS_RUN_ONLY = "this run only"
# With fewer, the spread between seeds is hardly known.
FEWEST_SEEDS = 3


@dataclasses.dataclass(frozen=True)
class Verdict:
  """How far two arms lie apart at one training-set size.

  Attributes:
    arm_a: the arm whose lead is positive.
    arm_b: the other arm.
    size: training examples asked for.
    num_train_examples_a: those that runs of the first arm had.
    num_train_examples_b: those that runs of the second had.
    num_seeds_a: runs of the first arm.
    num_seeds_b: runs of the second.
    num_examples: test examples of a run; the fewer of the two arms'.
    difference: mean accuracy of a minus that of b, as a share.
    low: lower bound of the difference's 95% interval.
    high: upper bound.
    p_value: two-sided, of this comparison alone.
    adjusted_p_value: Holm's, over all comparisons made together.
    degrees_of_freedom: None with one run each.
    seed_sd: standard deviation of a run's accuracy over seeds, pooled over both
      arms; None with one run each.
    detectable: the true difference that this design shows in 80% of cases, at a
      two-sided level of 0.05 before Holm.
    basis: "seeds": holds for other seeds and other test examples. "this run
      only": one run each, other seeds may say the opposite.
    is_paired: whether both arms answered the same examples and every answer was
      kept. If not, p and interval are Welch's t over seeds with the binomial
      variance of each arm's examples added.
    num_comparisons: comparisons made together, those that are planned and
      whose runs are missing included.
  """

  arm_a: str
  arm_b: str
  size: int
  num_train_examples_a: int
  num_train_examples_b: int
  num_seeds_a: int
  num_seeds_b: int
  num_examples: int
  difference: float
  low: float
  high: float
  p_value: float
  adjusted_p_value: float
  degrees_of_freedom: float | None
  seed_sd: float | None
  detectable: float
  basis: str
  is_paired: bool
  num_comparisons: int

  @property
  def is_shown(self) -> bool:
    """Whether the arms are said to differ, after Holm's correction."""
    return self.adjusted_p_value < statistics.LEVEL

  @property
  def num_seeds(self) -> int:
    """Runs of the arm that has fewer."""
    return min(self.num_seeds_a, self.num_seeds_b)


def compare_arms(
  rows: Sequence[RunResult],
  comparisons: Sequence[tuple[str, str]] | None = None,
  num_planned: int = 0,
) -> list[Verdict]:
  """Compares arms at every training-set size at which both have runs.

  Args:
    rows: one result a run, in any order.
    comparisons: pairs of arms, positive where the first leads; None: every two
      arms, the later minus the earlier, as a sweep names its baseline first.
      What is compared here, at all sizes, is the family that Holm's correction
      is over.
    num_planned: comparisons of the whole experiment, over all sizes. Those
      whose runs are missing count in the family too: a run that fails, or is
      still to come, makes no other difference surer.

  Returns:
    One verdict a size and pair, sizes ascending.

  Raises:
    UserError: a run occurs twice, or a pair does, or an arm is to be compared
      with itself.
  """
  groups = aggregation.group_runs(rows)
  if comparisons is None:
    arms = list(dict.fromkeys(row.arm for row in rows))
    comparisons = [
      (later, earlier) for earlier, later in itertools.combinations(arms, 2)
    ]
  check_comparisons(comparisons)
  compared = [
    (groups[arm_a, size], groups[arm_b, size])
    for size in sorted({row.size for row in rows})
    for arm_a, arm_b in comparisons
    if (arm_a, size) in groups and (arm_b, size) in groups
  ]
  estimates = [_estimate(runs_a, runs_b) for runs_a, runs_b in compared]
  family = max(len(compared), num_planned)
  missing = [1.0] * (family - len(compared))
  adjusted = statistics.adjust_holm(
    [estimate.p_value for estimate, _ in estimates] + missing
  )[: len(compared)]
  return [
    _make_verdict(runs_a, runs_b, estimate, is_paired, p_value, family)
    for (runs_a, runs_b), (estimate, is_paired), p_value in zip(
      compared, estimates, adjusted, strict=True
    )
  ]


def describe(verdict: Verdict) -> str:
  """Returns a verdict in words, such as "no difference shown"."""
  p_value = format_p(verdict.adjusted_p_value)
  after = " after Holm" if verdict.num_comparisons > 1 else ""
  here = " in these two runs" if verdict.basis == THIS_RUN_ONLY else ""
  if verdict.is_shown:
    higher = verdict.arm_a if verdict.difference > 0 else verdict.arm_b
    return f"{higher} higher{here} (p {p_value}{after})"
  if verdict.p_value < statistics.LEVEL:
    alone = format_p(verdict.p_value)
    return f"no difference shown{here} after Holm (p {alone} before)"
  if here:
    return f"no difference shown{here}"
  return f"no difference shown; this design {_describe_power(verdict)}"


def describe_plan(
  seed_sd: float | None, num_seeds: int, num_examples: int
) -> str:
  """Says before a sweep which difference it can show.

  Args:
    seed_sd: the standard deviation of a run's accuracy between seeds that is
      expected, as a share; None: not stated.
    num_seeds: runs of each arm; of arms with different numbers, the fewest.
    num_examples: test examples.

  Returns:
    Sentences for the screen, with a warning where the seeds are too few.
  """
  seeds = f"{num_seeds} seed{'' if num_seeds == 1 else 's'} an arm"
  if num_seeds == 1:
    text = (
      "One seed an arm: p values and intervals will speak of these runs only."
    )
    if seed_sd:
      text += (
        f" With an SD of {100 * seed_sd:.1f} points between seeds, two runs of"
        f" equal arms lie up to {100 * 1.96 * 2**0.5 * seed_sd:.1f} points"
        " apart in 19 of 20 cases."
      )
  elif seed_sd is None:
    text = (
      f"{seeds}, {num_examples:,} test examples. State SEED_SD to learn which"
      " difference this can show."
    )
  else:
    points = 100 * statistics.planned_difference(
      seed_sd, num_seeds, num_examples
    )
    shown = (
      f"a true difference of {points:.1f} points is shown 4 times in 5"
      if points < 100
      else "not even a difference of 100 points is shown 4 times in 5"
    )
    share = statistics.PLANNED_DISCORDANCE
    text = (
      f"{seeds}, {num_examples:,} test examples, an SD of"
      f" {100 * seed_sd:.1f} points between seeds: {shown} (two-sided 0.05, one"
      f" comparison, if two runs of equal arms answer {share:.0%} of the"
      " examples differently)."
    )
  if num_seeds < FEWEST_SEEDS:
    text += (
      f" Warning: below {FEWEST_SEEDS} seeds the spread between seeds is hardly"
      " known; 5 are better."
    )
  return text


def format_p(p_value: float) -> str:
  """Returns "= 0.012", or "< 0.001"."""
  if p_value < 0.001:
    return "< 0.001"
  digits = 3 if p_value < 0.1 else 2
  return f"= {p_value:.{digits}f}"


def _describe_power(verdict) -> str:
  points = 100 * verdict.detectable
  if points >= 100:
    return "would not show even 100 points 4 times in 5"
  return f"would show {points:.1f} points 4 times in 5"


def check_comparisons(comparisons: Sequence[tuple[str, str]]) -> None:
  """Refuses what is no list of different pairs.

  Args:
    comparisons: pairs of arms.

  Raises:
    UserError: names the pair.
  """
  for index, pair in enumerate(comparisons):
    if len(set(pair)) != 2 or len(pair) != 2:
      raise UserError(
        f"{pair!r} is no comparison; name two different arms, the one whose"
        " lead is positive first."
      )
    if any(set(pair) == set(earlier) for earlier in comparisons[:index]):
      raise UserError(f"{pair!r} is compared twice; keep one.")


def _estimate(runs_a, runs_b) -> tuple[statistics.Estimate, bool]:
  """Returns the difference of two arms, and whether it is paired."""
  correct = aggregation.stack_answers([*runs_a, *runs_b])
  if correct is not None:
    return (
      statistics.compare_paired(correct[: len(runs_a)], correct[len(runs_a) :]),
      True,
    )
  counts_a, counts_b = (
    [(run.num_correct, run.num_examples) for run in runs]
    for runs in (runs_a, runs_b)
  )
  return statistics.compare_unpaired(counts_a, counts_b), False


def _make_verdict(
  runs_a, runs_b, estimate, is_paired, adjusted_p_value, num_comparisons
) -> Verdict:
  has_spread = estimate.seed_sd is not None
  return Verdict(
    arm_a=runs_a[0].arm,
    arm_b=runs_b[0].arm,
    size=runs_a[0].size,
    num_train_examples_a=runs_a[0].num_train_examples,
    num_train_examples_b=runs_b[0].num_train_examples,
    num_seeds_a=len(runs_a),
    num_seeds_b=len(runs_b),
    num_examples=min(run.num_examples for run in (*runs_a, *runs_b)),
    difference=estimate.difference,
    low=estimate.low,
    high=estimate.high,
    p_value=estimate.p_value,
    adjusted_p_value=adjusted_p_value,
    degrees_of_freedom=estimate.degrees_of_freedom if has_spread else None,
    seed_sd=estimate.seed_sd,
    detectable=estimate.detectable,
    basis=OVER_SEEDS if has_spread else THIS_RUN_ONLY,
    is_paired=is_paired,
    num_comparisons=num_comparisons,
  )
