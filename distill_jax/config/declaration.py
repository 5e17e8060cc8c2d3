"""A setting is declared once: on the field of its settings class.

From `field` come the check and its message, the macro with its default and
comment in gin/runs/ (`scripts/write_gin_files.py` writes them), and through
these `--help` and docs/settings.md.
"""

import contextlib
import contextvars
import dataclasses
import functools
import math
import typing
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from distill_jax.config import fields
from distill_jax.errors import UserError

REQUIRED = "%gin.REQUIRED"
_KEY = "declaration"
_is_built_by_gin = contextvars.ContextVar("is_built_by_gin", default=False)
# The longest part of a value that a message repeats.
_MAX_SHOWN = 200


@dataclasses.dataclass(frozen=True)
class Declaration:
  """What a settings class says of a field; see `field`."""

  macro: str | None
  help: str
  least: float | None = None
  above: float | None = None
  most: float | None = None
  below: float | None = None
  one_of: Sequence[Any] | None = None
  is_filled: bool = False
  is_checked: bool = True
  is_common: bool = False
  hint: str = ""
  gin_text: str | None = None
  takes: str | None = None


def field(
  default: Any = dataclasses.MISSING,
  *,
  macro: str | None = None,
  help: str = "",
  least: float | None = None,
  above: float | None = None,
  most: float | None = None,
  below: float | None = None,
  one_of: Sequence[Any] | None = None,
  is_filled: bool = False,
  is_checked: bool = True,
  is_common: bool = False,
  hint: str = "",
  gin_text: str | None = None,
  takes: str | None = None,
  default_factory: Any = dataclasses.MISSING,
) -> Any:
  """Declares a setting, in place of `dataclasses.field`.

  Args:
    default: as of `dataclasses.field`.
    macro: its name on the command line and in gin files; None: it has none.
    help: what it means.
    least: the smallest value.
    above: all values are larger.
    most: the largest value.
    below: all values are smaller.
    one_of: the values there are, besides a `Literal` in the annotation.
    is_filled: whether an empty or blank value is refused.
    is_checked: False: the class checks it by hand.
    is_common: whether the gin file's header names it among the common ones.
    hint: goes behind what the value must be.
    gin_text: what the gin file gives where it is not `default`: of a macro its
      value, else what the field is bound to.
    takes: which values it takes, in place of what its annotation says.
    default_factory: as of `dataclasses.field`.
  """
  declared = Declaration(
    macro,
    help,
    least,
    above,
    most,
    below,
    one_of,
    is_filled,
    is_checked and (macro is not None or gin_text is None),
    is_common,
    hint,
    gin_text,
    takes,
  )
  keywords: dict[str, Any] = {"metadata": {_KEY: declared}}
  if default is not dataclasses.MISSING:
    keywords["default"] = default
  if default_factory is not dataclasses.MISSING:
    keywords["default_factory"] = default_factory
  return dataclasses.field(**keywords)


def read(settings_class: type) -> dict[str, Declaration]:
  """Returns the declarations of a class by field; others have none.

  Args:
    settings_class: a dataclass.
  """
  return {
    each.name: each.metadata[_KEY]
    for each in dataclasses.fields(settings_class)
    if _KEY in each.metadata
  }


def check(settings: Any) -> None:
  """Refuses values that their declarations do not allow.

  Args:
    settings: an object of a settings class; call it in `__post_init__`.

  Raises:
    UserError: names the setting, its value and what it must be.
  """
  annotations = _find_annotations(type(settings))
  for name, declared in read(type(settings)).items():
    value = getattr(settings, name)
    if declared.is_checked and not _is_allowed(
      value, annotations[name], declared
    ):
      raise UserError(
        f"{name_of(settings, name)} is {_show(value)}; it must be"
        f" {describe(type(settings), name)}{declared.hint}."
      )


def describe(settings_class: type, name: str) -> str:
  """Says in words what a field takes.

  Args:
    settings_class: a dataclass.
    name: a field that it declares.
  """
  annotation = _find_annotations(settings_class)[name]
  declared = read(settings_class)[name]
  if declared.takes is not None:
    return declared.takes
  if declared.one_of is not None:
    kinds = [f"one of {', '.join(map(repr, declared.one_of))}"]
  else:
    kinds = [
      fields.describe_type(each).replace(" in quotes", "")
      for each in _list_kinds(annotation)
    ]
  text = f"{' or '.join(kinds)}{_describe_range(declared)}"
  if declared.is_filled:
    text += " that is not empty"
  is_optional = type(None) in typing.get_args(annotation)
  return f"{text}, or None" if is_optional else text


def name_of(settings: Any, name: str) -> str:
  """Returns what the caller calls a field: its macro, where gin builds it.

  Args:
    settings: an object of a settings class.
    name: a field.
  """
  declared = read(type(settings)).get(name)
  if declared is None or declared.macro is None or not _is_built_by_gin.get():
    return name
  return declared.macro


@contextlib.contextmanager
def built_by_gin() -> Iterator[None]:
  """Makes messages name macros."""
  token = _is_built_by_gin.set(True)
  try:
    yield
  finally:
    _is_built_by_gin.reset(token)


@functools.cache
def _find_annotations(settings_class: type) -> dict[str, Any]:
  return typing.get_type_hints(settings_class, include_extras=True)


def _list_kinds(annotation: Any) -> list[Any]:
  """Returns the types of a union, without None."""
  kinds = fields.list_alternatives(annotation)
  return [each for each in kinds if each is not type(None)]


def _is_allowed(value: Any, annotation: Any, declared: Declaration) -> bool:
  if not fields.is_of_type(value, annotation):
    return False
  if value is None:
    return True
  if declared.one_of is not None and value not in declared.one_of:
    return False
  if declared.is_filled and isinstance(value, str | Sequence | Mapping):
    return bool(value.strip() if isinstance(value, str) else value)
  if not isinstance(value, int | float):
    return True
  return math.isfinite(value) and (
    (declared.least is None or value >= declared.least)
    and (declared.above is None or value > declared.above)
    and (declared.most is None or value <= declared.most)
    and (declared.below is None or value < declared.below)
  )


def _describe_range(declared: Declaration) -> str:
  if declared.least is not None and declared.most is not None:
    return f" from {declared.least} to {declared.most}"
  parts = {
    ">=": declared.least,
    "above": declared.above,
    "<=" if declared.above is None else "at most": declared.most,
    "below": declared.below,
  }
  found = [
    f"{word} {bound}" for word, bound in parts.items() if bound is not None
  ]
  return f" {' and '.join(found)}" if found else ""


def _show(value: Any) -> str:
  shown = repr(value)
  return shown if len(shown) <= _MAX_SHOWN else f"{shown[:_MAX_SHOWN]}..."
