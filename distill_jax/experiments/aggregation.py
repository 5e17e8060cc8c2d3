"""Several runs taken together: accuracies with intervals, and differences.

Layer 4; imports `results` and `evaluation.text_metrics`. Knows nothing of
plots or pages.
"""

import dataclasses
import itertools
from collections.abc import Sequence

import numpy as np

from distill_jax.errors import UserError
from distill_jax.evaluation import text_metrics
from distill_jax.experiments.results import RunResult

NUM_RESAMPLES = 10_000


@dataclasses.dataclass(frozen=True)
class Cell:
  """All runs of one method on one training-set size.

  Attributes:
    method: the method.
    num_train_examples: training examples of each run.
    num_seeds: runs.
    num_examples: test examples of all runs together.
    num_correct: of those, answered right.
    mean_accuracy: mean over runs, in [0, 1].
    min_accuracy: the worst run's.
    max_accuracy: the best run's.
    low: lower 95% Wilson bound of num_correct / num_examples. Runs on the same
      test set are pooled as if their examples were independent, which makes the
      interval too narrow for a statement about new test examples.
    high: upper bound likewise.
    mean_seconds: mean wall-clock time of a run.
  """

  method: str
  num_train_examples: int
  num_seeds: int
  num_examples: int
  num_correct: int
  mean_accuracy: float
  min_accuracy: float
  max_accuracy: float
  low: float
  high: float
  mean_seconds: float


@dataclasses.dataclass(frozen=True)
class Comparison:
  """How far two methods lie apart on the same test examples.

  Attributes:
    method_a: the first method.
    method_b: the second.
    num_train_examples: training examples of each run.
    num_examples: distinct test examples.
    difference: accuracy of a minus accuracy of b, each a mean over its runs.
    low: lower bound of the difference's 95% interval.
    high: upper bound.
  """

  method_a: str
  method_b: str
  num_train_examples: int
  num_examples: int
  difference: float
  low: float
  high: float

  @property
  def is_distinguishable(self) -> bool:
    """Whether the interval leaves out zero."""
    return self.low > 0 or self.high < 0


def aggregate(rows: Sequence[RunResult]) -> list[Cell]:
  """Takes the runs of each method and size together.

  Args:
    rows: one result a run, in any order.

  Returns:
    One cell a method and size: methods in order of appearance, sizes ascending.

  Raises:
    UserError: one method, size and seed occurs twice, which would count the
      same run double.
  """
  groups: dict[tuple[str, int], dict[int, RunResult]] = {}
  for row in rows:
    runs = groups.setdefault((row.method, row.num_train_examples), {})
    if row.seed in runs:
      raise UserError(
        f"There are two results of {row.method} on {row.num_train_examples}"
        f" training examples with seed {row.seed}; keep one."
      )
    runs[row.seed] = row
  methods = list(dict.fromkeys(row.method for row in rows))
  keys = sorted(groups, key=lambda key: (methods.index(key[0]), key[1]))
  return [_make_cell(list(groups[key].values())) for key in keys]


def _make_cell(runs: Sequence[RunResult]) -> Cell:
  accuracies = [run.num_correct / run.num_examples for run in runs]
  num_correct = sum(run.num_correct for run in runs)
  num_examples = sum(run.num_examples for run in runs)
  low, high = text_metrics.wilson_interval(num_correct, num_examples)
  return Cell(
    method=runs[0].method,
    num_train_examples=runs[0].num_train_examples,
    num_seeds=len(runs),
    num_examples=num_examples,
    num_correct=num_correct,
    mean_accuracy=sum(accuracies) / len(runs),
    min_accuracy=min(accuracies),
    max_accuracy=max(accuracies),
    low=low,
    high=high,
    mean_seconds=sum(run.seconds for run in runs) / len(runs),
  )


def compare(
  rows: Sequence[RunResult],
  method_a: str,
  method_b: str,
  num_train_examples: int,
) -> Comparison | None:
  """Estimates the difference between two methods of one training-set size.

  The 95% interval is a percentile bootstrap over test examples, paired by id,
  each method's runs averaged first; so it covers the choice of test examples,
  not the spread between seeds. To the resampled examples are added one that
  only a answers and one that only b does: without them a handful of examples
  that all point one way would leave out zero (the thought of Agresti & Min
  2005, who add half a count to each cell of the paired table).

  Args:
    rows: results of any methods and sizes.
    method_a: the method whose lead is positive.
    method_b: the other method.
    num_train_examples: the training-set size to look at.

  Returns:
    The comparison, the same one at every call; None unless both methods have
    runs of this size that all kept `correct_by_id` of the same test examples.
  """
  runs_a, runs_b = (
    [
      row.correct_by_id
      for row in rows
      if (row.method, row.num_train_examples) == (method, num_train_examples)
    ]
    for method in (method_a, method_b)
  )
  if not runs_a or not runs_b:
    return None
  ids = runs_a[0].keys()
  if not ids or any(run.keys() != ids for run in runs_a + runs_b):
    return None

  # Whole numbers, so that equal differences are counted as equal.
  unit = len(runs_a) * len(runs_b)
  differences = np.array(
    [
      len(runs_b) * sum(run[key] for run in runs_a)
      - len(runs_a) * sum(run[key] for run in runs_b)
      for key in ids
    ]
  )
  # Drawing examples with replacement is drawing how often each value occurs.
  values, counts = np.unique(
    np.append(differences, [unit, -unit]), return_counts=True
  )
  draws = np.random.default_rng(0).multinomial(
    len(ids), counts / counts.sum(), size=NUM_RESAMPLES
  )  # [NUM_RESAMPLES, values]
  means = draws @ values / (unit * len(ids))
  low, high = np.quantile(means, (0.025, 0.975))
  return Comparison(
    method_a=method_a,
    method_b=method_b,
    num_train_examples=num_train_examples,
    num_examples=len(ids),
    difference=float(differences.mean() / unit),
    low=float(low),
    high=float(high),
  )


def compare_all(rows: Sequence[RunResult]) -> list[Comparison]:
  """Compares every two methods on every training-set size they can be paired.

  Args:
    rows: one result a run.

  Returns:
    Comparisons by size, the later method minus the earlier one: a sweep names
    its baseline first.
  """
  methods = list(dict.fromkeys(row.method for row in rows))
  sizes = sorted({row.num_train_examples for row in rows})
  comparisons = (
    compare(rows, later, earlier, size)
    for size in sizes
    for earlier, later in itertools.combinations(methods, 2)
  )
  return [comparison for comparison in comparisons if comparison is not None]
