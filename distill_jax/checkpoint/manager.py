"""Checkpoints of a run, on Orbax, with five decisions and no more options.

Knows no gin, no data and no model: what to restore into is given as shapes with
shardings; `formats` reads parameters alone. A checkpoint is a folder
`checkpoints/<step>` with `state`, `data_iterator`, `metrics` and
`checksums.json`; Orbax writes it aside and renames it, so a folder with a
number for a name is complete.

Decided: saves are asynchronous; the last `keep_last` and the best are kept;
the best is the highest `best_metric`; a full disk ends the run, with every
earlier checkpoint intact; restore compares checksums, then all shapes, before
it reads. A run goes on from the newest checkpoint that is whole; those after
it are renamed to `damaged-<step>`, and nothing is deleted.

Several processes save and restore together, each the parts its devices hold;
they call every method alike, and process 0 decides where only one may.
"""

import json
import logging
import math
import pathlib
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

import orbax.checkpoint as ocp
from absl import logging as absl_logging
from orbax.checkpoint import checkpoint_managers

from distill_jax.checkpoint import checksums, damage, shape_check
from distill_jax.errors import UserError
from distill_jax.files import disk_space
from distill_jax.hosts import distributed

_log = logging.getLogger(__name__)

PyTree = Any
FOLDER = "checkpoints"
_STATE, _DATA_ITERATOR = "state", "data_iterator"
_UNFINISHED = ocp.utils.TMP_DIR_SUFFIX
# By Orbax, when it gives the folder its name; it holds times and no state.
_WRITTEN_LAST = "_CHECKPOINT_METADATA"
_NO_METRICS = "Requested `tracked_metric`; did not provide metrics"
_POLL_SECONDS = 0.02
# Other processes wait while process 0 sums up what may be hundreds of GB.
_MAX_SAVE_SECONDS = 3600


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
    absl_logging.get_absl_logger().addFilter(disk_space.is_worth_showing)
    absl_logging.get_absl_logger().addFilter(_is_no_habit)
    distributed.share(
      "metrics of checkpoints", lambda: _check_metrics(folder, may_set_aside)
    )
    self._folder, self._best_metric = folder, best_metric
    self._may_set_aside = may_set_aside
    self._saving_step: int | None = None
    self._failed: BaseException | None = None
    with disk_space.explain_full_disk(folder):
      self._manager = ocp.CheckpointManager(
        folder,
        options=ocp.CheckpointManagerOptions(
          preservation_policy=keep,
          best_fn=best_fn,
          best_mode="max",
          async_options=ocp.AsyncOptions(
            timeout_secs=_MAX_SAVE_SECONDS,
            post_finalization_callback=self._write_checksums,
            barrier_sync_fn=self._make_barrier_sync_fn(),
          ),
        ),
        item_names=(_STATE, _DATA_ITERATOR),
      )

  @property
  def latest_step(self) -> int | None:
    """The newest step there is, as process 0 sees it."""
    return distributed.share("newest step", self._manager.latest_step)

  @property
  def best_step(self) -> int | None:
    """The step with the highest best metric; None when none was evaluated."""
    return self._manager.best_step()

  @property
  def best_score(self) -> float | None:
    """The best metric of that step."""
    step = self.best_step
    metrics = None if step is None else self._manager.metrics(step)
    return None if metrics is None else metrics.get(self._best_metric)

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
    with disk_space.explain_full_disk(self._folder):
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

  def _make_barrier_sync_fn(self) -> Callable[..., None] | None:
    """Returns how Orbax' threads of all processes wait for each other.

    A save that fails in one process comes to such a barrier too, to say that it
    is over, and would wait there for the others, which wait for it elsewhere.
    It waits no more, and the run is told at its next step.
    """
    if distributed.process_count() == 1:
      return None
    meet = ocp.multihost.get_barrier_sync_fn()

    def sync(*, key: str, timeout_ms: int) -> None:
      error = sys.exc_info()[1]  # That which is under way through a `finally`.
      if error is not None:
        self._failed = error
        raise error
      meet(key=key, timeout_ms=timeout_ms)

    return sync

  def _write_checksums(self) -> None:
    """Sums up the files of the save under way.

    Orbax calls it in the thread that saves, before the folder gets its name: a
    checkpoint is never seen without its checksums, and no step waits for them.
    """
    if not distributed.is_primary():
      return
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
    damaged: dict[int, damage.DamagedCheckpointError] = {}
    steps = distributed.share(
      "steps", lambda: sorted(self._manager.all_steps(), reverse=True)
    )
    for step in steps:
      try:
        state, data_iterator_state = self.restore(step, abstract_state)
      except damage.DamagedCheckpointError as error:
        if not self._may_set_aside:
          raise
        damaged[step] = error
        continue
      if damaged:
        distributed.share("set aside", lambda: self._set_aside(damaged))
        self._manager.reload()
        _log.error("Going on from step %d, the newest that is whole.", step)
      return step, state, data_iterator_state
    found = "\n  ".join(str(error) for error in damaged.values())
    raise UserError(
      f"No checkpoint in {self._folder} is whole:\n  {found}\nCopy one back"
      " from elsewhere, or start again with --overwrite."
    )

  def _set_aside(self, damaged: Mapping[int, Exception]) -> None:
    for step, error in damaged.items():
      damage.set_aside(self._folder / str(step), error)

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
    is_verified = damage.verify(path)
    if not is_verified:
      _log.info(
        "%s has no checksums to compare its bytes with; it is accepted if it"
        " can be read.",
        path,
      )
    # Without checksums processes could not agree on what one of them finds.
    is_sound = is_verified or distributed.process_count() > 1
    with damage.explain_damage(path, is_sound):
      shape_check.check_shapes(path / _STATE, target)
      restored = self._manager.restore(step, args=args)
    state = type(abstract_state)(**restored[_STATE])
    return state, restored[_DATA_ITERATOR]

  def raise_if_failed(self) -> None:
    """Tells of a failed save as soon as it ended; takes no time otherwise.

    Raises:
      UserError: the disk is full.
    """
    self._raise_failed()
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
      self._raise_failed()
      if time.monotonic() > deadline:
        return False
      time.sleep(_POLL_SECONDS)
    self._raise_failed()
    with disk_space.explain_full_disk(self._folder):
      try:
        self._manager.wait_until_finished()
      finally:
        # Until then the thread that saves reads it; an error is told once.
        step, self._saving_step = self._saving_step, None
      # Two small files more, which came with the name.
      path = self._folder / str(step)
      if step is not None and distributed.is_primary() and path.is_dir():
        checksums.write(path)
    return True

  def _raise_failed(self) -> None:
    if self._failed is not None:
      with disk_space.explain_full_disk(self._folder):
        raise self._failed

  def close(self) -> None:
    """Waits for saves under way and releases what Orbax holds."""
    self.wait()
    with disk_space.explain_full_disk(self._folder):
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
    damage.verify(path)
    return path
  folder = path if path.name == FOLDER else path / FOLDER
  if not damage.list_steps(folder):
    raise UserError(
      f"There is no checkpoint at {path}. Give a folder such as"
      " MODEL_DIR/checkpoints/300, or a MODEL_DIR in which a run has saved."
    )
  checkpoints = Checkpoints(folder.parent)
  step = checkpoints.best_step
  step = checkpoints.latest_step if step is None else step
  checkpoints.close()
  damage.verify(folder / str(step))
  return folder / str(step)


