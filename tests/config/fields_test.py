"""Tests of config/fields.py: values against types, and what is said of them."""

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Literal

import pytest

from distill_jax.config import fields
from distill_jax.errors import UserError


@pytest.mark.parametrize(
  "annotation, right, wrong",
  [
    (int, [0, -3], [True, 1.0, "1", None, [1]]),
    (float, [0, 1.5, -2], [True, "1.5", None, float("nan"), float("inf")]),
    (bool, [True, False], [0, 1, "True", None]),
    (str, ["", "a"], [1, None, ["a"], b"a"]),
    (int | None, [None, 3], [True, 3.5, "3"]),
    (str | Sequence[str], ["a", ["a"], ("a", "b")], [1, [1], None]),
    (Literal["a", 1], ["a", 1], ["b", True, None, 1.0]),
    (Mapping[str, int], [{}, {"a": 1}], [{"a": True}, {1: 1}, [("a", 1)], 8]),
    (Mapping[str, Any], [{"a": []}], [{1: 1}]),
    (dict, [{1: 2}], [[], "a"]),
    (Sequence[tuple[str, int]], [[("a", 1)], (["a", 1],)], ["ab", [1]]),
    (tuple[str, int], [("a", 1), ["a"]], ["a", 1]),
    (Callable[[int], Any], [len], ["len", 1]),
    (os.PathLike | str, ["a"], [1]),
    (Annotated[int, "at least 1"], [1], ["1"]),
    (UserError, [UserError("a")], ["a"]),
    (Any, [1, "a", None], []),
  ],
)
def test_values_are_of_types(annotation, right, wrong):
  for value in right:
    assert fields.explain_mismatch("A", value, annotation) is None
  for value in wrong:
    explained = fields.explain_mismatch("A", value, annotation)
    assert explained.startswith(f"A is {value!r}; it must be ")


@pytest.mark.parametrize(
  "annotation, said",
  [
    (int | None, "a whole number or None"),
    (Mapping[str, int], "a dictionary of texts in quotes to whole numbers"),
    (str | os.PathLike, "a text in quotes"),
    (Sequence[str] | None, "a list of texts in quotes or None"),
    (Literal["a", "b"], "one of 'a', 'b'"),
    (Mapping[str, Any], "a dictionary"),
  ],
)
def test_types_in_words(annotation, said):
  assert fields.describe_type(annotation) == said


def test_numbers_in_quotes():
  explained = fields.explain_mismatch("A", "3e-3", float | None)
  assert explained.endswith("a number or None. Leave the quotes out.")
  assert "quotes out" not in fields.explain_mismatch("A", "x", float)


@pytest.mark.parametrize(
  "annotation, expected",
  [
    (str, True),
    (str | None, True),
    (str | list[str], True),
    (Literal["a", "b"] | None, True),
    (int, False),
    (list[str], False),
    (Literal[1, 2], False),
    (Mapping[str, int], False),
  ],
)
def test_which_types_take_a_text(annotation, expected):
  assert fields.takes_text(annotation) == expected
