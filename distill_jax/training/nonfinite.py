"""Detects NaN and infinite losses and saves the batch that caused them.

Nothing waits for a device because of it: losses are looked at when they have
arrived, at the latest when anything is logged, evaluated or saved, so that no
checkpoint comes after a loss not looked at.

What is kept of such a step is `nonfinite/<step>.json`, with the ids of its
examples, and `nonfinite/<step>.npz`, the batch as the step saw it. These files
are also the count of skipped steps, which so survives a restart.

Where several processes make a batch between them, each has the rows it made.
They tell process 0 when they `settle`, which all do after the same steps: in
between they may be steps apart, and one that waits could not be told.
"""

import base64
import collections
import io
import json
import logging
import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from distill_jax.data.feed import batch as batch_lib
from distill_jax.errors import UserError
from distill_jax.files import atomic, free_name
from distill_jax.hosts import distributed

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
    told_rows: np.ndarray | None = None,
  ):
    """Counts what earlier runs skipped.

    Args:
      model_dir: folder of the run.
      policy: "stop", or "skip" where the step makes no such update.
      max_skipped_steps: of the whole run; one more ends it.
      start_step: files of later steps are renamed, since those are made again.
      is_primary: whether this process writes the files and ends the run; of
        several that see the same losses, one does.
      told_rows: [num_rows] the rows of a batch that are this process's to tell;
        None: process 0 has all of them.

    Raises:
      UserError: the folder cannot be written.
    """
    self._folder = pathlib.Path(model_dir) / FOLDER
    self._policy, self._max_skipped_steps = policy, max_skipped_steps
    self._is_primary, self._told_rows = is_primary, told_rows
    self._pending = collections.deque()
    # Found, and not told or kept yet.
    self._found: list[tuple[int, Mapping[str, Any], dict[str, float]]] = []
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
    if self._told_rows is None:
      self._keep_found()
    self._raise_if_over()
    watched = {name: metrics[name] for name in WATCHED if name in metrics}
    self._pending.append((step, batch, watched))

  def settle(self) -> int:
    """Looks at every step made so far; waits for those under way.

    Where several processes make a batch, all do it after the same steps.

    Returns:
      `num_skipped`.

    Raises:
      UserError: what is to be kept of a step cannot be written.
    """
    self._look(is_waiting=True)
    self._keep_found()
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
      if not all(map(math.isfinite, values.values())):
        self._note(step, batch, values)

  def _note(self, step: int, batch: Mapping[str, Any], values) -> None:
    limit = self._max_skipped_steps if self._policy == "skip" else 0
    # More of them end the run anyway; and all processes note the same ones.
    if len(self._found) > limit:
      return
    if self._told_rows is not None:
      batch = batch_lib.take_rows(batch, self._told_rows)
    elif not self._is_primary:
      return
    self._found.append((step, batch, values))

  def _keep_found(self) -> None:
    """Keeps what was found, in process 0; the others tell it theirs."""
    for step, batch, values in self._found:
      if self._told_rows is not None:
        told = distributed.collect(
          f"batch of step {step}", _encode(batch, self._told_rows)
        )
        if told is None:
          continue
        batch = _merge(told)
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
    self._found.clear()

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
      text = json.dumps(record, indent=2) + "\n"
      atomic.write_text(self._folder / f"{step}.json", text)
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
        f"{self.num_skipped} steps had a NaN or infinite loss or gradient;"
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


def _encode(batch: Mapping[str, Any], rows: np.ndarray) -> dict[str, Any]:
  """Returns rows of a batch as JSON values."""
  arrays, example_ids = batch_lib.split_example_ids(batch)
  file, keywords = io.BytesIO(), dict[str, Any](arrays)
  np.savez_compressed(file, **keywords)
  return {
    "rows": rows.tolist(),
    "arrays": base64.b64encode(file.getvalue()).decode("ascii"),
    "example_ids": example_ids,
  }


def _merge(told: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
  """Returns the batch whose rows were told, each by one process."""
  batch: dict[str, Any] = {}
  example_ids: dict[int, list[str]] = {}
  num_rows = sum(len(part["rows"]) for part in told)
  for part in told:
    file = io.BytesIO(base64.b64decode(part["arrays"]))
    for key, value in np.load(file, allow_pickle=False).items():
      shape = (num_rows, *value.shape[1:])
      batch.setdefault(key, np.zeros(shape, value.dtype))[part["rows"]] = value
    if part["example_ids"] is not None:
      example_ids |= zip(part["rows"], part["example_ids"], strict=True)
  if example_ids:
    batch[batch_lib.EXAMPLE_IDS] = [example_ids[row] for row in range(num_rows)]
  return batch


def _is_ready(value) -> bool:
  """Whether a device scalar has arrived; a number always has."""
  return value.is_ready() if hasattr(value, "is_ready") else True


def _describe(values: Mapping[str, float]) -> str:
  return ", ".join(
    f"{name.replace('_', ' ')} is {value}" for name, value in values.items()
  )
