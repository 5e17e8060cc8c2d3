"""The training loop: for each batch a step, then the hooks.

Logging, evaluation, checkpoints and stopping are hooks (`training.hooks`); the
loop knows none of them.
"""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np

PyTree = Any
Batch = Mapping[str, np.ndarray]


class StopTraining(Exception):
  """Raised by a hook when the run is complete before its last step."""


@runtime_checkable
class Hook(Protocol):
  """Something to do between steps."""

  def after_step(
    self, step: int, state: PyTree, batch: Batch, metrics: Mapping[str, Any]
  ) -> None:
    """Called after each step; one that raises `StopTraining` is the last.

    Args:
      step: updates made so far.
      state: the state after the step; donated to the next one, so use it now.
      batch: the host's numpy batch of the step.
      metrics: device scalars of the step.
    """
    ...

  def close(self) -> None:
    """Called once at the end, also when the loop ends in an error."""
    ...


def run_loop(
  state: PyTree,
  batches: Iterator[tuple[Batch, Any]],
  step_fn: Callable[[PyTree, Any], tuple[PyTree, Mapping[str, Any]]],
  hooks: Sequence[Hook],
  start_step: int,
  train_steps: int,
  on_error_fn: Callable[[BaseException | None], None] = lambda error: None,
) -> PyTree:
  """Trains from `start_step` to `train_steps`.

  Args:
    state: the state at `start_step`.
    batches: endless; each the host's numpy batch and the same on the devices.
    step_fn: (state, device batch) -> (state, metrics).
    hooks: called in order after each step; closed in reverse order, each of
      them whatever else fails.
    start_step: updates made so far.
    train_steps: updates in all.
    on_error_fn: told what ended the loop before any hook is closed, which may
      wait for other processes; None: nothing did.

  Returns:
    The last state.
  """
  with contextlib.ExitStack() as stack:
    for hook in hooks:
      stack.callback(hook.close)
    stack.push(lambda _, error, trace: on_error_fn(error))
    for step in range(start_step + 1, train_steps + 1):
      batch, device_batch = next(batches)
      state, metrics = step_fn(state, device_batch)
      try:
        for hook in hooks:
          hook.after_step(step, state, batch, metrics)
      except StopTraining:
        break
  return state
