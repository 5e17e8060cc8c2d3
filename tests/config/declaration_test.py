"""Tests of declaration.py: one declaration, its check and its words."""

import dataclasses
from collections.abc import Mapping
from typing import Literal

import pytest

from distill_jax.config import declaration
from distill_jax.config.declaration import field
from distill_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class _Run:
  folder: str = field(macro="FOLDER", is_filled=True, help="where it writes")
  steps: int = field(10, macro="STEPS", least=1)
  limit: int | None = field(None, macro="LIMIT", least=1)
  rate: float = field(0.5, macro="RATE", above=0, most=1, hint="; 1 is all")
  share: float = field(0.5, macro="SHARE", least=0, below=1)
  scale: float = field(1.0, macro="SCALE", least=0)
  kind: Literal["a", "b"] = field("a", macro="KIND")
  policy: str = field("stop", macro="POLICY", one_of=("stop", "skip"))
  names: str | list[str] | None = field(None, macro="NAMES", is_filled=True)
  mesh: Mapping[str, int] = field(default_factory=dict, macro="MESH")
  other: object = field(None, gin_text="@other()")
  plain: int = 3

  def __post_init__(self):
    declaration.check(self)


@pytest.mark.parametrize(
  "name, value, must_be",
  [
    ("folder", "  ", "a text that is not empty"),
    ("folder", 3, "a text that is not empty"),
    ("steps", 0, "a whole number >= 1"),
    ("steps", True, "a whole number >= 1"),
    ("steps", None, "a whole number >= 1"),
    ("steps", "1", "a whole number >= 1"),
    ("limit", 0, "a whole number >= 1, or None"),
    ("rate", 0.0, "a number above 0 and at most 1; 1 is all"),
    ("rate", float("nan"), "a number above 0 and at most 1; 1 is all"),
    ("scale", float("inf"), "a number >= 0"),
    ("scale", float("nan"), "a number >= 0"),
    ("share", 1.0, "a number >= 0 and below 1"),
    ("kind", "c", "one of 'a', 'b'"),
    ("policy", "go", "one of 'stop', 'skip'"),
    ("names", [], "a text or a list of texts that is not empty, or None"),
    ("mesh", {"data": "x"}, "a dictionary of texts to whole numbers"),
  ],
)
def test_a_value_that_is_not_allowed_is_named(name, value, must_be):
  values = {"folder": "here"} | {name: value}
  with pytest.raises(UserError) as raised:
    _Run(**values)
  assert str(raised.value) == f"{name} is {value!r}; it must be {must_be}."
  with declaration.built_by_gin(), pytest.raises(UserError) as raised:
    _Run(**values)
  assert str(raised.value).startswith(f"{name.upper()} is ")


@pytest.mark.parametrize(
  "name, value",
  [
    ("limit", None),
    ("limit", 1),
    ("rate", 1),
    ("share", 0),
    ("names", "one"),
    ("names", ["one", "two"]),
    ("names", None),
    ("other", 3),
    ("plain", "not declared"),
  ],
)
def test_a_value_that_is_allowed(name, value):
  assert getattr(_Run("here", **{name: value}), name) == value


def test_a_long_value_is_cut():
  with pytest.raises(UserError) as raised:
    _Run("here", steps="x" * 1000)
  assert len(str(raised.value)) < 300


def test_only_declared_fields_are_read():
  read = declaration.read(_Run)
  assert "plain" not in read
  assert read["other"].gin_text == "@other()"
  assert read["folder"].help == "where it writes"


def test_names_are_macros_only_within_gin():
  run = _Run("here")
  with declaration.built_by_gin():
    assert declaration.name_of(run, "steps") == "STEPS"
    assert declaration.name_of(run, "other") == "other"
    assert declaration.name_of(run, "plain") == "plain"
  assert declaration.name_of(run, "steps") == "steps"
