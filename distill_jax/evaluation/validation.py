"""Validation while a run trains: metrics of each task by its kind."""

from collections.abc import Callable
from typing import Any

from distill_jax.data.feed import pipeline
from distill_jax.data.token_cache import TokenCache
from distill_jax.evaluation.evaluator import Evaluator

PyTree = Any
SPLIT = "validation"


def make_evaluate_fn(
  evaluator: Evaluator, cache: TokenCache, max_examples: int | None
) -> Callable[[PyTree, int], dict[str, dict[str, float]]]:
  """Returns (params, step) -> metrics by task.

  Labels are decoded and scored, rationales and dropped spans just scored; a
  task without a validation split is left out.

  Args:
    evaluator: of the model.
    cache: holds the examples, which are read now.
    max_examples: of each split; None: all.
  """
  splits = {
    task: pipeline.take(cache.open_split(task, SPLIT), max_examples)
    for task, info in cache.tasks.items()
    if SPLIT in info.splits
  }

  def evaluate(params: PyTree, step: int) -> dict[str, dict[str, float]]:
    del step
    results = {}
    for task, examples in splits.items():
      info = cache.tasks[task]
      if not info.has_labels:
        results[task] = evaluator.score(params, examples, info)
      else:
        metrics, _ = evaluator.evaluate(params, examples, info)
        metrics.pop("classes", None)
        results[task] = metrics
    # Training needs the memory.
    evaluator.release_copies()
    return results

  return evaluate
