"""Questions as they come: JSON lines, a JSON array, CSV or Parquet, gzip too.

Owns what is a question: numeric ids and labels become text, columns that a
record does not have go into `meta`, and an empty input is refused before anyone
pays for it. Parquet needs `pyarrow`, imported where such a file is read.

The format is told by content, CSV and TSV, which have no mark, by name. A JSON
array is read whole; of everything else one row is in memory at a time.
"""

import contextlib
import csv
import dataclasses
import datetime
import decimal
import gzip
import hashlib
import io
import json
import os
import unicodedata
import zlib
from collections.abc import Iterator, Mapping
from typing import Any, BinaryIO

from distill_jax.data import records
from distill_jax.data.records import Record
from distill_jax.errors import UserError
from distill_jax.teacher.filtering import voting
from distill_jax.teacher.reading import nesting

_GZIP_MAGIC, _PARQUET_MAGIC = b"\x1f\x8b", b"PAR1"
_DELIMITERS = {".csv": ",", ".tsv": "\t"}
_FIELDS = {field.name for field in dataclasses.fields(Record)}
_MAX_FIELD_CHARACTERS = 2**24
_MAX_NAMED = 10
_HASH_BYTES = 2**20

Row = tuple[str, Mapping[str, Any]]


def read_questions(
  path: str | os.PathLike, name: str | None = None
) -> Iterator[Record]:
  """Yields the questions of a file, each checked.

  Args:
    path: JSON objects on lines or in an array, CSV or TSV with a header, or
      Parquet; any of them packed by gzip. A row has `id`, `input` and whatever
      else a record has; other columns go into `meta`.
    name: what the file is called, where `path` is a copy.

  Yields:
    Records in the file's order.

  Raises:
    UserError: the file cannot be read; a row is no question, or its id stands
      twice; or, once all were read, inputs that are empty. Names the rows.
  """
  places: dict[str, str] = {}
  empty: list[str] = []
  num_empty = 0
  for where, fields in _read_rows(path, name or str(path)):
    record = _make_question(fields, where)
    if record.id in places:
      raise UserError(
        f"{where}:id: {record.id!r} is already the id of"
        f" {places[record.id]}. Ids must be unique in a file."
      )
    places[record.id] = where
    if is_empty(record.input):
      num_empty += 1
      if len(empty) < _MAX_NAMED:
        empty.append(where)
      continue
    yield record
  if num_empty:
    more = f" and {num_empty - len(empty)} more" * (num_empty > len(empty))
    raise UserError(
      f"{num_empty} questions have an empty input: {', '.join(empty)}{more}."
      " Each would be paid for. Fill them in or take them out."
    )


def is_empty(text: str) -> bool:
  """Tells whether a text has nothing that can be seen."""
  return all(
    character.isspace() or unicodedata.category(character) in ("Cc", "Cf")
    for character in text
  )


def compute_digest(path: str | os.PathLike) -> str:
  """Returns the SHA-256 of a file's content, gzip unpacked.

  Raises:
    UserError: the file cannot be read.
  """
  digest = hashlib.sha256()
  with _opening(path) as file:
    while block := file.read(_HASH_BYTES):
      digest.update(block)
  return digest.hexdigest()


# --- Rows of each format ----------------------------------------------------


def _read_rows(path: str | os.PathLike, name: str) -> Iterator[Row]:
  suffix = name.lower().removesuffix(".gz")
  with _opening(path) as file:
    head = file.peek(4)[:4]
    if head == _PARQUET_MAGIC:
      yield from _read_parquet(file, path)
      return
    for ending, delimiter in _DELIMITERS.items():
      if suffix.endswith(ending):
        yield from _read_csv(file, path, delimiter)
        return
    start = _skip_blanks(file)
    if start == b"[":
      yield from _read_array(file, path)
      return
  yield from _read_lines(path)


@contextlib.contextmanager
def _opening(path: str | os.PathLike) -> Iterator[io.BufferedReader]:
  """Yields the content, gzip unpacked; names what cannot be read."""
  try:
    with open(path, "rb") as file:
      is_packed = file.peek(2)[:2] == _GZIP_MAGIC
      if not is_packed:
        yield file
        return
      with gzip.open(file) as unpacked:
        reader: Any = unpacked
        yield io.BufferedReader(reader)
  except (gzip.BadGzipFile, EOFError, zlib.error) as error:
    raise UserError(
      f"{path} is no whole gzip file ({error}). Copy or pack it again."
    ) from error
  except OSError as error:
    raise UserError(
      f"{path} cannot be read: {error.strerror or error}."
    ) from error


def _skip_blanks(file: io.BufferedReader) -> bytes:
  """Returns the first byte that is no blank, which stays to be read."""
  if file.peek(3)[:3] == b"\xef\xbb\xbf":
    file.read(3)
  while (first := file.peek(1)[:1]) and first.isspace():
    file.read(1)
  return first


def _read_lines(path: str | os.PathLike) -> Iterator[Row]:
  with _opening(path) as file:
    yield from records.parse_json_lines(file, path)


