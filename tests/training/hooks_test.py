"""Tests of training/hooks.py: when hooks act, and on what."""

import collections
import math
import types

import jax.numpy as jnp
import numpy as np
import process_fakes
import pytest

from distill_jax.checkpoint.manager import Checkpoints
from distill_jax.data.feed import batch as batch_lib
from distill_jax.errors import UserError
from distill_jax.hosts import distributed
from distill_jax.run_folder.metric_files import MetricFiles
from distill_jax.run_folder.validation_history import ValidationHistory
from distill_jax.training import hooks
from distill_jax.training.nonfinite import NonfiniteHook
from distill_jax.training.progress import ProgressReporter

_METRICS = {"loss": 3.0, "label_loss": 1.0, "rationale_loss": 2.0}


class _Recorder:
  """Passes for a `kind`; takes any call of any method and remembers it."""

  def __init__(self, kind):
    self._kind, self.calls = kind, []

  @property
  def __class__(self):
    return self._kind

  def __getattr__(self, name):
    return lambda *arguments: self.calls.append((name, *arguments))


class _Watch(NonfiniteHook):
  """Stands for the hook that knows the losses."""

  def __init__(self, ends_at=None, skipped=None):
    self._ends_at, self._skipped, self.calls = ends_at, skipped, 0

  def metrics(self):
    return {} if self._skipped is None else {"skipped_steps": self._skipped}

  def check(self):
    self.calls += 1
    if self.calls == self._ends_at:
      raise UserError(f"ended by call {self.calls}")


def _make_batch():
  """One row: a label of 3 tokens and a rationale of 4, inputs of 2 and 2."""
  batch = batch_lib.make_empty_batch(1, 8, 8)
  batch["encoder_segment_ids"][0, :4] = [1, 1, 2, 2]
  batch["decoder_segment_ids"][0, :7] = [1, 1, 1, 2, 2, 2, 2]
  batch["decoder_positions"][0, :7] = [0, 1, 2, 0, 1, 2, 3]
  batch["decoder_task_ids"][0, :7] = [1, 1, 1, 2, 2, 2, 2]
  return batch


def _run(hook, steps, metrics=_METRICS):
  metrics = {name: jnp.float32(value) for name, value in metrics.items()}
  state = types.SimpleNamespace(params="params")
  for step in steps:
    hook.after_step(step, state, _make_batch(), metrics)


@pytest.fixture(name="clock")
def fixture_clock(monkeypatch):
  clock = types.SimpleNamespace(seconds=0.0)
  monkeypatch.setattr(hooks.time, "perf_counter", lambda: clock.seconds)
  return clock


def test_log_writes_each_period_and_the_last_step(clock):
  files, progress = _Recorder(MetricFiles), _Recorder(ProgressReporter)
  hook = hooks.LogHook(
    files,
    progress,
    lambda step: step / 10,
    4,
    10,
    _Watch(),
    shown_losses=("label_loss", "rationale_loss"),
  )
  for step in range(1, 11):
    clock.seconds += 0.5
    _run(hook, [step])
  written = {step: values for _, step, split, values in files.calls}
  assert all(split == "train" for _, _, split, _ in files.calls)
  assert list(written) == [4, 8, 10]
  # A pair of label and rationale is one example; 4 + 7 tokens on 16 places.
  rates = {"examples_per_second": 2.0, "tokens_per_second": 22.0}
  for step, values in written.items():
    assert values == _METRICS | rates | {
      # That of the update just made, the number `step - 1` from 0.
      "learning_rate": (step - 1) / 10,
      "padding_share": pytest.approx(5 / 16),
    }
  assert progress.calls == [
    ("update", step, _METRICS | rates) for step in (4, 8, 10)
  ]


def test_rates_are_of_the_time_since_the_last_line(clock):
  files = _Recorder(MetricFiles)
  hook = hooks.LogHook(
    files, _Recorder(ProgressReporter), lambda step: 0, 1, 9, _Watch()
  )
  clock.seconds = 10.0
  _run(hook, [1])
  clock.seconds = 10.25
  _run(hook, [2])
  rates = [call[3]["examples_per_second"] for call in files.calls]
  assert rates == [0.1, 4.0]


