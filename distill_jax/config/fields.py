"""Whether a setting's value is of its field's type, and what it must be.

The type is the annotation of the dataclass field or argument that the setting
is bound to; what it says beyond these forms is not looked at.
"""

import collections.abc
import dataclasses
import math
import types
import typing
from collections.abc import Mapping, Sequence
from typing import Any

_PLAIN = {
  bool: ("True or False", "True or False"),
  int: ("a whole number", "whole numbers"),
  float: ("a number", "numbers"),
  str: ("a text in quotes", "texts in quotes"),
  type(None): ("None", "None"),
}


def explain_mismatch(name: str, value: Any, annotation: Any) -> str | None:
  """Says why a value cannot be; None: its type is right.

  Args:
    name: the setting's, as the user gives it.
    value: what was given: a literal, no object that was built.
    annotation: a type, such as `int | None`.
  """
  if is_of_type(value, annotation):
    return None
  text = f"{name} is {value!r}; it must be {describe_type(annotation)}."
  if isinstance(value, str) and _has_number(annotation) and _is_number(value):
    text += " Leave the quotes out."
  return text


def is_of_type(value: Any, annotation: Any) -> bool:
  """Whether a literal may be given where a type is asked for.

  An int is taken for a float; a bool, NaN and infinity are not.

  Args:
    value: a literal.
    annotation: a type.
  """
  if annotation in (Any, object):
    return True
  if annotation in (None, type(None)):
    return value is None
  if annotation is float:
    return type(value) in (int, float) and math.isfinite(value)
  if annotation in (bool, int, str):
    return type(value) is annotation
  origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
  if origin is typing.Annotated:
    return is_of_type(value, arguments[0])
  if origin in (typing.Union, types.UnionType):
    return any(is_of_type(value, each) for each in arguments)
  if origin is typing.Literal:
    return any(
      type(value) is type(each) and value == each for each in arguments
    )
  kind = origin or annotation
  if kind is collections.abc.Callable:
    return callable(value)
  if not isinstance(kind, type):
    return True
  if issubclass(dict, kind):
    return isinstance(value, Mapping) and all(
      is_of_type(part, each)
      for pair in value.items()
      for part, each in zip(pair, arguments, strict=False)
    )
  if kind in (list, tuple, Sequence, collections.abc.Iterable):
    return isinstance(value, list | tuple) and (
      # What a row of several columns holds its reader checks.
      kind is tuple or all(is_of_type(v, a) for v in value for a in arguments)
    )
  if dataclasses.is_dataclass(kind) or kind.__module__ != "builtins":
    return isinstance(value, kind)
  return True


def list_alternatives(annotation: Any) -> list[Any]:
  """Returns the types that a union is of; a type alone is its own.

  Args:
    annotation: a type.
  """
  if typing.get_origin(annotation) is typing.Annotated:
    annotation = typing.get_args(annotation)[0]
  if typing.get_origin(annotation) in (typing.Union, types.UnionType):
    return list(typing.get_args(annotation))
  return [annotation]


def takes_text(annotation: Any) -> bool:
  """Whether a text is among what a type takes.

  Args:
    annotation: a type.
  """
  return any(
    each is str
    or (
      typing.get_origin(each) is typing.Literal
      and any(isinstance(choice, str) for choice in typing.get_args(each))
    )
    for each in list_alternatives(annotation)
  )


def describe_type(annotation: Any, several: bool = False) -> str:
  """Says in words what a type takes.

  Args:
    annotation: a type.
    several: as of many such values.
  """
  if annotation is None:
    annotation = type(None)
  if annotation in _PLAIN:
    return _PLAIN[annotation][several]
  origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
  if origin is typing.Annotated:
    return describe_type(arguments[0], several)
  if origin in (typing.Union, types.UnionType):
    # What no literal is of is left out, unless there is nothing else.
    literal = [each for each in arguments if _has_literals(each)] or arguments
    return " or ".join(describe_type(each, several) for each in literal)
  if origin is typing.Literal:
    return f"one of {', '.join(map(repr, arguments))}"
  kind = origin or annotation
  if kind is collections.abc.Callable:
    return "what a gin file makes, as @module.function()"
  if isinstance(kind, type) and issubclass(dict, kind):
    what = "dictionaries" if several else "a dictionary"
    if arguments and Any not in arguments:
      key, value = (describe_type(each, several=True) for each in arguments)
      what += f" of {key} to {value}"
    return what
  if kind in (list, tuple, Sequence, collections.abc.Iterable):
    what = "lists" if several else "a list"
    if arguments and kind is not tuple:
      what += f" of {describe_type(arguments[0], several=True)}"
    return what
  name = getattr(kind, "__name__", str(kind))
  return f"a {name} that a gin file makes"


def _has_literals(annotation: Any) -> bool:
  kind = typing.get_origin(annotation) or annotation
  return (
    annotation in (None, *_PLAIN)
    or kind is typing.Literal
    or kind in (list, tuple, Sequence)
    or (isinstance(kind, type) and issubclass(dict, kind))
  )


def _has_number(annotation: Any) -> bool:
  parts = typing.get_args(annotation) or (annotation,)
  return int in parts or float in parts


def _is_number(text: str) -> bool:
  try:
    float(text)
  except ValueError:
    return False
  return True