def _read_array(file: BinaryIO, path: str | os.PathLike) -> Iterator[Row]:
  try:
    rows = json.loads(file.read().decode("utf-8"))
  except (ValueError, RecursionError) as error:
    raise UserError(f"{path}: not JSON ({error}).") from error
  for number, row in enumerate(rows, start=1):
    where = f"{path}:item {number}"
    if not isinstance(row, dict):
      raise UserError(
        f"{where}: a JSON {type(row).__name__}; each item must be an object,"
        ' {"id": ..., "input": ...}.'
      )
    yield where, row


def _read_csv(
  file: BinaryIO, path: str | os.PathLike, delimiter: str
) -> Iterator[Row]:
  csv.field_size_limit(_MAX_FIELD_CHARACTERS)
  reader = csv.reader(
    records.decode_lines(file, path), delimiter=delimiter, strict=True
  )
  line = 1
  try:
    header = next(reader, [])
    if len(set(header)) < len(header) or not all(header):
      raise UserError(
        f"{path}:1: the header is {header}; each column needs a name of its"
        " own."
      )
    line = reader.line_num + 1
    for row in reader:
      where = f"{path}:{line}"
      line = reader.line_num + 1
      if not row:
        continue
      if len(row) != len(header):
        raise UserError(
          f"{where}: {len(row)} cells, and the header has {len(header)}. Put"
          " quotes around text that holds a delimiter."
        )
      yield where, _read_cells(dict(zip(header, row, strict=True)), where)
  except csv.Error as error:
    raise UserError(f"{path}:{line}: cannot be read ({error}).") from error


def _read_cells(row: Mapping[str, str], where: str) -> dict[str, Any]:
  """Returns a row of texts as JSON would have it; an empty cell is none."""
  fields: dict[str, Any] = {}
  for name, cell in row.items():
    if name in ("id", "input"):
      fields[name] = cell
    elif cell:
      fields[name] = cell
      if name in ("meta", "weight"):
        try:
          fields[name] = json.loads(cell)
        except (ValueError, RecursionError) as error:
          raise UserError(f"{where}:{name}: not JSON ({error}).") from error
  return fields


def _read_parquet(file: BinaryIO, path: str | os.PathLike) -> Iterator[Row]:
  try:
    import pyarrow
    from pyarrow import parquet
  except ImportError as error:
    raise UserError(
      f"{path} is Parquet, which needs pyarrow ({error}): pip install"
      " 'distill_jax[parquet]', or give JSON lines."
    ) from error
  # Parquet is read from its end, which a packed stream cannot do.
  source = file if isinstance(file, io.FileIO) else io.BytesIO(file.read())
  number = 0
  try:
    for batch in parquet.ParquetFile(source).iter_batches(batch_size=1000):
      for row in batch.to_pylist():
        number += 1
        # A null is a value that is not there.
        known = {k: v for k, v in row.items() if v is not None}
        yield f"{path}:row {number}", known
  except (pyarrow.ArrowException, OSError) as error:
    raise UserError(f"{path}: no whole Parquet file ({error}).") from error


# --- A question of a row ----------------------------------------------------


def _make_question(row: Mapping[str, Any], where: str) -> Record:
  fields: dict[str, Any] = {}
  extra: dict[str, Any] = {}
  for name, value in row.items():
    if nesting.is_too_deep(value):
      raise UserError(
        f"{where}:{name}: more than {nesting.MAX_DEPTH} lists or objects stand"
        " in each other. Flatten it or leave it out."
      )
    if value is None and name in ("meta", "weight"):
      continue
    if name in ("id", "label"):
      value = _write_number(value)
    if name in _FIELDS:
      fields[name] = value
    elif name in voting.META_FIELDS:
      raise UserError(
        f"{where}:{name}: a column of this name would be replaced by what"
        " labelling writes into meta. Rename it."
      )
    else:
      extra[name] = _make_plain(value, f"{where}:{name}")
  if extra:
    meta = fields.get("meta", {})
    if not isinstance(meta, dict):
      raise UserError(f"{where}:meta: {meta!r} is not an object.")
    if twice := sorted(set(meta) & set(extra)):
      raise UserError(
        f"{where}:{twice[0]}: a column, and in meta as well. Leave one out."
      )
    fields["meta"] = meta | extra
  return records.make_record(fields, where)


def _write_number(value: Any) -> Any:
  """Returns a number as text, without an exponent; else what it was."""
  if isinstance(value, bool) or not isinstance(
    value, int | float | decimal.Decimal
  ):
    return value
  # Arithmetic of answers knows no exponents.
  exact = decimal.Decimal(str(value))
  return format(exact, "f") if exact.is_finite() else str(value)


def _make_plain(value: Any, where: str) -> Any:
  """Returns a value as JSON has it; a date is its text."""
  if isinstance(value, dict):
    return {str(k): _make_plain(v, where) for k, v in value.items()}
  if isinstance(value, list | tuple):
    return [_make_plain(item, where) for item in value]
  if isinstance(value, datetime.date | datetime.time | decimal.Decimal):
    return str(value)
  if isinstance(value, float) and not -1e308 <= value <= 1e308:
    return None  # JSON has neither NaN nor infinity.
  if value is None or isinstance(value, str | int | float):
    return value
  raise UserError(
    f"{where}: {type(value).__name__} cannot be kept in meta, which holds JSON."
    " Leave the column out."
  )
