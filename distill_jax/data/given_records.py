"""Records that a program hands in, as a data set without files."""

import dataclasses
import hashlib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from distill_jax.answers.equality import LabelMetric
from distill_jax.data import datasets
from distill_jax.data.records import Record, make_record
from distill_jax.data.settings import DataSettings
from distill_jax.errors import UserError

# Of the training records, where no others were given to validate on.
VALIDATION_FRACTION = 0.1
_NAME_DIGITS = 12
_NEVER_NONE = {"weight", "meta"}


def make_dataset(
  data: Any,
  metric: LabelMetric = "exact_match",
  label_set: Sequence[str] | None = None,
) -> datasets.DatasetSpec:
  """Makes a data set of records; its name says which records they are.

  Args:
    data: records, or a mapping of "train", "validation" and "test" to records.
      Records are a list of `Record` or of mappings with a record's fields, or
      what has `to_dict("records")`, as a pandas DataFrame does. An `id` that is
      not given is the record's place. Without "validation" a tenth of the
      training records validates.
    metric: "exact_match" or "equation".
    label_set: all labels there are; None: any text may be one.

  Returns:
    The data set, not registered yet. Of equal records it has the same name.

  Raises:
    UserError: there are none to train on, one cannot be read, or an id is twice
      in a split.
  """
  splits = data if isinstance(data, Mapping) else {"train": data}
  if unknown := [split for split in splits if split not in datasets.SPLITS]:
    raise UserError(
      f"data has {', '.join(map(repr, unknown))}; its splits are"
      f" {', '.join(map(repr, datasets.SPLITS))}."
    )
  records = {
    split: read_records(rows, f"data[{split!r}]")
    for split, rows in splits.items()
  }
  if not records.get("train"):
    raise UserError("data has no records to train on.")
  labels = None if label_set is None else tuple(label_set)
  content = hashlib.sha256(json.dumps([metric, labels]).encode())
  for split in datasets.SPLITS:
    content.update(f"\n{split}\n".encode())
    for record in records.get(split, ()):
      content.update(json.dumps(vars(record), sort_keys=True).encode())
  has_validation = "validation" in records

  def load(split: str, _: DataSettings) -> list[Record]:
    return list(records[split])

  return datasets.DatasetSpec(
    f"records_{content.hexdigest()[:_NAME_DIGITS]}",
    load,
    metric,
    lambda _: [],
    labels,
    tuple(
      split
      for split in datasets.SPLITS
      if split in records or split == "validation"
    ),
    validation_fraction=None if has_validation else VALIDATION_FRACTION,
  )


def register(spec: datasets.DatasetSpec) -> None:
  """Makes a data set of `make_dataset` known; an equal one is no harm.

  Args:
    spec: the data set.
  """
  # The name holds what the records are: another object is the same data set.
  if spec.name not in datasets.names():
    datasets.register_dataset(spec)


def read_records(rows: Any, where: str) -> list[Record]:
  """Makes records of Python objects.

  Args:
    rows: see `make_dataset`.
    where: their place, for messages.

  Raises:
    UserError: as `make_dataset`.
  """
  if hasattr(rows, "to_dict"):
    rows = rows.to_dict("records")
  if isinstance(rows, str | bytes | Mapping) or not isinstance(rows, Iterable):
    raise UserError(
      f"{where} is {rows!r:.60}; it must be a list of records, of mappings with"
      " 'input' and 'label', or a DataFrame."
    )
  records: dict[str, Record] = {}
  for index, row in enumerate(rows):
    place = f"{where}[{index}]"
    if isinstance(row, Record):
      fields = {
        field.name: getattr(row, field.name)
        for field in dataclasses.fields(Record)
      }
    elif isinstance(row, Mapping):
      fields = {name: _to_plain(value) for name, value in row.items()}
      # A table has a cell for every row.
      for name in _NEVER_NONE & fields.keys():
        if fields[name] is None:
          del fields[name]
    else:
      raise UserError(
        f"{place} is {row!r:.60}; it must be a Record or a mapping with 'input'"
        " and 'label'."
      )
    fields["id"] = str(index if fields.get("id") is None else fields["id"])
    try:
      record = make_record(fields, place)
    except TypeError as error:
      raise UserError(f"{place}:meta: {error}.") from error
    if record.id in records:
      raise UserError(
        f"{place}:id: {record.id!r} is already the id of another record. Ids"
        " must be unique in a split."
      )
    records[record.id] = record
  return list(records.values())


def _to_plain(value: Any) -> Any:
  """Returns a cell of a table as a record has it; what is missing is None."""
  if isinstance(value, np.generic):
    value = value.item()
  is_missing = isinstance(value, float) and math.isnan(value)
  # pandas has further words for it, none equal to itself.
  if is_missing or type(value).__name__ in ("NAType", "NaTType"):
    return None
  return value
