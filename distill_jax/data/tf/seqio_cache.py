"""SeqIO tasks -> what the token cache stores.

The TensorFlow side of the data boundary; imports data.datasets, data.settings,
data.task_kinds, data.token_cache, data.vocab. Any SeqIO task with `inputs` and
`targets` will do; of those that `tasks/` registers it also knows kind and
metric. A scalar `loss_weight` of an element becomes the example's weight. It is
no output feature of the tasks, so SeqIO's feature converters, T5X's with them,
leave it out as they leave out `id`; there every token counts the same.
"""

import dataclasses
import logging
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import seqio
import tqdm

from distill_jax.data import (
  datasets,
  records,
  task_kinds,
  vocab,
)
from distill_jax.data.settings import (
  DataSettings,
  current_settings,
  get_prefix,
)
from distill_jax.data.token_cache import Example, TaskInfo, suggest
from distill_jax.errors import UserError

_log = logging.getLogger(__name__)

_SPLITS = ("train", "validation", "test")


def describe_tasks(name: str, settings: DataSettings) -> dict[str, TaskInfo]:
  """Describes the tasks of a mixture, or a task as a mixture of one.

  Args:
    name: a registered SeqIO task or mixture.
    settings: what shapes the examples.

  Returns:
    Task name -> its description, split sizes still unknown.

  Raises:
    UserError: no such task or mixture; it is not inputs -> targets; or it has
      another vocabulary than the settings.
  """
  known = [*seqio.TaskRegistry.names(), *seqio.MixtureRegistry.names()]
  if name not in known:
    raise UserError(
      f"MIXTURE_OR_TASK_NAME is {name!r}, which no imported module registers."
      f"{suggest(name, known)} Tasks of one's own need MIXTURE_OR_TASK_MODULE."
    )
  provider = seqio.get_mixture_or_task(name)
  if not {"inputs", "targets"} <= set(provider.output_features):
    raise UserError(
      f"{name} has the features {sorted(provider.output_features)}; an"
      " encoder-decoder needs 'inputs' and 'targets'."
    )
  for feature in ("inputs", "targets"):
    _check_vocabulary(
      name, provider.output_features[feature].vocabulary, settings
    )
  if isinstance(provider, seqio.Task):
    return {name: _describe(name, 1.0, settings)}
  return {
    task.name: _describe(task.name, float(provider.get_rate(task)), settings)
    for task in provider.tasks
  }


def tokenize(
  tasks: Mapping[str, TaskInfo], splits: Sequence[str] | None = None
) -> Iterator[tuple[str, str, Example]]:
  """Yields every example of every split of the tasks, in order.

  Args:
    tasks: names of registered SeqIO tasks.
    splits: which splits; None: all there are.

  Yields:
    Task, split and example; tokens end in EOS and are not trimmed, which is
    done when rows are built and their length is known.

  Raises:
    UserError: a `loss_weight` that no record can have.
  """
  for name in tasks:
    task = seqio.get_mixture_or_task(name)
    for split in splits or _SPLITS:
      if split not in task.splits:
        continue
      dataset = task.get_dataset(
        sequence_length=None, split=split, shuffle=False, num_epochs=1
      )
      rows = tqdm.tqdm(
        dataset.as_numpy_iterator(),
        desc=f"{name} {split}",
        unit=" examples",
        mininterval=1.0,
      )
      num_rows = 0
      for num_rows, row in enumerate(rows, start=1):
        example = _to_example(row, f"{split}-{num_rows - 1}")
        if not records.is_weight(example.weight):
          raise UserError(
            f"{name} {split}: example {example.id!r} has loss_weight"
            f" {example.weight:g}; it is a number from"
            f" {records.MIN_WEIGHT:g} to {records.MAX_WEIGHT:g}."
          )
        yield name, split, example
      _warn_of_left_out(name, split, num_rows)


