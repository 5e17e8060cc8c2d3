"""Tests of training/run_hooks.py: which hooks a run has, in which order."""

import contextlib
import pathlib
import types

import pytest
import toy_run

from distill_jax.checkpoint.manager import Checkpoints
from distill_jax.hosts import distributed, preemption
from distill_jax.run_folder import run_lock
from distill_jax.run_folder.validation_history import ValidationHistory
from distill_jax.training import early_stopping, hooks, nonfinite, run_hooks


def make_hooks(folder, **changes):
  settings = toy_run.make_run(folder, 9, **changes)
  made = run_hooks.make_hooks(
    settings,
    pathlib.Path(folder),
    start_step=0,
    evaluate_fn=lambda params, step: {},
    checkpoints=object.__new__(Checkpoints),
    data=types.SimpleNamespace(get_state=dict),
    told_rows=None,
    lock=run_lock.RunLock(pathlib.Path(folder)),
    history=ValidationHistory(),
    stopping=early_stopping.EarlyStopping(None),
    gin_text="A = 1\n",
  )
  with contextlib.ExitStack() as stack:
    for hook in made:
      if not isinstance(hook, hooks.CheckpointHook):
        stack.callback(hook.close)
  return [type(hook) for hook in made]


def test_what_is_evaluated_is_saved_before_the_run_may_stop(tmp_path):
  assert make_hooks(tmp_path) == [
    run_lock.LockHook,
    nonfinite.NonfiniteHook,
    hooks.LogHook,
    hooks.EvalHook,
    hooks.CheckpointHook,
    early_stopping.EarlyStoppingHook,
    preemption.PreemptionHook,
  ]


def test_another_process_writes_no_metrics(tmp_path, monkeypatch):
  monkeypatch.setattr(distributed, "is_primary", lambda: False)
  assert hooks.LogHook not in make_hooks(tmp_path)
  assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
  "periods, told", [((20, 30), True), ((20, 10), False), ((20, None), False)]
)
def test_periods_that_do_not_meet_are_told(tmp_path, caplog, periods, told):
  caplog.set_level("INFO", "distill_jax.training")
  monkey = pytest.MonkeyPatch()
  monkey.setattr(run_hooks._log.parent.parent, "propagate", True)
  make_hooks(tmp_path, eval_period=periods[0], checkpoint_period=periods[1])
  monkey.undo()
  assert ("EVAL_PERIOD is 20 and CHECKPOINT_PERIOD 30" in caplog.text) == told
