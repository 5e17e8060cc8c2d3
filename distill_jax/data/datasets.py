"""The data sets by name: where records come from and how answers compare.

Owns the registry and what happens to records between source and task: the
subsample, the validation split, rationales that contradict the gold label.
Knows no SeqIO task and, until gold rows of an NLI train set must be fetched, no
TensorFlow.
"""

import collections
import dataclasses
import functools
import glob
import inspect
import pathlib
from collections.abc import Callable, Sequence

from distill_jax.answers.equality import METRICS, LabelMetric, labels_equal
from distill_jax.data import splits
from distill_jax.data.records import Record, read_records
from distill_jax.data.settings import DataSettings
from distill_jax.data.sources import (
  animal_legs,
  official,
  shuffled_rationales,
  word_problems,
)
from distill_jax.errors import UserError

SPLITS = ("train", "validation", "test")


@dataclasses.dataclass(frozen=True)
class DatasetSpec:
  """All that the package knows about a data set.

  Attributes:
    name: what users call it; the tasks' names begin with it.
    load_fn: (split, settings) -> the records of that split at its source.
    metric: how an answer is compared with the gold one: "exact_match" or
      "equation", equal values; see `answers.equality`.
    source_files_fn: settings -> the files that decide the records, for a
      fingerprint; empty where the settings alone decide.
    label_set: all labels there are, None where they are open. Gold labels
      outside it are counted by `prepare` and left out of accuracies.
    splits: the splits it has.
    validation_fraction: share of the source's training records that validates
      instead; None where the source has validation records of its own.
    vocabulary: of this data set where VOCAB_PATH is None: a path, or the name
      of a file in this folder; None: that of all data sets without their own.
    size_option: the option of its own settings, `DataSettings.<name>`, that
      gives the number of training examples; None: SUBSAMPLE takes a share.
  """

  name: str
  load_fn: Callable[[str, DataSettings], list[Record]]
  metric: LabelMetric
  source_files_fn: Callable[[DataSettings], list[pathlib.Path]]
  label_set: tuple[str, ...] | None = None
  splits: tuple[str, ...] = SPLITS
  validation_fraction: float | None = None
  vocabulary: str | None = None
  size_option: str | None = None

  def __post_init__(self):
    if self.metric not in METRICS:
      raise UserError(
        f"Data set {self.name!r} has metric {self.metric!r}; it must be one of"
        f" {', '.join(METRICS)}."
      )
    if self.size_option is not None and not hasattr(DataSettings(), self.name):
      raise UserError(
        f"Data set {self.name!r} has size_option {self.size_option!r}, and"
        " DataSettings has no options of that name. Leave it out."
      )


_specs: dict[str, DatasetSpec] = {}


def register_dataset(spec: DatasetSpec) -> None:
  """Makes a data set known by its name; again is no harm.

  Args:
    spec: the data set.

  Raises:
    UserError: the name belongs to another data set.
  """
  if _specs.setdefault(spec.name, spec) is not spec:
    raise UserError(
      f"Another data set {spec.name!r} is registered already. Choose another"
      " name."
    )


def names() -> list[str]:
  """Returns the names of all registered data sets."""
  return sorted(_specs)


def get_dataset_spec(name: str) -> DatasetSpec:
  """Returns a registered data set.

  Args:
    name: its name.

  Returns:
    What was registered.

  Raises:
    UserError: there is none of that name; the message lists those there are.
  """
  if name not in _specs:
    raise UserError(
      f"There is no data set {name!r}, only {', '.join(names())}."
    )
  return _specs[name]


def jsonl_dataset(
  name: str,
  path_pattern: str,
  metric: LabelMetric,
  label_set: tuple[str, ...] | None = None,
  splits: tuple[str, ...] = SPLITS,
) -> DatasetSpec:
  """Makes a data set of records files, one or several for each split.

  Args:
    name: what to call it.
    path_pattern: path with `{split}` in it, such as "data/mine_{split}.jsonl";
      * and ? match several files, which are read in the order of their names.
    metric: "exact_match" or "equation".
    label_set: all labels there are; None: any text may be one.
    splits: the splits that have a file.

  Returns:
    The data set, to be given to `register_dataset`.

  Raises:
    UserError: the pattern lacks `{split}`. Loading raises it for bad records
      and for an id in two files.
  """
  if "{split}" not in path_pattern:
    raise UserError(
      f"The path of data set {name!r} is {path_pattern!r}; it must hold"
      " {split}, in whose place come train, validation and test."
    )

  def get_paths(split: str) -> list[pathlib.Path]:
    # Not str.format, which would trip over other braces in the path.
    path = pathlib.Path(path_pattern.replace("{split}", split))
    if path.is_file():
      return [path]
    # Where nothing matches, reading says what is missing.
    return [pathlib.Path(found) for found in sorted(glob.glob(str(path)))] or [
      path
    ]

  def load(split: str, _: DataSettings) -> list[Record]:
    records: dict[str, Record] = {}
    for path in get_paths(split):
      for record in read_records(path):
        if record.id in records:
          raise UserError(
            f"{path}: {record.id!r} is the id of a record in another file of"
            f" {path_pattern}. Ids must be unique in a split."
          )
        records[record.id] = record
    return list(records.values())

  def list_files(_: DataSettings) -> list[pathlib.Path]:
    files = [path for split in splits for path in get_paths(split)]
    if missing := [str(path) for path in files if not path.is_file()]:
      raise UserError(
        f"Data set {name!r} lacks {', '.join(missing)}. Put the files there, or"
        " name the splits there are in `splits`."
      )
    return files

  return DatasetSpec(name, load, metric, list_files, label_set, splits)


