"""Losses that are no number: told of, with the batch they came from.

Layer 1; imports data.batch, errors and free_name. Nothing waits for a device
because of it: losses are looked at when they have arrived, at the latest before
anything is logged or saved, so that no checkpoint comes after a loss not looked
at.

What is kept of such a step is `nonfinite/<step>.json`, with the ids of its
examples, and `nonfinite/<step>.npz`, the batch as the step saw it. These files
are also the count of skipped steps, which so survives a restart.
"""

import collections
import json
import logging
import math
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from distill_jax import free_name
from distill_jax.data import batch as batch_lib
from distill_jax.errors import UserError

_log = logging.getLogger(__name__)

FOLDER = "nonfinite"
POLICIES = ("stop", "skip")
# What decides it, in `training.step.skip_nonfinite` too.
WATCHED = ("loss", "gradient_norm")
# Steps that may be under way before the oldest is waited for.
_MAX_PENDING = 32


class NonfiniteHook:
  """Watches the loss and the gradient; stops the run, or counts what it skips.

  Attributes:
    num_skipped: steps without an update so far, as of the last `settle`.
  """

  def __init__(
    self,
    model_dir: str | pathlib.Path,
    policy: str,
    max_skipped_steps: int,
    start_step: int = 0,
    is_primary: bool = True,
  ):
    """Counts what earlier runs skipped.

    Args:
      model_dir: folder of the run.
      policy: "stop", or "skip" where the step makes no such update.
      max_skipped_steps: of the whole run; one more ends it.
      start_step: files of later steps are renamed, since those are made again.
      is_primary: whether this process writes the files and ends the run; of
        several that see the same losses, one does.

    Raises:
      UserError: the folder cannot be written.
    """
    self._folder = pathlib.Path(model_dir) / FOLDER
    self._policy, self._max_skipped_steps = policy, max_skipped_steps
    self._is_primary = is_primary
    self._pending = collections.deque()
    self._first_stopping: tuple[int, dict[str, float]] | None = None
    self.num_skipped = 0
    for path in sorted(self._folder.glob("*.json")):
      if not path.stem.isdigit():
        continue
      if int(path.stem) <= start_step:
        self.num_skipped += 1
        continue
      for part in (path, path.with_suffix(".npz")):
        if is_primary and part.exists():
          name = f"{part.stem}.superseded{part.suffix}"
          part.rename(free_name.find_free_name(part.with_name(name)))

  def metrics(self) -> dict[str, float]:
    """Returns what a line of metrics says of it; nothing where a run stops."""
    return {"skipped_steps": self.settle()} if self._policy == "skip" else {}

  def after_step(self, step, state, batch, metrics) -> None:
    """See `training.loop.Hook`."""
    del state
    self._look(is_waiting=False)
    self._raise_if_over()
    watched = {name: metrics[name] for name in WATCHED if name in metrics}
    self._pending.append((step, batch, watched))

  def settle(self) -> int:
    """Looks at every step made so far; waits for those under way.

    Returns:
      `num_skipped`.

    Raises:
      UserError: what is to be kept of a step cannot be written.
    """
    self._look(is_waiting=True)
    return self.num_skipped

  def check(self) -> None:
    """Settles, and ends the run where it must not go on.

    Raises:
      UserError: a loss or gradient was no number, and steps are not skipped or
        too many were.
    """
    self.settle()
    self._raise_if_over()

  def close(self) -> None:
    """See `training.loop.Hook`."""

  def _look(self, is_waiting: bool) -> None:
    while self._pending:
      step, batch, watched = self._pending[0]
      if (
        not is_waiting
        and len(self._pending) <= _MAX_PENDING
        and not all(_is_ready(value) for value in watched.values())
      ):
        return
      self._pending.popleft()
      values = {name: float(value) for name, value in watched.items()}
      if not self._is_primary or all(map(math.isfinite, values.values())):
        continue
      self._keep(step, batch, values)
      if self._policy == "skip":
        self.num_skipped += 1
        _log.warning(
          "Step %d is skipped: %s. Its batch is kept in %s; %d skipped so far.",
          step, _describe(values), self._folder, self.num_skipped,
        )  # fmt: skip
        is_over = self.num_skipped > self._max_skipped_steps
      else:
        is_over = True
      if is_over and self._first_stopping is None:
        self._first_stopping = step, values

  def _keep(self, step: int, batch: Mapping[str, Any], values) -> None:
    arrays, example_ids = batch_lib.split_example_ids(batch)
    record = {
      "step": step,
      # Not a number has no place in JSON.
      "metrics": {
        name: value if math.isfinite(value) else str(value)
        for name, value in values.items()
      },
      "example_ids": example_ids,
      "batch": f"{step}.npz",
    }
    try:
      self._folder.mkdir(exist_ok=True)
      keywords: dict[str, Any] = arrays
      np.savez_compressed(self._folder / f"{step}.npz", **keywords)
      # Last, and in one move: a step with this file has been counted.
      writing = self._folder / f"{step}.writing"
      writing.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
      os.replace(writing, self._folder / f"{step}.json")
    except OSError as error:
      raise UserError(
        f"At step {step} {_describe(values)}, and its batch cannot be written"
        f" to {self._folder}: {error}. The checkpoints so far are intact."
      ) from error

  def _raise_if_over(self) -> None:
    if self._first_stopping is None:
      return
    step, values = self._first_stopping
    path = self._folder / f"{step}.json"
    if self._policy == "skip":
      raise UserError(
        f"{self.num_skipped} steps had a loss or gradient that is no number;"
        f" MAX_SKIPPED_STEPS allows {self._max_skipped_steps}. The last was"
        f" step {step}; the ids of its examples are in {path}. A lower"
        " LEARNING_RATE, gradient clipping or float32 activations usually mend"
        " that."
      )
    raise UserError(
      f"The {_describe(values)} at step {step}. A lower LEARNING_RATE, gradient"
      " clipping or float32 activations usually mend that; --gin."
      "ON_NONFINITE_LOSS=\"'skip'\" goes on without such steps. The ids of its"
      f" examples are in {path}; the checkpoints so far are intact."
    )


def _is_ready(value) -> bool:
  """Whether a device scalar has arrived; a number always has."""
  return value.is_ready() if hasattr(value, "is_ready") else True


def _describe(values: Mapping[str, float]) -> str:
  return ", ".join(
    f"{name.replace('_', ' ')} is {value}" for name, value in values.items()
  )
