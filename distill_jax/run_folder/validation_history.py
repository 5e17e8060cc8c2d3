"""The validation scores of a run so far: which is best, and since when.

A resumed run reads them from `metrics.jsonl`, up to the step it goes on from,
and comes to the decisions of one that was never stopped.
"""

import pathlib
from collections.abc import Mapping, Sequence

from distill_jax.run_folder import metric_files

SCORE = "label_accuracy"
_PREFIX = "validation/"


class ValidationHistory:
  """Scores of the label task by step, higher is better."""

  def __init__(self, scores: Sequence[tuple[int, float]] = ()):
    """Begins with what an earlier part of the run found.

    Args:
      scores: (step, score) each, in the order they were made.
    """
    self._scores = [(int(step), float(score)) for step, score in scores]

  def add(self, step: int, score: float) -> None:
    """Takes note of an evaluation.

    Args:
      step: updates made.
      score: of the label task.
    """
    self._scores.append((step, float(score)))

  @property
  def latest_step(self) -> int | None:
    """The step of the last evaluation; None: there was none."""
    return self._scores[-1][0] if self._scores else None

  @property
  def best(self) -> tuple[int, float] | None:
    """The step and score of the best evaluation.

    The last of equals, as the checkpoint manager has it.
    """
    return max(self._scores, key=lambda pair: pair[::-1], default=None)

  def is_best(self, step: int) -> bool:
    """Whether this step was evaluated and none before was better."""
    return self.best is not None and self.best[0] == step == self.latest_step

  def count_without_gain(self, min_delta: float) -> int:
    """Counts the last evaluations that did not better the best before them.

    Args:
      min_delta: a score counts as better when it is more than this above.
    """
    count, reference = 0, None
    for _, score in self._scores:
      if reference is None or score > reference + min_delta:
        count, reference = 0, score
      else:
        count += 1
    return count


def find_score(results: Mapping[str, Mapping[str, float]]) -> float | None:
  """Returns the score in the metrics of an evaluation; None: it has none.

  Args:
    results: metrics by task; a mixture has one label task at most.
  """
  scores = [metrics[SCORE] for metrics in results.values() if SCORE in metrics]
  return scores[0] if scores else None


def read_scores(
  model_dir: str | pathlib.Path, last_step: int
) -> list[tuple[int, float]]:
  """Reads the scores of a run up to a step.

  Args:
    model_dir: folder of the run.
    last_step: later lines are not looked at.
  """
  return [
    (row["step"], row[SCORE])
    for row in metric_files.read_metrics(model_dir)
    if row["step"] <= last_step
    and str(row.get("split")).startswith(_PREFIX)
    and isinstance(row.get(SCORE), float)
  ]
