"""The last lines of a run: its best step, where that is, how to evaluate it."""

import logging
import pathlib
import re
import shlex

from distill_jax.checkpoint import manager
from distill_jax.hosts import distributed

_log = logging.getLogger(__name__)


def show(
  model_dir: pathlib.Path, last_step: int, checkpoints: manager.Checkpoints
) -> None:
  """Shows them; only process 0 does.

  Args:
    model_dir: folder of the run.
    last_step: the step it has come to.
    checkpoints: of the run, all saved.
  """
  best = checkpoints.best_step, checkpoints.best_score
  if distributed.is_primary():
    _log.info("%s", describe(model_dir, last_step, *best))


def describe(
  model_dir: pathlib.Path,
  last_step: int,
  best_step: int | None,
  best_score: float | None,
) -> str:
  """Returns the lines.

  Args:
    model_dir: folder of the run.
    last_step: the step it has come to.
    best_step: that with the highest label accuracy; None: no label was
      validated.
    best_score: the accuracy.
  """
  if best_step is None or best_score is None:
    found = (
      f"Trained to step {last_step}. No label was validated, so no step is the"
      " best one: the last is taken."
    )
  else:
    found = (
      f"Trained to step {last_step}. Best on validation: step {best_step},"
      f" label accuracy {best_score:.2%}."
    )
  step = last_step if best_step is None else best_step
  command = (
    "distill-jax --run_mode=eval --gin_file=gin/runs/eval.gin"
    f" {_quote(model_dir)}"
  )
  return (
    f"{found}\n  Checkpoint: {model_dir / manager.FOLDER / str(step)}\n"
    f"  Evaluate it: {command}"
  )


def _quote(model_dir: pathlib.Path) -> str:
  """Returns MODEL_DIR as an argument of a shell, quoted for gin inside."""
  if re.fullmatch(r"[\w /.,:=+@%~-]+", str(model_dir)):
    return f"--gin.MODEL_DIR=\"'{model_dir}'\""
  return shlex.quote(f"--gin.MODEL_DIR={str(model_dir)!r}")
