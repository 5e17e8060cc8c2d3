"""Writes what settings classes declare: gin/runs/*.gin and docs/settings.md.

  .venv/bin/python scripts/write_gin_files.py

A gin file keeps what is written by hand. These passages are replaced, each up
to the next "# end":

  # begin: list of macros
  # begin: macros of MODULE.CLASS [only FIELD ... | without FIELD ...]
  # begin: bindings of MODULE.CLASS [only ... | without ...]

A macro that the file has already, itself or by a file it includes, is not
written again; its value must be the same.
"""

import dataclasses
import importlib
import pathlib
import re
import textwrap
from collections.abc import Iterator

from distill_jax.config import declaration, gin_help
from distill_jax.runs import mode as mode_lib

ROOT = pathlib.Path(__file__).parents[1]
GIN_FOLDER = ROOT / "gin" / "runs"
DOCS = ROOT / "docs" / "settings.md"
_WIDTH = 80
_BEGIN = re.compile(
  r"# begin: (?P<what>list of macros|macros of|bindings of)"
  r"(?: (?P<owner>[\w.]+))?(?: (?P<how>only|without) (?P<fields>[\w ]+))?"
)
_END = "# end"
_LIST = "# begin: list of macros"
# Common ones that no settings class declares.
_COMMON = ("LEARNING_RATE", "RATIONALE_LOSS_WEIGHT")
# Gin files of a mode besides the one of its name.
_VARIANTS = {"train": ("train_adamw",), "precompile": ("precompile_adamw",)}
_DATA = "gin/runs/data.gin"


class WrongDefault(Exception):
  """Two declarations give one macro different values in one gin file."""


def write_gin_text(text: str) -> str:
  """Returns the text of a gin file with its passages replaced.

  Args:
    text: of the file.

  Raises:
    WrongDefault: see there.
  """
  lines: list[str] = []
  known: dict[str, str] = {}
  passage = None
  for line in text.splitlines():
    if passage is not None:
      if line != _END:
        continue
      lines += _write_passage(passage, known)
      passage = None
    lines.append(line)
    passage = _BEGIN.fullmatch(line)
    _note(line, known)
  if passage is not None:
    raise ValueError(f"There is no {_END!r} behind {lines[-1]!r}.")
  return _write_list("\n".join(lines) + "\n")


def _note(line: str, known: dict[str, str]) -> None:
  """Adds the macros that a line gives."""
  for file in gin_help.list_includes(line):
    for macro in gin_help.read_macros([file], [str(ROOT)]).values():
      known[macro.name] = macro.value
  if match := re.match(r"([A-Z][A-Z0-9_]*)\s*=\s*(.+)", line):
    known[match[1]] = match[2]


def _write_passage(passage: re.Match, known: dict[str, str]) -> list[str]:
  if passage["what"] == "list of macros":
    return []  # Comes last, when all macros are known.
  module, _, name = passage["owner"].rpartition(".")
  owner = getattr(importlib.import_module(module), name)
  chosen = (passage["fields"] or "").split()
  found = {
    field: declared
    for field, declared in declaration.read(owner).items()
    if not chosen or (field in chosen) == (passage["how"] == "only")
  }
  if passage["what"] == "macros of":
    return list(_write_macros(owner, found, known))
  lines = [f"{module.rpartition('.')[2]}.{name}:"]
  for field, declared in found.items():
    bound = f"%{declared.macro}" if declared.macro else declared.gin_text
    if bound is not None:
      lines.append(f"  {field} = {bound}")
  return lines


def _write_macros(owner, found, known) -> Iterator[str]:
  yield ""
  defaults = {each.name: each for each in dataclasses.fields(owner)}
  for field, declared in found.items():
    if declared.macro is None:
      continue
    value = _find_value(defaults[field], declared)
    if declared.macro in known:
      if known[declared.macro] != value:
        raise WrongDefault(
          f"{owner.__name__}.{field}: {declared.macro} is {value}, and"
          f" {known[declared.macro]} in the file."
        )
      continue
    known[declared.macro] = value
    takes = declaration.describe(owner, field)
    yield from textwrap.wrap(
      f"[{takes}] {declared.help}",
      _WIDTH,
      initial_indent="# ",
      subsequent_indent="# ",
      break_on_hyphens=False,
      break_long_words=False,
    )
    yield f"{declared.macro} = {value}"


def _find_value(field: dataclasses.Field, declared) -> str:
  if declared.gin_text is not None:
    return declared.gin_text
  if field.default is not dataclasses.MISSING:
    return repr(field.default)
  if field.default_factory is not dataclasses.MISSING:
    return repr(field.default_factory())
  return declaration.REQUIRED


