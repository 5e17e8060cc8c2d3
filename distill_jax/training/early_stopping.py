"""Ends a run whose validation score gets no better.

What it decides depends on the scores alone, so a run that was killed and
resumed stops where it would have stopped, and one that has stopped does not go
on.
"""

import dataclasses
import logging
from collections.abc import Callable, Mapping
from typing import Any

from distill_jax.run_folder.validation_history import ValidationHistory
from distill_jax.training import loop

_log = logging.getLogger(__name__)

PyTree = Any


@dataclasses.dataclass(frozen=True)
class EarlyStopping:
  """When to stop.

  Attributes:
    evals: evaluations in a row without a better score; None: never.
    min_delta: a score counts as better when it is more than this above the one
      before that counted.
  """

  evals: int | None
  min_delta: float = 0.0

  def is_due(self, history: ValidationHistory) -> bool:
    """Whether a run with these scores is over."""
    return (
      self.evals is not None
      and history.count_without_gain(self.min_delta) >= self.evals
    )

  def explain(self, history: ValidationHistory) -> str:
    """Says why it is over."""
    best = history.best
    assert best is not None
    gain = f" by more than {self.min_delta:g}" if self.min_delta else ""
    return (
      f"the last {history.count_without_gain(self.min_delta)} evaluations did"
      f" not better the label accuracy{gain} (EARLY_STOPPING_EVALS is"
      f" {self.evals}); best was {best[1]:.2%} at step {best[0]}"
    )


class EarlyStoppingHook:
  """Saves the step at which the run is over, and ends the loop."""

  def __init__(
    self,
    stopping: EarlyStopping,
    history: ValidationHistory,
    save_fn: Callable[[int, PyTree, Mapping[str, Any]], None],
    train_steps: int,
  ):
    """Remembers what to look at.

    Args:
      stopping: when to stop.
      history: to which another hook adds before this one is called.
      save_fn: (step, state, metrics) -> None; saves that step, if it is not
        saved yet.
      train_steps: the last step, after which there is nothing to stop.
    """
    self._stopping, self._history = stopping, history
    self._save_fn, self._train_steps = save_fn, train_steps

  def after_step(self, step, state, batch, metrics) -> None:
    """See `loop.Hook`.

    Raises:
      StopTraining: the run is over.
    """
    del batch
    if step == self._train_steps or self._history.latest_step != step:
      return
    if self._stopping.is_due(self._history):
      self._save_fn(step, state, metrics)
      _log.info(
        "Stopping early after step %d of %d: %s.",
        step, self._train_steps, self._stopping.explain(self._history),
      )  # fmt: skip
      raise loop.StopTraining

  def close(self) -> None:
    """See `loop.Hook`."""
