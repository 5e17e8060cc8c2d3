"""The hooks of a training run, in their order."""

import contextlib
import logging

from distill_jax.hosts import (
  distributed,
  end_together,
  preemption,
  stop_agreement,
)
from distill_jax.run_folder import metric_files, run_lock
from distill_jax.training import (
  early_stopping,
  hooks,
  loop,
  nonfinite,
  progress,
)

_log = logging.getLogger(__name__)


def make_hooks(
  settings,
  folder,
  start_step,
  evaluate_fn,
  checkpoints,
  data,
  told_rows,
  lock,
  history,
  stopping,
  gin_text,
) -> list[loop.Hook]:
  """Makes the hooks; those that write and show are of process 0."""
  train_steps = settings.train_steps
  is_primary = distributed.is_primary()
  watch = nonfinite.NonfiniteHook(
    folder,
    settings.on_nonfinite_loss,
    settings.max_skipped_steps,
    start_step,
    is_primary,
    told_rows,
  )
  files = reporter = log = None
  if is_primary:
    files = metric_files.MetricFiles(
      folder, start_step, gin_text, ("loss", *settings.objective.shown_losses)
    )
    reporter = progress.ProgressReporter(train_steps, start_step)
  if is_primary or told_rows is not None:
    log = hooks.LogHook(
      files,
      reporter,
      settings.learning_rate,
      settings.log_period,
      train_steps,
      watch,
      told_rows,
      settings.objective.shown_losses,
    )
  paused_fn = log.paused if log is not None else contextlib.nullcontext
  evaluation = hooks.EvalHook(
    evaluate_fn,
    files,
    settings.eval_period,
    train_steps,
    watch,
    paused_fn,
    history,
    reporter.show if reporter is not None else lambda line: None,
  )
  checkpoint_period = settings.checkpoint_period or settings.eval_period
  if settings.eval_period % checkpoint_period:
    _log.info(
      "EVAL_PERIOD is %d and CHECKPOINT_PERIOD %d: not every evaluation falls"
      " on a checkpoint, so a step that is better on validation than all before"
      " is saved besides.",
      settings.eval_period,
      checkpoint_period,
    )
  checkpoint = hooks.CheckpointHook(
    checkpoints,
    data.get_state,
    evaluation,
    checkpoint_period,
    train_steps,
    watch,
    paused_fn,
  )
  over = early_stopping.EarlyStoppingHook(
    stopping, history, checkpoint.save, train_steps
  )
  agreement = None
  if distributed.process_count() > 1:
    agreement = stop_agreement.StopAgreement(
      distributed.client(),
      distributed.process_index(),
      distributed.process_count(),
      start_step,
    )
  # Last, so that the step it stops after has its evaluation.
  stop = preemption.PreemptionHook(
    checkpoint.save,
    checkpoints.wait,
    train_steps,
    settings.preemption_save_seconds,
    agreement=agreement,
    exit_fn=end_together.end_all,
  )
  made = [
    run_lock.LockHook(lock),
    watch,
    log,
    evaluation,
    checkpoint,
    over,
    stop,
  ]
  return [hook for hook in made if hook is not None]
