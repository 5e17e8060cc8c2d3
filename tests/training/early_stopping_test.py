"""Tests of training/early_stopping.py: when a run is over, and never before."""

import pytest

from distill_jax.run_folder.validation_history import ValidationHistory
from distill_jax.training import loop
from distill_jax.training.early_stopping import EarlyStopping, EarlyStoppingHook

_SCORES = {10: 0.1, 20: 0.3, 30: 0.2, 40: 0.3, 50: 0.4, 60: 0.4, 70: 0.4}


def run(stopping, scores=None, train_steps=100, history=None, first=1):
  """Returns the last step, the steps saved and the history."""
  scores = _SCORES if scores is None else scores
  history = ValidationHistory() if history is None else history
  saved = []
  hook = EarlyStoppingHook(
    stopping, history, lambda step, *_: saved.append(step), train_steps
  )
  for step in range(first, train_steps + 1):
    if step in scores:
      history.add(step, scores[step])
    try:
      hook.after_step(step, None, None, {})
    except loop.StopTraining:
      return step, saved, history
  return train_steps, saved, history


def test_it_ends_after_so_many_evaluations_without_a_better_one():
  step, saved, history = run(EarlyStopping(2))
  assert (step, saved) == (40, [40])
  assert EarlyStopping(2).is_due(history)
  explained = EarlyStopping(2).explain(history)
  assert "the last 2 evaluations did not better" in explained
  assert "best was 30.00% at step 40" in explained


def test_more_patience_goes_further():
  assert run(EarlyStopping(3))[0] == 100
  assert run(EarlyStopping(3), _SCORES | {80: 0.0})[0] == 80


def test_without_it_nothing_ends():
  step, saved, history = run(EarlyStopping(None))
  assert (step, saved) == (100, [])
  assert not EarlyStopping(None).is_due(history)


def test_a_small_gain_may_count_as_none():
  assert run(EarlyStopping(3, min_delta=0.15))[0] == 50


def test_at_its_last_step_a_run_has_ended_anyway():
  assert run(EarlyStopping(2), train_steps=40)[:2] == (40, [])


@pytest.mark.parametrize("killed_at", range(5, 40, 5))
def test_a_resumed_run_ends_where_one_that_was_not_killed_does(killed_at):
  before = {s: v for s, v in _SCORES.items() if s <= killed_at}
  history = ValidationHistory(list(before.items()))
  step, _, _ = run(EarlyStopping(2), history=history, first=killed_at + 1)
  assert step == 40
