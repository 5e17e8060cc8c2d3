"""Tests of run_folder/validation_history.py: what is best, and since when."""

import pytest

from distill_jax.run_folder import metric_files, validation_history
from distill_jax.run_folder.validation_history import ValidationHistory


def make_history(*scores):
  return ValidationHistory([(10 * i, s) for i, s in enumerate(scores, start=1)])


def test_the_last_of_equals_is_best():
  history = make_history(0.1, 0.5, 0.5)
  assert history.best == (30, 0.5)
  assert history.is_best(30) and not history.is_best(20)
  history.add(40, 0.6)
  assert history.best == (40, 0.6)
  assert history.is_best(40) and not history.is_best(20)
  assert history.latest_step == 40


def test_without_evaluations_nothing_is_best():
  history = ValidationHistory()
  assert history.best is None and history.latest_step is None
  assert not history.is_best(0)
  assert history.count_without_gain(0.0) == 0


@pytest.mark.parametrize(
  "scores, min_delta, expected",
  [
    ((0.1, 0.2, 0.3), 0.0, 0),
    ((0.3, 0.3, 0.2, 0.3), 0.0, 3),
    ((0.3, 0.2, 0.4, 0.1), 0.0, 1),
    # Small gains count once they add up to a large one.
    ((0.3, 0.35, 0.39, 0.41), 0.1, 0),
    ((0.3, 0.35, 0.39), 0.1, 2),
  ],
)
def test_evaluations_without_gain_are_counted(scores, min_delta, expected):
  assert make_history(*scores).count_without_gain(min_delta) == expected


def test_scores_are_read_up_to_a_step(tmp_path):
  files = metric_files.MetricFiles(tmp_path)
  for step in (10, 20, 30):
    files.write(step, "train", {"loss": 1.0, "label_accuracy": 9.0})
    files.write(step, "validation/a_rationale", {"loss": 1.0})
    files.write(step, "validation/a_label", {"label_accuracy": step / 100})
  files.close()
  scores = validation_history.read_scores(tmp_path, 20)
  assert scores == [(10, 0.1), (20, 0.2)]
  assert ValidationHistory(scores).best == (20, 0.2)


def test_the_score_is_the_label_tasks():
  results = {"a_rationale": {"loss": 1.0}, "a_label": {"label_accuracy": 0.5}}
  assert validation_history.find_score(results) == 0.5
  assert validation_history.find_score({"a_rationale": {"loss": 1.0}}) is None