def load_records(name: str, split: str, settings: DataSettings) -> list[Record]:
  """Loads a split as tasks see it.

  Training records are subsampled first, then divided from validation where the
  source has none, as in the authors' code. Conflicts between gold label and
  rationale are settled, and rationales shuffled where that is asked for, in
  training records only, so that evaluation sees every example as it is.

  Args:
    name: a registered data set.
    split: "train", "validation" or "test".
    settings: what shapes the data.

  Returns:
    The records; never none.

  Raises:
    UserError: an unknown name or split, a source that cannot be read, or no
      records.

  Source: Distilling Step-by-Step, table of split sizes; order of operations
    and seeds, authors' run.py and data_utils.py.
  """
  spec = get_dataset_spec(name)
  if split not in spec.splits:
    raise UserError(
      f"Data set {name!r} has no {split!r} split, only"
      f" {', '.join(spec.splits)}."
    )
  validation_fraction = spec.validation_fraction if split != "test" else None
  is_from_train = split == "train" or validation_fraction is not None
  loaded_split = "train" if is_from_train else split
  records = spec.load_fn(loaded_split, settings)
  num_loaded = len(records)
  if records and is_from_train:
    kept = splits.subsample_indices(
      len(records), settings.subsample, settings.subsample_seed
    )
    records = [records[index] for index in kept]
  if records and validation_fraction is not None:
    # The authors' seed, whatever the run's: all runs share one validation set.
    train, validation = splits.train_validation_split(
      len(records), validation_fraction, seed=0
    )
    part = train if split == "train" else validation
    records = [records[index] for index in part]
  if split == "train":
    records = _settle_conflicts(records, spec, settings)
    if settings.shuffle_rationales:
      records = shuffled_rationales.shuffle(records)
  if not records:
    raise UserError(
      _explain_empty(name, split, loaded_split, num_loaded, settings)
    )
  return records


def _explain_empty(
  name: str,
  split: str,
  loaded_split: str,
  num_loaded: int,
  settings: DataSettings,
) -> str:
  """Says what left a split without records."""
  empty = f"Empty data set: {name} {split} has no records."
  if not num_loaded:
    return (
      f"{empty} Its load_fn returned none for {loaded_split!r}. Look at the"
      " source they are read from, or leave the split out (SPLITS, or the data"
      " set's own splits)."
    )
  if (
    split == "train" and settings.on_rationale_label_conflict == "drop_example"
  ):
    return (
      f"{empty} {num_loaded} were read; SUBSAMPLE = {settings.subsample} and"
      " ON_RATIONALE_LABEL_CONFLICT = 'drop_example' left none of them."
    )
  return (
    f"{empty} {num_loaded} were read; SUBSAMPLE = {settings.subsample} left"
    " none of them. Give a larger share."
  )


def resize(settings: DataSettings, name: str, size: int) -> DataSettings:
  """Asks for another number of training examples.

  Args:
    settings: what shapes the data.
    name: a registered data set.
    size: how many of its training examples to ask for. Where validation is
      divided from them, or conflicts drop some, fewer train.

  Returns:
    Settings that differ in the data set's own option, else in `subsample`.

  Raises:
    UserError: an unknown name; or there are fewer.
  """
  spec = get_dataset_spec(name)
  if spec.size_option is not None:
    # Generated in order, so that a smaller set is a part of a larger one.
    options = {**getattr(settings, name), spec.size_option: size}
    return dataclasses.replace(settings, **{name: options})
  available = len(
    load_records(name, "train", dataclasses.replace(settings, subsample=1.0))
  )
  if size > available:
    raise UserError(
      f"The sweep asks for {size} training examples; {name} has {available}."
    )
  return dataclasses.replace(settings, subsample=size / available)


def list_source_files(name: str, settings: DataSettings) -> list[pathlib.Path]:
  """Lists the files that decide a data set's records.

  Args:
    name: a registered data set.
    settings: what shapes the data.

  Returns:
    The files; none where the settings alone decide.

  Raises:
    UserError: an unknown name, or files that are not on this machine.
  """
  return get_dataset_spec(name).source_files_fn(settings)


