"""Checkpoints of a run, on Orbax, with five decisions and no more options.

Layer 2; imports errors and checksums. Knows no gin, no data and no model: what
to restore into is given as shapes with shardings; `formats` reads parameters
alone. A checkpoint is a folder `checkpoints/<step>` with `state`,
`data_iterator`, `metrics` and `checksums.json`; Orbax writes it aside and
renames it, so a folder with a number for a name is complete.

Decided: saves are asynchronous; the last `keep_last` and the best are kept;
the best is the highest `best_metric`; a full disk ends the run, with every
earlier checkpoint intact; restore compares checksums, then all shapes, before
it reads. A run goes on from the newest checkpoint that is whole; those after
it are renamed to `damaged-<step>`, and nothing is deleted.
"""

import contextlib
import errno
import functools
import itertools
import json
import logging
import math
import pathlib
import time
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import orbax.checkpoint as ocp
from absl import logging as absl_logging
from etils import epath
from orbax.checkpoint import checkpoint_managers

from distill_jax.checkpoint import checksums
from distill_jax.errors import UserError

_log = logging.getLogger(__name__)

PyTree = Any
FOLDER = "checkpoints"
_STATE, _DATA_ITERATOR = "state", "data_iterator"
_UNFINISHED = ocp.utils.TMP_DIR_SUFFIX
# By Orbax, when it gives the folder its name; it holds times and no state.
_WRITTEN_LAST = "_CHECKPOINT_METADATA"
_POLL_SECONDS = 0.02
_MACHINE_ERRORS = {
  errno.EACCES,
  errno.EPERM,
  errno.EMFILE,
  errno.ENFILE,
  errno.ESTALE,
  errno.ETIMEDOUT,
}


class DamagedCheckpointError(UserError):
  """A checkpoint's files are not what was saved; an earlier one may be."""


class Checkpoints:
  """Saves and restores the checkpoints of one run."""

  def __init__(
    self,
    model_dir: str | pathlib.Path,
    keep_last: int = 2,
    best_metric: str = "label_accuracy",
    may_set_aside: bool = False,
  ):
    """Opens `<model_dir>/checkpoints`, and makes it where it is missing.

    Args:
      model_dir: folder of the run.
      keep_last: how many of the newest to keep; the best is kept besides.
      best_metric: name of the metric that decides which is best, higher is
        better; a checkpoint saved without it is never the best.
      may_set_aside: whether damaged checkpoints may be renamed, which is for
        the run that writes here and nobody else.

    Raises:
      UserError: the disk is full; or metrics of a checkpoint are damaged and
        it may not be set aside, or no other is there.
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
    _check_metrics(folder, may_set_aside)
    self._folder, self._best_metric = folder, best_metric
    self._may_set_aside = may_set_aside
    self._saving_step: int | None = None
    with _explain_full_disk(folder):
      self._manager = ocp.CheckpointManager(
        folder,
        options=ocp.CheckpointManagerOptions(
          preservation_policy=keep,
          best_fn=best_fn,
          best_mode="max",
          async_options=ocp.AsyncOptions(
            post_finalization_callback=self._write_checksums
          ),
        ),
        item_names=(_STATE, _DATA_ITERATOR),
      )

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
    self.wait()
    self._saving_step = step
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

  def _write_checksums(self) -> None:
    """Sums up the files of the save under way.

    Orbax calls it in the thread that saves, before the folder gets its name: a
    checkpoint is never seen without its checksums, and no step waits for them.
    """
    step = self._saving_step
    unfinished = self._folder.glob(f"{step}{_UNFINISHED}*")
    for path in (*unfinished, self._folder / str(step)):
      if path.is_dir():
        checksums.write(path, leave_out=_WRITTEN_LAST)

  def restore_newest(
    self, abstract_state: PyTree
  ) -> tuple[int, PyTree, dict[str, Any]]:
    """Restores the newest checkpoint that is whole.

    Damaged ones after it are renamed, so that the run may save those steps
    again, if the manager was opened with `may_set_aside`.

    Args:
      abstract_state: see `restore`.

    Returns:
      The step, the state and the data iterator's state.

    Raises:
      UserError: the model does not fit; or no checkpoint is whole, in which
        case none is renamed.
    """
    damaged: dict[int, DamagedCheckpointError] = {}
    for step in sorted(self._manager.all_steps(), reverse=True):
      try:
        state, data_iterator_state = self.restore(step, abstract_state)
      except DamagedCheckpointError as error:
        if not self._may_set_aside:
          raise
        damaged[step] = error
        continue
      for damaged_step, error in damaged.items():
        _set_aside(self._folder / str(damaged_step), error)
      if damaged:
        self._manager.reload()
        _log.error("Going on from step %d, the newest that is whole.", step)
      return step, state, data_iterator_state
    found = "\n  ".join(str(error) for error in damaged.values())
    raise UserError(
      f"No checkpoint in {self._folder} is whole:\n  {found}\nCopy one back"
      " from elsewhere, or start again with --overwrite."
    )

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
      DamagedCheckpointError: its bytes are not those that were saved; or it
        has no checksums and cannot be read.
      UserError: a tensor is missing, unexpected or of another shape.
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
    is_verified = _verify(path)
    if not is_verified:
      _log.info(
        "%s has no checksums to compare its bytes with; it is accepted if it"
        " can be read.",
        path,
      )
    with _explain_damage(path, is_verified):
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
    if (
      self._saving_step is not None
      and not self._manager.is_saving_in_progress()
    ):
      self.wait()

  def wait(self, timeout_seconds: float = math.inf) -> bool:
    """Waits for saves under way.

    Args:
      timeout_seconds: the longest to wait.

    Returns:
      Whether they have ended.

    Raises:
      UserError: the disk is full.
    """
    deadline = time.monotonic() + timeout_seconds
    # Orbax has no such limit; what hangs there is most often a network's disk.
    while math.isfinite(deadline) and self._manager.is_saving_in_progress():
      if time.monotonic() > deadline:
        return False
      time.sleep(_POLL_SECONDS)
    with _explain_full_disk(self._folder):
      try:
        self._manager.wait_until_finished()
      finally:
        # Until then the thread that saves reads it; an error is told once.
        step, self._saving_step = self._saving_step, None
      # Two small files more, which came with the name.
      path = self._folder / str(step)
      if step is not None and jax.process_index() == 0 and path.is_dir():
        checksums.write(path)
    return True

  def close(self) -> None:
    """Waits for saves under way and releases what Orbax holds."""
    self.wait()
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
    DamagedCheckpointError: its bytes are not those that were saved.
    UserError: there is none.
  """
  path = pathlib.Path(path).expanduser().absolute()
  if (path / _STATE).is_dir():
    _verify(path)
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
  _verify(folder / str(step))
  return folder / str(step)


