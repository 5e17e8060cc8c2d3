"""Checkpoints of a run, on Orbax, with five decisions and no more options.

Layer 2; imports errors. Knows no gin, no data and no model: what to restore
into is given as shapes with shardings; `formats` reads parameters alone. A
checkpoint is a folder `checkpoints/<step>` with `state`, `data_iterator` and
`metrics`; Orbax writes it aside and renames it, so a folder with a number for a
name is complete.

Decided: saves are asynchronous; the last `keep_last` and the best are kept;
the best is the highest `best_metric`; a full disk ends the run, with every
earlier checkpoint intact; restore checks all shapes before it reads.
"""

import contextlib
import errno
import json
import logging
import math
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import orbax.checkpoint as ocp
from absl import logging as absl_logging
from etils import epath
from orbax.checkpoint import checkpoint_managers

from distill_jax.errors import UserError

PyTree = Any
FOLDER = "checkpoints"
_STATE, _DATA_ITERATOR = "state", "data_iterator"


class Checkpoints:
  """Saves and restores the checkpoints of one run."""

  def __init__(
    self,
    model_dir: str | pathlib.Path,
    keep_last: int = 2,
    best_metric: str = "label_accuracy",
  ):
    """Opens `<model_dir>/checkpoints`, and makes it where it is missing.

    Args:
      model_dir: folder of the run.
      keep_last: how many of the newest to keep; the best is kept besides.
      best_metric: name of the metric that decides which is best, higher is
        better; a checkpoint saved without it is never the best.

    Raises:
      UserError: the disk is full, or metrics of a checkpoint are damaged.
    """
    folder = pathlib.Path(model_dir).absolute() / FOLDER
    # A run may have been saved by another metric; any is better than none.
    best_fn = lambda metrics: metrics.get(best_metric, -math.inf)
    keep = checkpoint_managers.AnyPreservationPolicy(
      [
        checkpoint_managers.LatestN(keep_last),
        checkpoint_managers.BestN(
          get_metric_fn=best_fn, n=1, keep_checkpoints_without_metrics=False
        ),
      ]
    )
    absl_logging.get_absl_logger().addFilter(_is_worth_showing)
    for step in _list_steps(folder):
      metrics_path = folder / str(step) / "metrics" / "metrics"
      if metrics_path.exists():
        # Orbax reads them too, and would not say whose are damaged.
        with _explain_damage(folder / str(step)):
          json.loads(metrics_path.read_text())
    with _explain_full_disk(folder):
      self._manager = ocp.CheckpointManager(
        folder,
        options=ocp.CheckpointManagerOptions(
          preservation_policy=keep, best_fn=best_fn, best_mode="max"
        ),
        item_names=(_STATE, _DATA_ITERATOR),
      )
    self._folder, self._best_metric = folder, best_metric
    self._is_saving = False

  @property
  def latest_step(self) -> int | None:
    """The newest step there is."""
    return self._manager.latest_step()

  @property
  def best_step(self) -> int | None:
    """The step with the highest best metric; None when none was evaluated."""
    return self._manager.best_step()

  def save(
    self,
    step: int,
    state: PyTree,
    data_iterator_state: Mapping[str, Any],
    metrics: Mapping[str, float] | None,
  ) -> None:
    """Starts to save; returns when the arrays are copied off the devices.

    Args:
      step: updates made.
      state: a `training.state.TrainState`.
      data_iterator_state: what the data iterator's `get_state` returned.
      metrics: validation metrics of this step, if it was evaluated; kept if
        the best metric is among them.

    Raises:
      UserError: the disk is full, now or in the save before.
    """
    with _explain_full_disk(self._folder):
      self._manager.save(
        step,
        args=ocp.args.Composite(
          **{
            _STATE: ocp.args.PyTreeSave(_as_dict(state)),
            _DATA_ITERATOR: ocp.args.JsonSave(dict(data_iterator_state)),
          }
        ),
        metrics=_ranked(metrics, self._best_metric),
      )
    self._is_saving = True

  def restore(
    self, step: int, abstract_state: PyTree
  ) -> tuple[PyTree, dict[str, Any]]:
    """Restores a whole state, onto whatever mesh `abstract_state` names.

    Args:
      step: which.
      abstract_state: `TrainState` of `jax.ShapeDtypeStruct` with shardings.

    Returns:
      The state and the data iterator's state.

    Raises:
      UserError: a tensor is missing, unexpected or of another shape, or the
        checkpoint is damaged.
    """
    path = self._folder / str(step)
    target = _as_dict(abstract_state)
    args = ocp.args.Composite(
      **{
        _STATE: ocp.args.PyTreeRestore(
          target,
          restore_args=ocp.checkpoint_utils.construct_restore_args(target),
        ),
        _DATA_ITERATOR: ocp.args.JsonRestore(),
      }
    )
    with _explain_damage(path):
      _check_shapes(path / _STATE, target)
      restored = self._manager.restore(step, args=args)
    state = type(abstract_state)(**restored[_STATE])
    return state, restored[_DATA_ITERATOR]

  def raise_if_failed(self) -> None:
    """Tells of a failed save as soon as it ended; takes no time otherwise.

    Raises:
      UserError: the disk is full.
    """
    # Orbax's own `check_for_errors` would take the error from the thread that
    # must see it, which would then delete older checkpoints.
    if self._is_saving and not self._manager.is_saving_in_progress():
      self._is_saving = False
      self.wait()

  def wait(self) -> None:
    """Waits for saves under way.

    Raises:
      UserError: the disk is full.
    """
    with _explain_full_disk(self._folder):
      self._manager.wait_until_finished()

  def close(self) -> None:
    """Waits for saves under way and releases what Orbax holds."""
    with _explain_full_disk(self._folder):
      self._manager.close()