def _check_metrics(folder: pathlib.Path, may_set_aside: bool) -> None:
  """Reads the metrics of all checkpoints, to say whose are damaged.

  Orbax reads them when it opens a folder, and would not say it.
  """
  steps, damaged = damage.list_steps(folder), []
  for step in steps:
    path = folder / str(step)
    try:
      with damage.explain_damage(path):
        if (path / "metrics").is_dir():
          # Checked by its type: it is indexed by the name of a metric.
          dict(json.loads((path / "metrics" / "metrics").read_text()))
    except damage.DamagedCheckpointError as error:
      damaged.append((path, error))
  if damaged and (not may_set_aside or len(damaged) == len(steps)):
    raise damaged[-1][1]
  for path, error in damaged:
    damage.set_aside(path, error)


def _is_no_habit(record: logging.LogRecord) -> bool:
  """Keeps off the screen what Orbax says of each checkpoint between two
  evaluations, which has no metrics and is never the best."""
  asked_for = absl_logging.get_verbosity() >= absl_logging.INFO
  return asked_for or not str(record.msg).startswith(_NO_METRICS)


def _ranked(metrics, best_metric: str) -> dict[str, float] | None:
  """Metrics that decide which is best; None for a checkpoint without."""
  return dict(metrics) if metrics and best_metric in metrics else None


def _as_dict(state: PyTree) -> dict[str, PyTree]:
  return {
    "step": state.step,
    "params": state.params,
    "opt_state": state.opt_state,
  }
