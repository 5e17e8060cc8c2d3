"""Several runs taken together: the accuracy of an arm at a training-set size.

Knows nothing of comparisons, plots or pages.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence

import numpy as np

from distill_jax.answers import text_metrics
from distill_jax.errors import UserError
from distill_jax.experiments import statistics
from distill_jax.experiments.results import RESUMED, RunResult


@dataclasses.dataclass(frozen=True)
class Cell:
  """All runs of one arm on one training-set size.

  Attributes:
    arm: the arm.
    size: training examples asked for.
    num_train_examples: training examples of each run.
    num_seeds: runs.
    num_examples: test examples of all runs together.
    num_correct: of those, answered right.
    mean_accuracy: mean over runs, in [0, 1].
    min_accuracy: the worst run's.
    max_accuracy: the best run's.
    low: lower bound of the accuracy's 95% interval. Of one run: Wilson's, which
      covers the choice of test examples and says nothing of other seeds. Of
      several: by t from the variance over seeds and over test examples, which
      covers both.
    high: upper bound.
    mean_seconds: mean wall-clock time of the runs that were not stopped on the
      way; None: all were.
    mean_metrics: name -> mean over the runs that have this number.
  """

  arm: str
  size: int
  num_train_examples: int
  num_seeds: int
  num_examples: int
  num_correct: int
  mean_accuracy: float
  min_accuracy: float
  max_accuracy: float
  low: float
  high: float
  mean_seconds: float | None
  mean_metrics: Mapping[str, float] = dataclasses.field(default_factory=dict)


def aggregate(rows: Sequence[RunResult]) -> list[Cell]:
  """Takes the runs of each arm and size together.

  Args:
    rows: one result a run, in any order.

  Returns:
    One cell an arm and size: arms in order of appearance, sizes ascending.

  Raises:
    UserError: one arm, size and seed occurs twice, which would count the same
      run double.
  """
  groups = group_runs(rows)
  arms = list(dict.fromkeys(row.arm for row in rows))
  keys = sorted(groups, key=lambda key: (arms.index(key[0]), key[1]))
  return [_make_cell(groups[key]) for key in keys]


def group_runs(
  rows: Sequence[RunResult],
) -> dict[tuple[str, int], list[RunResult]]:
  """Returns the runs of each arm and training-set size.

  Args:
    rows: one result a run, in any order.

  Raises:
    UserError: one arm, size and seed occurs twice.
  """
  groups: dict[tuple[str, int], dict[int, RunResult]] = {}
  for row in rows:
    runs = groups.setdefault((row.arm, row.size), {})
    if row.seed in runs:
      raise UserError(
        f"There are two results of {row.arm} on {row.size}"
        f" training examples with seed {row.seed}; keep one."
      )
    runs[row.seed] = row
  return {key: list(runs.values()) for key, runs in groups.items()}


def stack_answers(runs: Sequence[RunResult]) -> np.ndarray | None:
  """Returns whether each run answered each example, [runs, examples].

  Args:
    runs: at least one.

  Returns:
    Examples in the order of the first run's; None unless all runs kept
    `correct_by_id` of the same examples.
  """
  ids = runs[0].correct_by_id.keys()
  if not ids or any(run.correct_by_id.keys() != ids for run in runs):
    return None
  return np.array([[run.correct_by_id[key] for key in ids] for run in runs])


def _make_cell(runs: Sequence[RunResult]) -> Cell:
  accuracies = [run.num_correct / run.num_examples for run in runs]
  low, high = _estimate_accuracy(runs)
  seconds = [run.seconds for run in runs if not run.metrics.get(RESUMED)]
  return Cell(
    arm=runs[0].arm,
    size=runs[0].size,
    num_train_examples=runs[0].num_train_examples,
    num_seeds=len(runs),
    num_examples=sum(run.num_examples for run in runs),
    num_correct=sum(run.num_correct for run in runs),
    mean_accuracy=sum(accuracies) / len(runs),
    min_accuracy=min(accuracies),
    max_accuracy=max(accuracies),
    low=low,
    high=high,
    mean_seconds=sum(seconds) / len(seconds) if seconds else None,
    mean_metrics=_average_metrics(runs),
  )


def _estimate_accuracy(runs: Sequence[RunResult]) -> tuple[float, float]:
  if len(runs) == 1:
    return text_metrics.wilson_interval(
      runs[0].num_correct, runs[0].num_examples
    )
  correct = stack_answers(runs)
  if correct is None:
    term = statistics.make_binomial_term(
      [(run.num_correct, run.num_examples) for run in runs]
    )
  else:
    term = statistics.make_example_term(correct.mean(axis=0), (0, 1))
  return statistics.estimate_mean(
    np.array([run.num_correct / run.num_examples for run in runs]), term
  )


def _average_metrics(runs: Sequence[RunResult]) -> dict[str, float]:
  found: dict[str, list[float]] = {}
  for run in runs:
    for name, value in run.metrics.items():
      is_number = isinstance(value, (int, float)) and math.isfinite(value)
      if is_number and not isinstance(value, bool):
        found.setdefault(name, []).append(value)
  return {name: sum(values) / len(values) for name, values in found.items()}
