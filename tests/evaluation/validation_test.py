"""Tests of evaluation/validation.py: what is evaluated, and how."""

import pytest
from synthetic_cache import make_cache

from distill_jax.evaluation import validation
from distill_jax.evaluation.evaluator import Evaluator


class _Evaluator(Evaluator):
  """Notes what it is asked for."""

  def __init__(self):
    self.calls = []

  def score(self, params, examples, info):
    self.calls.append(("score", params, len(examples), info.kind))
    return {"loss": 1.0}

  def evaluate(self, params, examples, info):
    self.calls.append(("evaluate", params, len(examples), info.kind))
    return {"label_accuracy": 0.5, "classes": {"a": {}}}, []

  def release_copies(self):
    self.calls.append("release")


@pytest.mark.parametrize("limit,count", [(None, 5), (3, 3), (9, 5)])
def test_labels_are_decoded_and_rationales_scored(tmp_path, limit, count):
  cache = make_cache(tmp_path, 5, splits=("train", "validation"))
  evaluator = _Evaluator()
  evaluate = validation.make_evaluate_fn(evaluator, cache, limit)
  assert evaluate("params", 7) == {
    "toy_label": {"label_accuracy": 0.5},
    "toy_rationale": {"loss": 1.0},
  }
  assert evaluator.calls == [
    ("evaluate", "params", count, "label"),
    ("score", "params", count, "rationale"),
    # Training goes on with all of the memory.
    "release",
  ]


def test_tasks_without_validation_are_left_out(tmp_path):
  evaluator = _Evaluator()
  cache = make_cache(tmp_path, 5)
  assert validation.make_evaluate_fn(evaluator, cache, None)("p", 1) == {}
  assert evaluator.calls == ["release"]