def find_checkpoint(path: str | pathlib.Path) -> pathlib.Path:
  """Finds the checkpoint that a user's path means.

  Args:
    path: a checkpoint's folder (`.../checkpoints/300`), or a run's folder,
      which means its best checkpoint, or its newest where none was evaluated.

  Returns:
    The checkpoint's folder.

  Raises:
    UserError: there is none.
  """
  path = pathlib.Path(path).expanduser().absolute()
  if (path / _STATE).is_dir():
    return path
  folder = path if path.name == FOLDER else path / FOLDER
  if not _list_steps(folder):
    raise UserError(
      f"There is no checkpoint at {path}. Give a folder such as"
      " MODEL_DIR/checkpoints/300, or a MODEL_DIR in which a run has saved."
    )
  checkpoints = Checkpoints(folder.parent)
  step = checkpoints.best_step
  step = checkpoints.latest_step if step is None else step
  checkpoints.close()
  return folder / str(step)


def _list_steps(folder: pathlib.Path) -> list[int]:
  """Steps of the complete checkpoints in a folder, which may be missing."""
  names = [child.name for child in folder.iterdir()] if folder.is_dir() else []
  return sorted(int(name) for name in names if name.isdigit())


def _ranked(metrics, best_metric: str) -> dict[str, float] | None:
  """Metrics that decide which is best; None for a checkpoint without."""
  return dict(metrics) if metrics and best_metric in metrics else None


def _as_dict(state: PyTree) -> dict[str, PyTree]:
  return {
    "step": state.step,
    "params": state.params,
    "opt_state": state.opt_state,
  }


def _check_shapes(path: pathlib.Path, target: Mapping[str, PyTree]) -> None:
  with contextlib.closing(ocp.PyTreeCheckpointHandler()) as handler:
    stored = handler.metadata(epath.Path(path)).tree
  wanted = _shapes(target)
  found = _shapes({key: stored.get(key, {}) for key in target})
  problems = [
    f"{name}: checkpoint has {found.get(name, 'nothing')}, model expects"
    f" {wanted.get(name, 'nothing')}"
    for name in sorted(wanted.keys() | found.keys())
    if wanted.get(name) != found.get(name)
  ]
  if problems:
    shown = "\n  ".join(problems[:8])
    more = f"\n  ... and {len(problems) - 8} more" if len(problems) > 8 else ""
    raise UserError(
      f"The checkpoint {path.parent} does not fit the model: {len(problems)} of"
      f" {len(wanted)} tensors differ.\n  {shown}{more}\nGive the model's gin"
      " file that it was trained with, or another checkpoint."
    )


def _shapes(tree: PyTree) -> dict[str, tuple[int, ...]]:
  return {
    jax.tree_util.keystr(path, simple=True, separator="/"): tuple(leaf.shape)
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    if hasattr(leaf, "shape")
  }


@contextlib.contextmanager
def _explain_damage(path: pathlib.Path) -> Iterator[None]:
  try:
    yield
  # All of these come of one damaged file or another.
  except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
    # A checkpoint may have been renamed; then none is earlier.
    damaged = int(path.name) if path.name.isdigit() else 0
    earlier = [step for step in _list_steps(path.parent) if step < damaged]
    advice = (
      f"move that folder out of {path.parent} to go on from step {earlier[-1]}"
      if earlier
      else "there is no earlier one to go on from"
    )
    # TensorStore's other reads fail too, and asyncio would trace each.
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)
    raise UserError(
      f"{path} cannot be read as a checkpoint; {advice}. What was found:"
      f" {str(error)[:300]}"
    ) from error


@contextlib.contextmanager
def _explain_full_disk(folder: pathlib.Path) -> Iterator[None]:
  try:
    yield
  except Exception as error:
    if not is_full_disk(error):
      raise
    raise UserError(
      f"The disk of {folder} is full; a checkpoint could not be written. Every"
      " checkpoint saved before is intact. Free some room and run the same"
      " command again: it goes on from the newest."
    ) from error


def _is_worth_showing(record: logging.LogRecord) -> bool:
  """Keeps Orbax's traces of a full disk, which we tell of, off the screen."""
  error = record.exc_info[1] if record.exc_info else None
  asked_for = absl_logging.get_verbosity() >= absl_logging.INFO
  return asked_for or not is_full_disk(error)


def is_full_disk(error: BaseException | None) -> bool:
  """Whether an error, or what led to it, is a full disk."""
  while error is not None:
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
      return True
    if "No space left" in str(error) or "ENOSPC" in str(error):
      return True
    error = error.__cause__ or error.__context__
  return False
