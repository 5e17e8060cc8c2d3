"""What happens between steps: logging, evaluation, checkpoints.

Signals are `hosts.preemption`'s. Each hook is given callables and knows neither
gin nor a file format. Order matters: evaluation comes before the checkpoint
that stores its metrics.
"""

import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from distill_jax.checkpoint.manager import Checkpoints
from distill_jax.data.feed import batch as batch_lib
from distill_jax.data.feed import batch_counts
from distill_jax.hosts import distributed
from distill_jax.run_folder.metric_files import MetricFiles
from distill_jax.run_folder.validation_history import (
  SCORE,
  ValidationHistory,
  find_score,
)
from distill_jax.training.nonfinite import NonfiniteHook
from distill_jax.training.progress import ProgressReporter, format_number

PyTree = Any
# Given the metrics of a step, a context whose time the rates leave out.
PausedFn = Callable[[Any], contextlib.AbstractContextManager[None]]


class LogHook:
  """Writes metrics every `log_period` steps, with rates since the last time.

  Where several processes make a batch between them, each has this hook: process
  0 writes, and the others tell it what their rows hold.
  """

  def __init__(
    self,
    files: MetricFiles | None,
    progress: ProgressReporter | None,
    learning_rate: Callable[[int], Any],
    log_period: int,
    train_steps: int,
    nonfinite: NonfiniteHook,
    told_rows: np.ndarray | None = None,
    shown_losses: Sequence[str] = (),
  ):
    """Starts the clock.

    Args:
      files: where metrics are written; None: another process does that.
      progress: where they are shown; None: nowhere.
      learning_rate: schedule, of the number of updates made before.
      log_period: steps.
      train_steps: the last step, which is logged whatever the period.
      nonfinite: a hook called before this one; it ends the run where a loss
        that was logged must.
      told_rows: [num_rows] the rows of a batch that are this process's to
        count; None: all, and nobody else counts.
      shown_losses: metrics that are shown besides the loss.
    """
    self._told_rows = told_rows
    self._shown_losses = shown_losses
    self._nonfinite = nonfinite
    self._files, self._progress = files, progress
    self._learning_rate = learning_rate
    self._log_period, self._train_steps = log_period, train_steps
    self._forget()

  def _forget(self) -> None:
    self._since = time.perf_counter()
    self._counts = batch_counts.BatchCounts()

  @contextlib.contextmanager
  def paused(self, metrics: PyTree) -> Iterator[None]:
    """Leaves the time inside out of the rates.

    Args:
      metrics: of the last step; the steps still under way are waited for, since
        their time counts.
    """
    jax.block_until_ready(metrics)
    started = time.perf_counter()
    yield
    self._since += time.perf_counter() - started

  def after_step(self, step, state, batch, metrics) -> None:
    """See `loop.Hook`."""
    if self._told_rows is not None:
      batch = batch_lib.take_rows(batch, self._told_rows)
    self._counts += batch_counts.count(batch)
    if step % self._log_period and step != self._train_steps:
      return
    counts = self._collect_counts()
    if counts is not None:
      self._write(step, metrics, counts)
    self._nonfinite.check()
    self._forget()

  def _write(
    self,
    step: int,
    metrics: Mapping[str, Any],
    counts: batch_counts.BatchCounts,
  ) -> None:
    # Waits for the device; between two logs it runs ahead of this process.
    values = {k: float(v) for k, v in jax.device_get(dict(metrics)).items()}
    seconds = time.perf_counter() - self._since
    skipped = self._nonfinite.metrics()
    num_updates = step - int(skipped.get("skipped_steps", 0))
    # optax computes some schedules on a device, and sends the number there.
    with jax.transfer_guard("allow"):
      learning_rate = float(self._learning_rate(max(num_updates - 1, 0)))
    values |= {
      "learning_rate": learning_rate,
      "padding_share": counts.padding_share,
      "examples_per_second": counts.examples / seconds,
      "tokens_per_second": counts.tokens / seconds,
      **skipped,
    }
    if self._files is not None:
      self._files.write(step, "train", values)
    rates = ("examples_per_second", "tokens_per_second")
    shown = ("loss", *self._shown_losses, *rates)
    if self._progress is not None:
      self._progress.update(step, {name: values[name] for name in shown})

  def _collect_counts(self) -> batch_counts.BatchCounts | None:
    """Returns what all rows held since the last line; None: not process 0."""
    if self._told_rows is None:
      return self._counts
    told = distributed.collect("counts", dataclasses.asdict(self._counts))
    if told is None:
      return None
    return sum(
      (batch_counts.BatchCounts(**counts) for counts in told),
      start=batch_counts.BatchCounts(),
    )

  def close(self) -> None:
    """See `loop.Hook`."""
    for closed in (self._progress, self._files):
      if closed is not None:
        closed.close()


