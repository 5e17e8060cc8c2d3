"""The record: one example with its teacher's answer, and its JSONL file.

Every producer of data (official files, generated problems, the label stage)
makes records and every consumer reads them; which data set a record belongs to
is unknown here.
"""

import dataclasses
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from distill_jax.errors import UserError
from distill_jax.files import atomic

# How reading a teacher's output went. The first is success; the others say
# why label or rationale is missing or not to be trusted.
STATUSES = (
  "ok",
  "truncated",
  "no_marker",
  "ambiguous",
  "outside_label_set",
  "not_evaluable",
  "empty_rationale",
)
# Far beyond any use, and far within float32.
MIN_WEIGHT, MAX_WEIGHT = 1e-6, 1e6


@dataclasses.dataclass(frozen=True)
class Record:
  """One example. What is unknown is None.

  Example:
    >>> import distill_jax as dj
    >>> dj.Record("1", "Is the sky green?", "no", "The sky is blue.").label
    'no'

  Attributes:
    id: unique within a file and the same on every run.
    input: the text the student reads, without any task prefix.
    label: the gold answer.
    rationale: the teacher's reasoning.
    teacher_label: the teacher's answer.
    teacher: who wrote the two.
    status: how reading the teacher's output went, one of `STATUSES`.
    weight: how much its tokens count in the training loss, from `MIN_WEIGHT` to
      `MAX_WEIGHT`; 2 is as good as the record twice in a batch. Evaluation does
      not look at it.
    meta: anything JSON can hold that the data set's own code wants to keep.
  """

  id: str
  input: str
  label: str | None = None
  rationale: str | None = None
  teacher_label: str | None = None
  teacher: str | None = None
  status: str | None = None
  weight: float = 1.0
  meta: Mapping[str, Any] = dataclasses.field(default_factory=dict)


_FIELDS = tuple(field.name for field in dataclasses.fields(Record))
_REQUIRED_FIELDS = ("id", "input")


def read_json_lines(
  path: str | os.PathLike,
) -> Iterator[tuple[str, dict[str, Any]]]:
  """Yields the JSON objects of a file that has one on each line.

  Args:
    path: a UTF-8 file; blank lines are skipped.

  Yields:
    The place, `file:line`, for use in messages, and the object.

  Raises:
    UserError: the file cannot be read, is not UTF-8, or a line is not a JSON
      object. Names file and line.
  """
  try:
    # Bytes, because text mode would also end lines at a lone carriage return
    # and could not say which line holds a broken character.
    with open(path, "rb") as file:
      yield from parse_json_lines(file, path)
  except OSError as error:
    raise UserError(f"{path} cannot be read: {error.strerror}.") from error


def parse_json_lines(
  file: Iterable[bytes], path: str | os.PathLike
) -> Iterator[tuple[str, dict[str, Any]]]:
  """Yields the JSON objects of lines; see `read_json_lines`.

  Args:
    file: the lines, as bytes.
    path: theirs, for messages.

  Yields:
    Place and object.

  Raises:
    UserError: as `read_json_lines`.
  """
  for number, text in enumerate(decode_lines(file, path), start=1):
    if text.strip():
      where = f"{path}:{number}"
      yield where, _parse_object(text, where)


def decode_lines(
  file: Iterable[bytes], path: str | os.PathLike
) -> Iterator[str]:
  """Yields lines as text, with their ends.

  Args:
    file: the lines, as bytes.
    path: theirs, for messages.

  Yields:
    Each line.

  Raises:
    UserError: one is not UTF-8. Names it.
  """
  for number, line in enumerate(file, start=1):
    try:
      # Some editors put a byte order mark before the first line.
      yield line.decode("utf-8-sig" if number == 1 else "utf-8")
    except UnicodeDecodeError as error:
      raise UserError(
        f"{path}:{number}: not UTF-8 at byte {error.start} of the line. Convert"
        " the file to UTF-8."
      ) from error


