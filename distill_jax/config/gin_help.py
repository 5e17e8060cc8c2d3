"""Reads what gin files say of their macros: value, type, meaning.

A macro's comment is the block right above it; it may begin with what the macro
takes, in brackets. Imports nothing that the files import, so that help is
there at once.
"""

import dataclasses
import pathlib
import re
import textwrap
from collections.abc import Iterator, Sequence

from distill_jax.errors import UserError

REQUIRED = "%gin.REQUIRED"
_INCLUDE = re.compile(r"include\s+['\"](.+)['\"]")
_MACRO = re.compile(r"([A-Z][A-Z0-9_]*)\s*=\s*(.+)")
_TYPE = re.compile(r"\[([^\]]*)\]\s*")


@dataclasses.dataclass(frozen=True)
class MacroHelp:
  """What a gin file says of a macro.

  Attributes:
    name: of the macro.
    value: gin text.
    takes: which values it takes; "" where the file does not say.
    meaning: what it is for; "" where the file does not say.
    file: that gives the value.
  """

  name: str
  value: str
  takes: str
  meaning: str
  file: str

  @property
  def is_required(self) -> bool:
    return self.value == REQUIRED


def find_file(file: str, search_paths: Sequence[str]) -> pathlib.Path:
  """Returns the path of a gin file.

  Args:
    file: as --gin_file gives it.
    search_paths: folders in which it is sought.

  Raises:
    UserError: it is in none of them.
  """
  for folder in ("", *search_paths):
    path = pathlib.Path(folder, file)
    if path.is_file():
      return path
  raise UserError(
    f"There is no gin file {file} in {', '.join(dict.fromkeys(search_paths))}."
  )


def read_macros(
  files: Sequence[str], search_paths: Sequence[str]
) -> dict[str, MacroHelp]:
  """Reads the macros of gin files and of those that they include.

  Args:
    files: in order; a later one's value replaces an earlier one's.
    search_paths: folders in which they are sought.

  Returns:
    The macros by name, in the order of the files. Where only an earlier file
    says what a macro takes or means, that is kept.

  Raises:
    UserError: a file is in none of the folders.
  """
  found = (each for file in files for each in _read_file(file, search_paths))
  return _merge(found)


def parse_macros(
  text: str, file: str, search_paths: Sequence[str]
) -> dict[str, MacroHelp]:
  """Reads the macros of a gin file's text; see `read_macros`.

  Args:
    text: of the file.
    file: its name.
    search_paths: folders in which the files it includes are sought.
  """
  return _merge(_parse(text, file, search_paths))


def _merge(found: Iterator[MacroHelp]) -> dict[str, MacroHelp]:
  macros: dict[str, MacroHelp] = {}
  for each in found:
    before = macros.get(each.name)
    if before is not None:
      each = dataclasses.replace(
        each,
        takes=each.takes or before.takes,
        meaning=each.meaning or before.meaning,
      )
    macros[each.name] = each
  return macros


def list_includes(text: str) -> list[str]:
  """Returns the files that the text of a gin file includes."""
  return [
    match[1] for line in text.splitlines() if (match := _INCLUDE.match(line))
  ]


def format_macros(macros: dict[str, MacroHelp]) -> str:
  """Writes macros as text for a screen, those that must be given first.

  Args:
    macros: by name.
  """
  required = [each for each in macros.values() if each.is_required]
  others = [each for each in macros.values() if not each.is_required]
  parts = []
  for title, found in (("Required:", required), ("Others:", others)):
    if found:
      parts.append("\n".join([title, *map(_format_macro, found)]))
  return "\n\n".join(parts)


def _format_macro(macro: MacroHelp) -> str:
  value = "" if macro.is_required else f" = {macro.value}"
  about = ". ".join(
    part[:1].upper() + part[1:] for part in (macro.takes, macro.meaning) if part
  )
  lines = [f"  {macro.name}{value}"]
  lines += textwrap.wrap(
    about,
    width=80,
    initial_indent="      ",
    subsequent_indent="      ",
    break_on_hyphens=False,
  )
  return "\n".join(lines)


def _read_file(file: str, search_paths: Sequence[str]) -> Iterator[MacroHelp]:
  text = find_file(file, search_paths).read_text(encoding="utf-8")
  yield from _parse(text, file, search_paths)


def _parse(
  text: str, file: str, search_paths: Sequence[str]
) -> Iterator[MacroHelp]:
  comment: list[str] = []
  for line in text.splitlines():
    if line.startswith("#"):
      comment.append(line[1:].strip())
      continue
    if match := _INCLUDE.match(line):
      yield from _read_file(match[1], search_paths)
    if match := _MACRO.match(line):
      about = " ".join(comment)
      takes = _TYPE.match(about)
      yield MacroHelp(
        match[1],
        match[2],
        takes[1] if takes else "",
        about[takes.end() :] if takes else about,
        file,
      )
    comment = []
