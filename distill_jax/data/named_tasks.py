"""What a task's name tells of it, without SeqIO and without its examples.

Enough to predict with a checkpoint that lies in no run.
"""

from typing import Any, cast

from distill_jax.data import datasets, task_kinds
from distill_jax.data.settings import DataSettings, get_prefix
from distill_jax.data.token_cache import TaskInfo, suggest
from distill_jax.errors import UserError


def describe_named_tasks(
  name: str, settings: DataSettings
) -> dict[str, TaskInfo]:
  """Describes a task, or the tasks of a mixture, by name.

  Args:
    name: "svamp_label", "svamp_distill" or another kind of a registered data
      set.
    settings: for the prefixes of inputs.

  Returns:
    Task name -> its description, without splits and counts.

  Raises:
    UserError: the name is of no registered data set or no kind of task.
  """
  dataset, kind_name = task_kinds.split_task_name(name)
  if kind_name is None or dataset not in datasets.names():
    known = [
      f"{known_dataset}_{kind}"
      for known_dataset in datasets.names()
      for kind in (*task_kinds.KINDS, *task_kinds.MIXTURES)
    ]
    raise UserError(
      f"MIXTURE_OR_TASK_NAME is {name!r}, which is no task of a data set that"
      f" is known here.{suggest(name, known)} Data sets of one's own need"
      " MIXTURE_OR_TASK_MODULE; for other inputs leave the name out and give"
      " INPUT_PREFIX."
    )
  kinds = task_kinds.MIXTURES.get(kind_name, (kind_name,))
  return {
    f"{dataset}_{kind}": _describe(dataset, task_kinds.KINDS[kind], settings)
    for kind in kinds
  }


def make_plain_task(inputs_prefix: str) -> TaskInfo:
  """Describes a task of which nothing is known: any text in, any text out.

  Args:
    inputs_prefix: put before each input.
  """
  return TaskInfo(
    rate=1.0,
    kind="label",
    metric="exact_match",
    label_set=None,
    uses_teacher_labels=False,
    inputs_prefix=inputs_prefix,
    splits={},
    teacher_counts={},
  )


def _describe(
  dataset: str, kind: task_kinds.TaskKind, settings: DataSettings
) -> TaskInfo:
  spec = datasets.get_dataset_spec(dataset)
  return TaskInfo(
    rate=1.0,
    kind=kind.loss,
    metric=cast(Any, spec.metric),  # `DatasetSpec` has checked it.
    label_set=spec.label_set,
    uses_teacher_labels=kind.uses_teacher_labels,
    inputs_prefix=get_prefix(kind, settings),
    splits={},
    teacher_counts={},
    target=kind.target,
  )
