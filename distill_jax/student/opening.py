"""Opens a trained student from whatever its path leads to."""

import os
from collections.abc import Mapping
from typing import Literal

from distill_jax.data import named_tasks
from distill_jax.data.settings import DataSettings
from distill_jax.data.token_cache import TaskInfo, read_task_info
from distill_jax.errors import UserError
from distill_jax.student import loading
from distill_jax.student.student import Student

# Of a checkpoint that lies in no run; what is longer is trimmed and warned of.
_FOREIGN_LENGTHS = {"inputs": 512, "targets": 128}


def load_student(
  path: str | os.PathLike,
  *,
  checkpoint: Literal["best", "last"] | int = "best",
  task: str | None = None,
  vocab_path: str | None = None,
  feature_lengths: Mapping[str, int] | None = None,
  mesh: Mapping[str, int] | None = None,
  batch_rows: int = 32,
) -> Student:
  """Opens a trained student and reads its parameters.

  Example:
    >>> import distill_jax as dj
    >>> student = dj.load_student("runs/svamp", checkpoint="last")
    >>> student.predict([])
    []

  Args:
    path: the folder of a run, of one of its checkpoints, or a checkpoint in any
      form that `checkpoint.formats` opens: Hugging Face, T5X, Orbax.
    checkpoint: of a run: "best" on validation (the newest where none was
      evaluated), "last", or a step.
    task: a task or mixture by name, such as "svamp_distill": whose prefixes go
      before texts, and how answers are read. None: what the run was trained on;
      of a checkpoint of no run texts stay as they are.
    vocab_path: a sentencepiece model, where none lies with the checkpoint.
    feature_lengths: tokens of a row, {'inputs': ..., 'targets': ...}; None:
      the run's, of a checkpoint of no run 512 and 128.
    mesh: devices along each axis, see `partitioning.mesh`; None: all of them
      share the rows of a batch.
    batch_rows: texts computed at once, at most.

  Returns:
    The student.

  Raises:
    UserError: there is no checkpoint, a damaged one, one of another model, or
      no vocabulary; or no such task.
  """
  if not isinstance(path, str | os.PathLike) or not os.fspath(path):
    raise UserError(f"The path of a student is {path!r}; it must be a path.")
  opened = loading.open_model(
    loading.ModelChoice(
      checkpoint_path=os.fspath(path),
      checkpoints=checkpoint,
      vocab_path=vocab_path,
      feature_lengths=feature_lengths,
      foreign_lengths=_FOREIGN_LENGTHS,
      mesh=mesh or {"data": -1},
    )
  )
  if len(opened.checkpoints) != 1:
    raise UserError(
      f"checkpoint is {checkpoint!r}; a student is one checkpoint: 'best',"
      " 'last' or a step."
    )
  student = Student(opened, find_tasks(opened, task), batch_rows)
  _ = student.params  # A damaged file shows here and not in the first request.
  return student


def find_tasks(
  opened: loading.OpenedModel, name: str | None = None
) -> dict[str, TaskInfo]:
  """Returns what a model learned; {} where nothing tells.

  Args:
    opened: the model.
    name: a task or mixture to take in place of what its run recorded.

  Raises:
    UserError: there is no such task.
  """
  if name is not None:
    return named_tasks.describe_named_tasks(name, DataSettings())
  if opened.record is None:
    return {}
  return {
    name: read_task_info(name, info)
    for name, info in opened.record.identity["tasks"].items()
  }