def test_rates_leave_out_evaluations_and_checkpoints(clock):
  files = _Recorder(MetricFiles)
  log = hooks.LogHook(
    files, _Recorder(ProgressReporter), lambda step: 0, 2, 9, _Watch()
  )

  def take_long(*_):
    clock.seconds += 100
    return {}

  checkpoints = _Recorder(Checkpoints)
  checkpoints.save = take_long
  # After steps that are logged, and after others.
  evaluation = hooks.EvalHook(take_long, files, 1, 9, _Watch(), log.paused)
  checkpoint = hooks.CheckpointHook(
    checkpoints, dict, evaluation, 1, 9, _Watch(), log.paused
  )
  for step in range(1, 7):
    clock.seconds += 0.5
    for hook in (log, evaluation, checkpoint):
      _run(hook, [step])
  rates = [call[3]["examples_per_second"] for call in files.calls]
  assert rates == pytest.approx([2.0, 2.0, 2.0])


def test_a_loss_that_ends_the_run_is_written_before(clock):
  files = _Recorder(MetricFiles)
  watch = _Watch(ends_at=2)
  hook = hooks.LogHook(
    files, _Recorder(ProgressReporter), lambda step: 0, 2, 9, watch
  )
  with pytest.raises(UserError, match="ended by call 2"):
    for step in range(1, 7):
      clock.seconds += 1.0
      _run(hook, [step], _METRICS | {"loss": math.nan})
  assert [call[1] for call in files.calls] == [2, 4]


def test_skipped_steps_are_logged_and_made_no_update(clock):
  files = _Recorder(MetricFiles)
  watch = _Watch(skipped=3)
  hook = hooks.LogHook(
    files, _Recorder(ProgressReporter), lambda step: step, 1, 99, watch
  )
  for step in (2, 9):
    clock.seconds += 1
    _run(hook, [step])
  found = [
    (call[3]["skipped_steps"], call[3]["learning_rate"]) for call in files.calls
  ]
  assert found == [(3, 0), (3, 5)]


def _make_rows(num_rows):
  batch = _make_batch()
  return {key: np.repeat(value, num_rows, 0) for key, value in batch.items()}


def test_rows_of_other_processes_are_told_to_process_0(clock, monkeypatch):
  """Of four rows process 0 has one, process 1 two, process 2 one."""
  store = process_fakes.KeyValueStore()
  files, progress = _Recorder(MetricFiles), _Recorder(ProgressReporter)
  metrics = {name: jnp.float32(value) for name, value in _METRICS.items()}
  for index, rows in ((1, [0, 2]), (2, [3]), (0, [1])):
    process_fakes.join(monkeypatch, distributed, index, 3, store)
    monkeypatch.setattr(distributed, "_uses", collections.Counter())
    written, shown = (files, progress) if index == 0 else (None, None)
    watch = _Watch()
    hook = hooks.LogHook(
      written, shown, lambda step: 0, 2, 9, watch, np.array(rows)
    )
    for step in range(1, 5):
      clock.seconds += 1
      hook.after_step(step, None, _make_rows(4), metrics)
    hook.close()
    # All look at their losses after the same steps.
    assert watch.calls == 2
  lines = [call[3] for call in files.calls if call[0] == "write"]
  assert [line["examples_per_second"] for line in lines] == [4.0, 4.0]
  assert [line["tokens_per_second"] for line in lines] == [44.0, 44.0]
  assert [line["padding_share"] for line in lines] == [5 / 16, 5 / 16]
  assert not store.values


def test_log_closes_what_it_writes_to(clock):
  files, progress = _Recorder(MetricFiles), _Recorder(ProgressReporter)
  hooks.LogHook(files, progress, lambda step: 0, 1, 1, _Watch()).close()
  assert files.calls == progress.calls == [("close",)]


_RESULTS = {
  "toy_rationale": {"loss": 2.0},
  "toy_label": {"loss": 1.0, "label_accuracy": 0.5},
}


def _make_eval_hook(files, results=_RESULTS, watch=None):
  asked = []

  def evaluate(params, step):
    asked.append((params, step))
    return results

  watch = watch or _Watch()
  return hooks.EvalHook(evaluate, files, 4, 10, watch), asked


def test_evaluation_comes_each_period_and_at_the_last_step():
  files = _Recorder(MetricFiles)
  hook, asked = _make_eval_hook(files)
  _run(hook, range(1, 11))
  assert asked == [("params", 4), ("params", 8), ("params", 10)]
  assert files.calls[:2] == [
    ("write", 4, f"validation/{task}", metrics)
    for task, metrics in _RESULTS.items()
  ]
  assert hook.latest == (10, _RESULTS["toy_label"])


def test_a_broken_state_is_not_evaluated():
  files = _Recorder(MetricFiles)
  hook, asked = _make_eval_hook(files, watch=_Watch(ends_at=2))
  with pytest.raises(UserError, match="ended by call 2"):
    _run(hook, range(1, 11))
  assert asked == [("params", 4)]
  assert {call[1] for call in files.calls} == {4}


