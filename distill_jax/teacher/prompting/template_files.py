"""Template files: one TOML file a prompt template, shipped or a user's.

Owns the fields of such a file and their types.
"""

import difflib
import pathlib
import tomllib
from collections.abc import Mapping
from typing import Any

from distill_jax.answers import parsing
from distill_jax.errors import UserError
from distill_jax.teacher.prompting.templates import Exemplar, PromptTemplate

_FILES = pathlib.Path(__file__).with_name("prompt_files")
_MAX_TEMPLATE_BYTES = 1 << 20

_EXEMPLAR_TYPES: dict[str, tuple[type, bool]] = {
  "input": (str, True),
  "rationale": (str, True),
  "label": (str, True),
}
# Name -> type and whether it must be given.
_TEMPLATE_TYPES: dict[str, tuple[type, bool]] = {
  "name": (str, True),
  "answer_form": (str, True),
  "labels": (list, False),
  "order": (str, False),
  "instruction": (str, False),
  "fields": (list, True),
  "input_separator": (str, False),
  "answer_prefix": (str, False),
  "rationale_marker": (str, False),
  "answer_marker": (str, True),
  "answer_end": (str, False),
  "rationale_separator": (str, False),
  "stop": (list, True),
  "max_tokens": (int, True),
  "exemplar": (list, True),
}
_TYPE_NAMES = {str: "text", int: "a whole number", list: "a list"}


def list_shipped() -> list[str]:
  """Returns the names of the templates that ship."""
  return sorted(path.stem for path in _FILES.glob("*.toml"))


def load_template(
  name_or_path: str, order: parsing.Order | None = None
) -> PromptTemplate:
  """Loads a template.

  Args:
    name_or_path: name of one that ships, or path of a TOML file, which must
      end in ".toml".
    order: overrides the file's; None: as the file says.

  Returns:
    The template, checked: each of its exemplars, written as the prompt writes
    it, is read back as what it was.

  Raises:
    UserError: there is no such template, or a field is missing, unknown, of
      the wrong type or does not fit the others. Names file and field.
  """
  if not isinstance(name_or_path, str):
    raise UserError(
      f"A prompt template is named by a text, not by {name_or_path!r}."
    )
  if name_or_path in list_shipped():
    path = _FILES / f"{name_or_path}.toml"
  elif name_or_path.endswith(".toml"):
    path = pathlib.Path(name_or_path).expanduser()
  else:
    raise UserError(
      f"PROMPT is {name_or_path!r}, which is no template that ships"
      f" ({', '.join(list_shipped())}) and no path of a .toml file. Give one of"
      " these."
    )
  fields = _check_fields(_read_toml(path), _TEMPLATE_TYPES, f"{path}")
  exemplars = fields.pop("exemplar")
  fields["exemplars"] = tuple(
    Exemplar(
      **_check_fields(exemplar, _EXEMPLAR_TYPES, f"{path}: exemplar {number}")
    )
    for number, exemplar in enumerate(exemplars, start=1)
  )
  for name in ("fields", "stop", "labels"):
    if name in fields:
      fields[name] = tuple(fields[name])
  if order is not None:
    fields["order"] = order
  try:
    return PromptTemplate(**fields)
  except UserError as error:
    raise UserError(f"{path}: {error}") from error


def _read_toml(path: pathlib.Path) -> dict[str, Any]:
  try:
    with open(path, "rb") as file:
      content = file.read(_MAX_TEMPLATE_BYTES + 1)
  except OSError as error:
    raise UserError(
      f"Prompt template {path} cannot be read ({error.strerror}). PROMPT is a"
      f" name ({', '.join(list_shipped())}) or the path of a .toml file."
    ) from error
  if len(content) > _MAX_TEMPLATE_BYTES:
    raise UserError(
      f"Prompt template {path} has more than {_MAX_TEMPLATE_BYTES} bytes; no"
      " prompt can be that long. Give fewer exemplars."
    )
  try:
    return tomllib.loads(content.decode("utf-8"))
  # RecursionError: brackets nested by the thousand.
  except (ValueError, RecursionError) as error:
    raise UserError(
      f"Prompt template {path} is not TOML in UTF-8 ({error}). Mend it there."
    ) from error


def _check_fields(
  values: Any, types: Mapping[str, tuple[type, bool]], where: str
) -> dict[str, Any]:
  """Returns a table of which every field is known and of its type."""
  if not isinstance(values, dict):
    raise UserError(f"{where}: {values!r} is not a table; write [[exemplar]].")
  for name in values:
    if name not in types:
      close = difflib.get_close_matches(name, types, n=1)
      hint = f"did you mean {close[0]}?" if close else f"of {', '.join(types)}."
      raise UserError(f"{where}: {name}: unknown field; {hint}")
  for name, (kind, is_required) in types.items():
    if name not in values:
      if is_required:
        raise UserError(f"{where}: {name}: missing; give {_TYPE_NAMES[kind]}.")
    # `type`, because isinstance would take true for 1.
    elif type(values[name]) is not kind:
      raise UserError(
        f"{where}: {name}: {values[name]!r} is not {_TYPE_NAMES[kind]}."
      )
  for name in {"fields", "labels", "stop"} & values.keys():
    if not all(isinstance(value, str) for value in values[name]):
      raise UserError(f"{where}: {name}: {values[name]!r} is not all texts.")
  return dict(values)