class EvalHook:
  """Evaluates every `eval_period` steps and at the last step."""

  def __init__(
    self,
    evaluate_fn: Callable[[PyTree, int], Mapping[str, Mapping[str, float]]],
    files: MetricFiles | None,
    eval_period: int,
    train_steps: int,
    nonfinite: NonfiniteHook,
    paused_fn: PausedFn = contextlib.nullcontext,
    history: ValidationHistory | None = None,
    show_fn: Callable[[str], None] = lambda line: None,
  ):
    """Remembers what to call.

    Args:
      evaluate_fn: (params, step) -> metrics by task.
      files: where metrics are written; None: another process does that.
      eval_period: steps.
      train_steps: the last step.
      nonfinite: looks at every loss before parameters are evaluated.
      paused_fn: `LogHook.paused`.
      history: of the run before; its scores are added to it.
      show_fn: shows a line to the user.
    """
    self.history = ValidationHistory() if history is None else history
    self._show_fn = show_fn
    self._nonfinite = nonfinite
    self._evaluate_fn, self._files = evaluate_fn, files
    self._eval_period, self._train_steps = eval_period, train_steps
    self._paused_fn = paused_fn
    self.latest: tuple[int, dict[str, float]] | None = None

  def after_step(self, step, state, batch, metrics) -> None:
    """See `loop.Hook`."""
    del batch
    if step % self._eval_period and step != self._train_steps:
      return
    self._nonfinite.check()
    with self._paused_fn(metrics):
      results = self._evaluate_fn(state.params, step)
    if self._files is not None:
      for task, task_metrics in results.items():
        self._files.write(step, f"validation/{task}", task_metrics)
    # A mixture has one label task at most; it decides which step is best.
    by_label = [m for m in results.values() if "label_accuracy" in m]
    self.latest = (step, dict(by_label[0])) if by_label else None
    score = find_score(results)
    if score is not None:
      self.history.add(step, score)
    if results:
      self._show_fn(self._describe(step, results))

  def _describe(
    self, step: int, results: Mapping[str, Mapping[str, float]]
  ) -> str:
    parts = [f"validation at step {step}"]
    for task, metrics in results.items():
      shown = []
      if SCORE in metrics:
        shown.append(f"label accuracy {metrics[SCORE]:.2%}")
      if "loss" in metrics:
        shown.append(f"loss {format_number(metrics['loss'], digits=4)}")
      parts.append(f"{task} {', '.join(shown)}")
    best = self.history.best
    if best is not None:
      is_best = self.history.is_best(step)
      parts.append(
        "best so far" if is_best else f"best {best[1]:.2%} at step {best[0]}"
      )
    return " · ".join(parts)

  def close(self) -> None:
    """See `loop.Hook`."""


class CheckpointHook:
  """Saves every `checkpoint_period` steps, at the last, and what is best.

  A step that was evaluated, and than which none before was better, is saved
  whatever the period: else the best state would be lost where the periods do
  not meet.
  """

  def __init__(
    self,
    checkpoints: Checkpoints,
    data_iterator_state_fn: Callable[[], Mapping[str, Any]],
    evaluation: EvalHook | None,
    checkpoint_period: int,
    train_steps: int,
    nonfinite: NonfiniteHook,
    paused_fn: PausedFn = contextlib.nullcontext,
  ):
    """Remembers what to save.

    Args:
      checkpoints: of the run.
      data_iterator_state_fn: state of the data iterator after the last batch.
      evaluation: its metrics of the same step are stored, to find the best.
      checkpoint_period: steps.
      train_steps: the last step.
      nonfinite: looks at every loss before a state is saved.
      paused_fn: `LogHook.paused`.
    """
    self._checkpoints = checkpoints
    self._nonfinite = nonfinite
    self._saved_step: int | None = None
    self._data_iterator_state_fn = data_iterator_state_fn
    self._evaluation = evaluation
    self._period, self._train_steps = checkpoint_period, train_steps
    self._paused_fn = paused_fn

  def after_step(self, step, state, batch, metrics) -> None:
    """See `loop.Hook`."""
    del batch
    self._checkpoints.raise_if_failed()
    is_best = self._evaluation is not None and (
      self._evaluation.history.is_best(step)
    )
    if step % self._period == 0 or step == self._train_steps or is_best:
      self.save(step, state, metrics)

  def save(self, step: int, state: PyTree, metrics: PyTree) -> None:
    """Starts to save a step, if that was not done.

    Args:
      step: updates made.
      state: the state after the step.
      metrics: of the step.

    Raises:
      UserError: a loss is not finite, the data was changed, the disk is full.
    """
    if self._saved_step == step:
      return
    # Not every step is logged; a broken state must not displace a good one.
    self._nonfinite.check()
    latest = self._evaluation.latest if self._evaluation else None
    with self._paused_fn(metrics):
      self._checkpoints.save(
        step,
        state,
        self._data_iterator_state_fn(),
        latest[1] if latest and latest[0] == step else None,
      )
    self._saved_step = step

  def close(self) -> None:
    """See `loop.Hook`."""
    self._checkpoints.wait()