def count_statuses(records: Sequence[Record]) -> dict[str, int]:
  """Counts how reading the teacher's outputs went.

  Args:
    records: any records.

  Returns:
    Status -> number of records, most frequent first; records that no teacher
    answered have none and are not counted.
  """
  statuses = (record.status for record in records)
  return dict(collections.Counter(filter(None, statuses)).most_common())


def count_conflicts(
  records: Sequence[Record],
  metric: LabelMetric,
  label_set: Sequence[str] | None = None,
) -> int:
  """Counts records whose gold label and teacher's label differ.

  Args:
    records: any records; those without either label are no conflict.
    metric: "exact_match" or "equation".
    label_set: all labels there are; None: any text may be one.

  Returns:
    Their number.
  """
  return sum(_is_conflict(record, metric, label_set) for record in records)


def count_teacher(
  records: Sequence[Record],
  metric: LabelMetric,
  label_set: Sequence[str] | None = None,
) -> dict[str, int]:
  """Counts how a teacher did on records.

  Args:
    records: any records.
    metric: "exact_match" or "equation".
    label_set: all labels there are; None: any text may be one.

  Returns:
    The statuses' counts, and `labels_right` and `labels_wrong`: how many of the
    teacher's labels are the gold label, and how many are another one. Under the
    latter the rationale argues for another answer than the gold label.
  """
  num_both = sum(
    record.label is not None and record.teacher_label is not None
    for record in records
  )
  num_wrong = count_conflicts(records, metric, label_set)
  return count_statuses(records) | {
    "labels_right": num_both - num_wrong,
    "labels_wrong": num_wrong,
  }


def _is_conflict(
  record: Record, metric: LabelMetric, label_set: Sequence[str] | None
) -> bool:
  if record.label is None or record.teacher_label is None:
    return False
  # The official rules spell answers exactly: "Istanbul" is not "istanbul", and
  # the authors' figures count it as wrong.
  if record.status == "outside_label_set":
    return True
  return not labels_equal(record.label, record.teacher_label, metric, label_set)


def _settle_conflicts(
  records: list[Record], spec: DatasetSpec, settings: DataSettings
) -> list[Record]:
  action = settings.on_rationale_label_conflict
  if action == "keep":
    return records

  def is_conflict(record: Record) -> bool:
    return _is_conflict(record, spec.metric, spec.label_set)

  if action == "drop_example":
    return [record for record in records if not is_conflict(record)]
  return [
    dataclasses.replace(record, rationale=None)
    if is_conflict(record)
    else record
    for record in records
  ]


# --- The data sets that ship ------------------------------------------------


def _load_official(
  name: str, split: str, settings: DataSettings
) -> list[Record]:
  return official.read_split(
    settings.data_dir, name, split, settings.teacher_parse
  )


def _load_nli(name: str, split: str, settings: DataSettings) -> list[Record]:
  if split != "train" or official.has_rows(settings.data_dir, name, split):
    return _load_official(name, split, settings)
  # The TensorFlow island, entered only where nothing else will do.
  from distill_jax.data.tf import seqio_nli_gold

  outputs = official.read_teacher_outputs(settings.data_dir, name, split)
  rows = seqio_nli_gold.read_gold_rows(name, split)
  records = official.combine(name, split, rows, outputs, settings.teacher_parse)
  seqio_nli_gold.check_pairing(name, split, records)
  return records


def _load_generated(
  name: str,
  make_records: Callable[..., list[Record]],
  split: str,
  settings: DataSettings,
) -> list[Record]:
  options = getattr(settings, name)
  known = list(inspect.signature(make_records).parameters)[1:]
  for option in options:
    if option not in known:
      raise UserError(
        f"{name} has no setting {option!r}, only {', '.join(known)}."
      )
  return make_records(split, **options)


def _register_official(
  name: str,
  load_fn: Callable[[str, str, DataSettings], list[Record]],
  metric: LabelMetric,
  **properties,
) -> None:
  register_dataset(
    DatasetSpec(
      name,
      functools.partial(load_fn, name),
      metric,
      lambda settings: official.source_files(settings.data_dir, name),
      **properties,
    )
  )


def _register_generated(
  name: str,
  make_records: Callable[..., list[Record]],
  metric: LabelMetric,
  **properties,
) -> None:
  register_dataset(
    DatasetSpec(
      name,
      functools.partial(_load_generated, name, make_records),
      metric,
      lambda _: [],
      size_option="num_train_examples",
      **properties,
    )
  )


_register_official("svamp", _load_official, "equation", validation_fraction=0.1)
_register_official(
  "cqa", _load_official, "exact_match", validation_fraction=0.1
)
_register_official(
  "anli1", _load_nli, "exact_match", label_set=official.NLI_LABELS
)
_register_official(
  "esnli", _load_nli, "exact_match", label_set=official.NLI_LABELS
)
_register_official("asdiv", _load_official, "equation", splits=("train",))
_register_generated("word_problems", word_problems.make_records, "equation")
_register_generated(
  "animal_legs",
  animal_legs.make_records,
  "exact_match",
  vocabulary="animal_legs.model",
)