def parse_record(line: str, where: str) -> Record:
  """Reads one line of a records file.

  Args:
    line: a JSON object.
    where: the line's place, `file:line`, for messages.

  Returns:
    The record.

  Raises:
    UserError: bad JSON, a missing or unknown field, a value of the wrong type,
      an unknown status or a weight out of range. Names `where` and the field.
  """
  return make_record(_parse_object(line, where), where)


def read_records(path: str | os.PathLike) -> Iterator[Record]:
  """Yields the records of a JSONL file, each line checked.

  Args:
    path: a UTF-8 file with one JSON object on each line; blank lines are
      skipped.

  Yields:
    The records in the file's order.

  Raises:
    UserError: as `parse_record`, or the file cannot be read, or two records
      share an id.
  """
  places: dict[str, str] = {}
  for where, fields in read_json_lines(path):
    record = make_record(fields, where)
    if record.id in places:
      raise UserError(
        f"{where}:id: {record.id!r} is already the id of"
        f" {places[record.id]}. Ids must be unique in a file."
      )
    places[record.id] = where
    yield record


def write_records(path: str | os.PathLike, records: Iterable[Record]) -> None:
  """Writes a JSONL file that appears whole or not at all.

  Args:
    path: where to; an existing file is replaced, a missing folder is not made.
    records: what to write, one a line.
  """
  with (
    atomic.writing(path) as unfinished,
    open(unfinished, "w", encoding="utf-8", newline="\n") as file,
  ):
    for record in records:
      # vars, not asdict, which would copy every meta deeply.
      file.write(json.dumps(vars(record), ensure_ascii=False) + "\n")


def _parse_object(line: str, where: str) -> dict[str, Any]:
  try:
    value = json.loads(line)
  # RecursionError: brackets nested by the thousand.
  except (ValueError, RecursionError) as error:
    raise UserError(f"{where}: not JSON ({error}).") from error
  if not isinstance(value, dict):
    raise UserError(
      f"{where}: a JSON {type(value).__name__}; each line must be an object,"
      ' {"id": ..., "input": ...}.'
    )
  return value


def is_weight(value: Any) -> bool:
  """Tells whether a value, of whatever type, can be a record's weight."""
  is_number = isinstance(value, int | float) and not isinstance(value, bool)
  return is_number and MIN_WEIGHT <= value <= MAX_WEIGHT


def make_record(fields: dict[str, Any], where: str) -> Record:
  """Makes a record of its fields.

  Args:
    fields: by name.
    where: their place, for messages.

  Raises:
    UserError: as `parse_record`.
  """
  for name in _REQUIRED_FIELDS:
    if name not in fields:
      raise UserError(f"{where}:{name}: missing; every record must have it.")
  for name, value in fields.items():
    if name not in _FIELDS:
      raise UserError(
        f"{where}:{name}: unknown field; a record has {', '.join(_FIELDS)}."
        " What else is to be kept goes into meta."
      )
    _check_value(name, value, where)
  return Record(**fields)


def _check_value(name: str, value: Any, where: str) -> None:
  if name == "meta":
    if not isinstance(value, dict):
      raise UserError(f"{where}:meta: {value!r} is not an object.")
    _check_characters(json.dumps(value, ensure_ascii=False), name, where)
    return
  if name == "weight":
    if not is_weight(value):
      raise UserError(
        f"{where}:weight: {value!r:.40} is not a number from {MIN_WEIGHT:g} to"
        f" {MAX_WEIGHT:g}. Leave out a record that is not to count."
      )
    return
  if value is None and name not in _REQUIRED_FIELDS:
    return
  if not isinstance(value, str):
    wanted = "text" if name in _REQUIRED_FIELDS else "text or null"
    raise UserError(f"{where}:{name}: {value!r} is not {wanted}.")
  _check_characters(value, name, where)
  if name == "status" and value not in STATUSES:
    raise UserError(
      f"{where}:status: {value!r} is none of {', '.join(STATUSES)}, null."
    )


def _check_characters(text: str, name: str, where: str) -> None:
  try:
    text.encode("utf-8")
  except UnicodeEncodeError as error:
    # JSON's \u escapes can spell half a character, which no tokenizer and no
    # file takes.
    raise UserError(
      f"{where}:{name}: half a surrogate pair at character {error.start}."
    ) from error
