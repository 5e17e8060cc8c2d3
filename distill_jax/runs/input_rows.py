"""The inputs of `infer`: JSONL or plain text, bad lines refused or counted.

Knows no model: what else makes a line bad, the caller finds out with `sift`.
"""

import json
import logging
import pathlib
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple, TypeVar

from distill_jax.errors import UserError

_log = logging.getLogger(__name__)

STANDARD_STREAM = "-"
_BEGINS_ARRAY = re.compile(r"\s*\[\s*(\{|$)")
_MAX_SHOWN = 5

_Item = TypeVar("_Item")
_Read = TypeVar("_Read")


class Row(NamedTuple):
  """One input: where it stands, for messages, and its fields."""

  where: str
  fields: dict[str, Any]


def read_rows(
  path: str,
  needed: Sequence[str],
  added: Sequence[str],
  skips_bad_lines: bool = False,
) -> tuple[list[Row], list[str]]:
  """Reads JSONL or text; which one, the first line that is not blank tells.

  Where bad lines are skipped, one JSON object with the first needed field
  makes the file JSONL.

  Args:
    path: of the file; "-" is standard input.
    needed: fields of text that each line must have; a text has "input" alone.
    added: fields that will be added, which no line may have.
    skips_bad_lines: whether to leave bad lines out.

  Returns:
    The inputs, none of an empty file, and what is wrong with each line that was
    left out; blank lines are none.

  Raises:
    UserError: the file cannot be read, is a JSON array, or begins as text and
      goes on as JSONL; the first bad line, or with `skips_bad_lines` there are
      no others.
  """
  numbered, problems = sift(
    lambda line: _decode_line(path, *line), _read_lines(path), skips_bad_lines
  )
  numbered = [(number, line) for number, line in numbered if line.strip()]
  first_object = next(
    (number for number, line in numbered if _is_row(line, needed[0])), None
  )
  is_jsonl = bool(numbered) and numbered[0][1].lstrip().startswith("{")
  if not is_jsonl and first_object is not None and not skips_bad_lines:
    raise UserError(
      f"INPUT_PATH {path}:{first_object} is a JSON object with"
      f" {needed[0]!r}, and line {numbered[0][0]} is none, so the file is"
      " neither JSONL nor text. Mend that line, or add"
      " --gin.SKIP_BAD_LINES=True."
    )
  if numbered and _BEGINS_ARRAY.match(numbered[0][1]):
    raise UserError(
      f"INPUT_PATH {path} is a JSON array. Give one object a line, such as"
      " `jq -c '.[]'` makes of it."
    )
  if is_jsonl or first_object is not None:
    rows, unread = sift(
      lambda line: _read_json(f"{path}:{line[0]}", line[1], needed, added),
      numbered,
      skips_bad_lines,
    )
    problems += unread
  elif numbered and list(needed) != ["input"]:
    raise UserError(
      f"INPUT_PATH {path} is plain text. Give JSONL with the fields"
      f" {' and '.join(map(repr, needed))}."
    )
  else:
    rows = [
      Row(f"{path}:{number}", {"input": line}) for number, line in numbered
    ]
  report_skipped(path, rows, problems)
  return rows, problems


def _is_row(line: str, field: str) -> bool:
  if not line.lstrip().startswith("{"):
    return False
  try:
    fields = json.loads(line)
  except (ValueError, RecursionError):
    return False
  return isinstance(fields, dict) and field in fields


def sift(
  read_fn: Callable[[_Item], _Read],
  items: Iterable[_Item],
  skips_bad_lines: bool,
) -> tuple[list[_Read], list[str]]:
  """Returns what `read_fn` makes of each item, and the messages of the rest.

  Args:
    read_fn: raises `UserError` for a bad item.
    items: to read.
    skips_bad_lines: whether to go on after a bad one.

  Raises:
    UserError: the first one, unless bad lines are to be skipped.
  """
  kept, problems = [], []
  for item in items:
    try:
      kept.append(read_fn(item))
    except UserError as error:
      if not skips_bad_lines:
        raise
      problems.append(str(error))
  return kept, problems


def report_skipped(
  path: str, rows: Sequence[Row], problems: Sequence[str]
) -> None:
  """Names the first lines that are left out; refuses where none is left.

  Args:
    path: of the file.
    rows: what is left.
    problems: a message for each line that is not.

  Raises:
    UserError: there are only bad lines.
  """
  if not problems:
    return
  if not rows:
    raise UserError(
      f"INPUT_PATH {path} has nothing but bad lines, {len(problems)} of them."
      f" The first: {problems[0]}"
    )
  shown = [*problems[:_MAX_SHOWN]]
  if len(problems) > _MAX_SHOWN:
    shown.append(f"and {len(problems) - _MAX_SHOWN} more")
  _log.warning(
    "%d bad lines are skipped:\n  %s", len(problems), "\n  ".join(shown)
  )


def _read_json(
  where: str, line: str, needed: Sequence[str], added: Sequence[str]
) -> Row:
  try:
    fields = json.loads(line)
    # JSON's \u escapes can spell half a character, which cannot be written.
    json.dumps(fields, ensure_ascii=False).encode("utf-8")
  # RecursionError: brackets nested by the thousand.
  except (ValueError, RecursionError) as error:
    raise UserError(f"{where}: not a JSON object: {error}") from error
  for name in needed:
    if not isinstance(fields, dict) or not isinstance(fields.get(name), str):
      raise UserError(f"{where}: the field '{name}' is missing, or no text.")
  for name in added:
    if name in fields:
      raise UserError(
        f"{where}: there is a field '{name}' already, which what is found"
        " would replace. Rename it."
      )
  return Row(where, fields)


def _decode_line(path: str, number: int, line: bytes) -> tuple[int, str]:
  try:
    return number, line.decode("utf-8-sig" if number == 1 else "utf-8")
  except UnicodeDecodeError as error:
    raise UserError(
      f"INPUT_PATH {path}:{number} is not UTF-8: {error}"
    ) from error


def _read_lines(path: str) -> Iterator[tuple[int, bytes]]:
  """Yields the lines with their numbers."""
  if path == STANDARD_STREAM:
    content = sys.stdin.buffer.read()
  else:
    try:
      content = pathlib.Path(path).expanduser().read_bytes()
    except OSError as error:
      raise UserError(f"INPUT_PATH cannot be read: {error}") from error
  for number, line in enumerate(content.split(b"\n"), start=1):
    yield number, line.rstrip(b"\r")