def _check_metrics(folder: pathlib.Path, may_set_aside: bool) -> None:
  """Reads the metrics of all checkpoints, to say whose are damaged.

  Orbax reads them when it opens a folder, and would not say it.
  """
  steps, damaged = _list_steps(folder), []
  for step in steps:
    path = folder / str(step)
    try:
      with _explain_damage(path):
        if (path / "metrics").is_dir():
          # Checked by its type: it is indexed by the name of a metric.
          dict(json.loads((path / "metrics" / "metrics").read_text()))
    except DamagedCheckpointError as error:
      damaged.append((path, error))
  if damaged and (not may_set_aside or len(damaged) == len(steps)):
    raise damaged[-1][1]
  for path, error in damaged:
    _set_aside(path, error)


def _set_aside(path: pathlib.Path, error: Exception) -> None:
  """Renames a damaged checkpoint, whose step will be saved again."""
  aside = path.with_name(f"damaged-{path.name}")
  for number in itertools.count(2):
    if not aside.exists():
      break
    aside = path.with_name(f"damaged-{path.name}-{number}")
  _log.error("%s\nIt is kept as %s and not used.", error, aside)
  path.rename(aside)


def _verify(path: pathlib.Path) -> bool:
  """Compares a checkpoint with its checksums; False where it has none.

  Raises:
    DamagedCheckpointError: they differ.
  """
  with _explain_damage(path):
    stats = [
      (str(file), stat.st_size, stat.st_mtime_ns, stat.st_ino)
      for file in sorted(path.rglob("*"))
      if (stat := file.stat())
    ]
    return _verify_once(path, tuple(stats))


@functools.lru_cache(maxsize=64)
def _verify_once(path: pathlib.Path, stats: tuple) -> bool:
  """Verifies; an evaluation finds the same checkpoint several times."""
  del stats  # Files that were touched since are read again.
  return checksums.verify(path)


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
def _explain_damage(
  path: pathlib.Path, is_verified: bool = False
) -> Iterator[None]:
  """Tells of a checkpoint that cannot be read, and what to do.

  Args:
    path: its folder.
    is_verified: its bytes are those that were saved, so that what fails is not
      damage.
  """
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
    found = f"What was found: {str(error)[:300]}"
    if is_verified or _is_no_damage(error):
      raise UserError(
        f"{path} cannot be read, though no damage was found. It may need the"
        f" version of Orbax it was saved with, or other permissions. {found}"
      ) from error
    raise DamagedCheckpointError(
      f"{path} cannot be read as a checkpoint; {advice}. {found}"
    ) from error


def _is_no_damage(error: Exception) -> bool:
  """Whether an error speaks of the machine and not of a checkpoint's bytes."""
  if isinstance(error, OSError) and error.errno in _MACHINE_ERRORS:
    return True
  return any(
    status in str(error) for status in ("PERMISSION_DENIED", "UNAVAILABLE")
  )


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