def _write_list(text: str) -> str:
  """Replaces the header's list of macros, if there is one."""
  if _LIST not in text:
    return text
  before, rest = text.split(f"{_LIST}\n", 1)
  after = rest[rest.index(f"{_END}\n") :]
  macros, referred = _collect(text)
  required = [n for n, each in macros.items() if each.is_required]
  named = _find_common(text) - {*required}
  common = [name for name in macros if name in named]
  elsewhere = {
    name
    for file in referred
    for name in gin_help.read_macros([file], [str(ROOT)])
  }
  rare = [n for n in macros if n not in {*required, *common, *elsewhere}]
  parts = [("REQUIRED", required), ("COMMON", common), ("RARE", rare)]
  lines = [
    line
    for title, names in parts
    if names
    for line in textwrap.wrap(
      f"{title}: {', '.join(names)}.",
      _WIDTH,
      initial_indent="# ",
      subsequent_indent="#   ",
    )
  ]
  if referred:
    lines.append(f"# Those of {' and '.join(referred)} too.")
  return before + "\n".join([_LIST, *lines, ""]) + after


def _collect(text: str) -> tuple[dict[str, gin_help.MacroHelp], list[str]]:
  """Returns a file's macros, and those it includes that list their own."""
  referred = []
  waiting = gin_help.list_includes(text)
  while waiting:
    file = waiting.pop(0)
    included = (ROOT / file).read_text(encoding="utf-8")
    if _LIST in included:
      referred.append(file)
    else:
      waiting += gin_help.list_includes(included)
  return gin_help.parse_macros(text, "", [str(ROOT)]), referred


def _find_common(text: str) -> set[str]:
  """Returns the macros that a class of a file or of those it includes names."""
  common = set(_COMMON)
  for match in re.finditer(r"# begin: macros of ([\w.]+)", text):
    module, _, name = match[1].rpartition(".")
    owner = getattr(importlib.import_module(module), name)
    common |= {
      declared.macro
      for declared in declaration.read(owner).values()
      if declared.is_common and declared.macro
    }
  for file in gin_help.list_includes(text):
    common |= _find_common((ROOT / file).read_text(encoding="utf-8"))
  return common


def write_docs() -> str:
  """Returns the page of all settings, made of the gin files."""
  parts = [
    "# Settings\n\nWritten by `scripts/write_gin_files.py` out of the settings"
    " classes and gin/runs/.\nA setting is given as `--gin.NAME=value`;"
    " `distill-jax --run_mode=MODE --help` shows\nthose of one mode. What has"
    " no default must be given.\n"
  ]
  for mode in mode_lib.RUN_MODES.values():
    parts.append(f"## `--run_mode={mode.name}`\n\n{mode.summary}\n")
    if mode.all_flags:
      parts.append(f"Flags: {', '.join(f'`--{f}`' for f in mode.all_flags)}.\n")
    macros = gin_help.read_macros([mode.gin_file], [str(ROOT)])
    own = {n: each for n, each in macros.items() if each.file != _DATA}
    if own != macros:
      parts.append("Besides these, those of [the data](#ginrunsdatagin).\n")
    parts.append(_write_table(own))
    for variant in _VARIANTS.get(mode.name, ()):
      file = f"gin/runs/{variant}.gin"
      other = gin_help.read_macros([file], [str(ROOT)])
      changed = {
        name: each
        for name, each in other.items()
        if name not in macros or each.value != macros[name].value
      }
      parts.append(f"Otherwise in `{file}`:\n\n{_write_table(changed)}")
  data = gin_help.read_macros([_DATA], [str(ROOT)])
  parts.append(f"## {_DATA}\n\n{_write_table(data)}")
  return "\n".join(parts)


def _write_table(macros: dict[str, gin_help.MacroHelp]) -> str:
  rows = [
    "| setting | default | takes | meaning |",
    "| --- | --- | --- | --- |",
  ]
  for macro in macros.values():
    value = "" if macro.is_required else f"`{macro.value}`"
    cells = (f"`{macro.name}`", value, macro.takes, macro.meaning)
    escaped = (cell.replace("|", "\\|") for cell in cells)
    rows.append(f"| {' | '.join(escaped)} |")
  return "\n".join(rows) + "\n"


def write_all() -> dict[pathlib.Path, str]:
  """Returns the text of each file; those that are included come first."""
  texts = {}
  paths = sorted(GIN_FOLDER.glob("*.gin"))
  paths.sort(key=lambda path: len(_find_included(path)))
  for path in paths:
    texts[path] = write_gin_text(path.read_text(encoding="utf-8"))
  texts[DOCS] = write_docs()
  return texts


def _find_included(path: pathlib.Path) -> set[str]:
  found: set[str] = set()
  for file in gin_help.list_includes(path.read_text(encoding="utf-8")):
    found |= {file} | _find_included(ROOT / file)
  return found


def main() -> None:
  """Writes the files until none changes: some are made of others."""
  changed = True
  while changed:
    changed = False
    for path, text in write_all().items():
      if not path.is_file() or path.read_text(encoding="utf-8") != text:
        path.write_text(text, encoding="utf-8")
        print(f"written: {path.relative_to(ROOT)}")
        changed = True


if __name__ == "__main__":
  main()