def _warn_of_left_out(name: str, split: str, num_rows: int) -> None:
  """Warns of records that lack a part of a task's target.

  A rationale task leaves records without a rationale out on purpose, and a
  span corruption task has a row for each text and copy.
  """
  dataset, kind_name = task_kinds.split_task_name(name)
  kind = task_kinds.KINDS.get(kind_name or "")
  if (
    kind is None
    or "label" not in kind.target
    or dataset not in datasets.names()
  ):
    return
  num_records = len(datasets.load_records(dataset, split, current_settings()))
  if num_rows < num_records:
    _log.warning(
      "%s leaves out %d of the %d records of %s: they lack a %s. Scores on %s"
      " are of the others alone.",
      name,
      num_records - num_rows,
      num_records,
      split,
      " or a ".join(kind.target),
      split,
    )


def _check_vocabulary(
  name: str, theirs: seqio.Vocabulary, settings: DataSettings
) -> None:
  """Refuses tokens that the vocabulary beside them would not decode."""
  ours = vocab.load_vocabulary(settings.vocab_path)
  ids = list(range(ours.unk_id + 1, ours.size))
  text = theirs.decode(ids)
  # A vocabulary that passes ids through has no text to compare.
  if isinstance(text, str) and text != ours.decode(ids):
    raise UserError(
      f"{name} is tokenized by a vocabulary of its own, {theirs}, and not by"
      f" VOCAB_PATH, which is {settings.vocab_path!r}. Bind VOCAB_PATH to the"
      " same vocabulary."
    )


def _to_example(row: Mapping[str, np.ndarray], default_id: str) -> Example:
  def text(key):
    return bytes(row.get(key, b"")).decode("utf-8")

  return Example(
    id=text("id") or default_id,
    inputs=row["inputs"].astype(np.int32),
    targets=row["targets"].astype(np.int32),
    inputs_text=text("inputs_pretokenized"),
    targets_text=text("targets_pretokenized"),
    weight=float(row.get("loss_weight", 1.0)),
  )


def _describe(name: str, rate: float, settings: DataSettings) -> TaskInfo:
  dataset, kind_name = task_kinds.split_task_name(name)
  if kind_name not in task_kinds.KINDS or dataset not in datasets.names():
    return TaskInfo(
      rate=rate,
      kind="label",
      metric="exact_match",
      label_set=None,
      uses_teacher_labels=False,
      inputs_prefix="",
      splits={},
      teacher_counts={},
    )
  kind = task_kinds.KINDS[kind_name]
  spec = datasets.get_dataset_spec(dataset)
  # Counted before rows with conflicts are dropped, if they are.
  keeping = dataclasses.replace(settings, on_rationale_label_conflict="keep")
  counts = {}
  for split in settings.splits or spec.splits:
    if split in spec.splits:
      rows = datasets.load_records(dataset, split, keeping)
      _check_labels(name, kind, rows)
      counts[split] = datasets.count_teacher(rows, spec.metric, spec.label_set)
  return TaskInfo(
    rate=rate,
    kind=kind.loss,
    metric=spec.metric,
    label_set=spec.label_set,
    uses_teacher_labels=kind.uses_teacher_labels,
    inputs_prefix=get_prefix(kind, settings),
    splits={},
    teacher_counts=counts,
    target=kind.target,
  )


def _check_labels(
  name: str, kind: task_kinds.TaskKind, rows: Sequence[records.Record]
) -> None:
  """Refuses labels that could not be read out of a joint target again."""
  marker = task_kinds.JOINT_MARKERS.get(kind.target)
  if marker is None:
    return
  for record in rows:
    parts = {"label": record.label or "", "rationale": record.rationale or ""}
    text = marker.join(parts[part] for part in kind.target)
    if task_kinds.extract_label(text, kind.target) != parts["label"].strip():
      raise UserError(
        f"{name}: the label {record.label!r} of {record.id!r} holds"
        f" {marker.strip()!r}, which stands between label and rationale in the"
        " targets of this task. Rename the label, or train on a task that"
        " keeps the two apart."
      )