def test_a_process_that_writes_nothing_evaluates_all_the_same():
  hook, asked = _make_eval_hook(None)
  _run(hook, [4])
  assert asked == [("params", 4)]
  assert hook.latest == (4, _RESULTS["toy_label"])


def test_a_run_without_a_label_task_has_no_best_step():
  hook, _ = _make_eval_hook(
    _Recorder(MetricFiles), {"toy_rationale": {"loss": 2.0}}
  )
  _run(hook, [4])
  assert hook.latest is None


def test_checkpoints_hold_the_metrics_of_their_own_step():
  checkpoints, evaluation = (
    _Recorder(Checkpoints),
    _make_eval_hook(_Recorder(MetricFiles))[0],
  )
  states = iter("abcdef")
  hook = hooks.CheckpointHook(
    checkpoints, lambda: {"next": next(states)}, evaluation, 2, 9, _Watch()
  )
  for step in range(1, 10):
    _run(evaluation, [step])
    _run(hook, [step])
  saves = [call for call in checkpoints.calls if call[0] == "save"]
  saved = [(call[1], *call[3:]) for call in saves]
  metrics = _RESULTS["toy_label"]
  assert saved == [
    (2, {"next": "a"}, None),
    (4, {"next": "b"}, metrics),
    (6, {"next": "c"}, None),
    (8, {"next": "d"}, metrics),
    (9, {"next": "e"}, None),
  ]
  assert all(call[2].params == "params" for call in saves)
  # A save that failed is noticed at the next step, not at the next save.
  assert checkpoints.calls.count(("raise_if_failed",)) == 9


def test_what_is_best_is_saved_where_the_periods_do_not_meet():
  checkpoints, history = _Recorder(Checkpoints), ValidationHistory()
  scores = {4: 0.5, 8: 0.5, 12: 0.7, 16: 0.6, 20: 0.7, 24: 0.8}
  evaluation = hooks.EvalHook(
    lambda params, step: {"toy_label": {"label_accuracy": scores[step]}},
    None, 4, 25, _Watch(), history=history,
  )  # fmt: skip
  hook = hooks.CheckpointHook(checkpoints, dict, evaluation, 10, 25, _Watch())
  for step in range(1, 25):
    _run(evaluation, [step])
    _run(hook, [step])
  saves = [call for call in checkpoints.calls if call[0] == "save"]
  assert [(call[1], call[4]) for call in saves] == [
    (4, {"label_accuracy": 0.5}),
    (8, {"label_accuracy": 0.5}),
    (10, None),
    (12, {"label_accuracy": 0.7}),
    (20, {"label_accuracy": 0.7}),
    (24, {"label_accuracy": 0.8}),
  ]


def test_evaluations_are_shown_with_the_best_so_far():
  shown = []
  accuracies = {4: 0.5, 8: 0.25}

  def evaluate(params, step):
    label = {"loss": 1.25, "label_accuracy": accuracies[step]}
    return {"toy_rationale": {"loss": 2.0}, "toy_label": label}

  hook = hooks.EvalHook(evaluate, None, 4, 9, _Watch(), show_fn=shown.append)
  _run(hook, range(1, 9))
  assert shown == [
    "validation at step 4 · toy_rationale loss 2 · toy_label label accuracy"
    " 50.00%, loss 1.25 · best so far",
    "validation at step 8 · toy_rationale loss 2 · toy_label label accuracy"
    " 25.00%, loss 1.25 · best 50.00% at step 4",
  ]


def test_a_broken_state_is_not_saved_over_good_ones():
  checkpoints = _Recorder(Checkpoints)
  hook = hooks.CheckpointHook(checkpoints, dict, None, 2, 9, _Watch(ends_at=2))
  with pytest.raises(UserError, match="ended by call 2"):
    _run(hook, [1, 2, 3, 4])
  assert [call[:2] for call in checkpoints.calls if call[0] == "save"] == [
    ("save", 2)
  ]


def test_a_step_is_saved_once():
  checkpoints = _Recorder(Checkpoints)
  hook = hooks.CheckpointHook(checkpoints, dict, None, 2, 9, _Watch())
  _run(hook, [2])
  state = types.SimpleNamespace(params="params")
  for step in (2, 3, 3):
    hook.save(step, state, _METRICS)
  saves = [call[1] for call in checkpoints.calls if call[0] == "save"]
  assert saves == [2, 3]


def test_the_run_waits_for_its_last_checkpoint():
  checkpoints = _Recorder(Checkpoints)
  hooks.CheckpointHook(checkpoints, dict, None, 2, 9, _Watch()).close()
  assert checkpoints.calls == [("wait",)]
