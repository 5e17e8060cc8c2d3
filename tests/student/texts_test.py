"""Tests of student/texts.py."""

import pytest

from distill_jax.errors import UserError
from distill_jax.student import texts


def test_any_text_is_one():
  assert texts.check_texts((text for text in ("", "a\0b")), "texts") == [
    "",
    "a\0b",
  ]


@pytest.mark.parametrize(
  ("given", "told"),
  [
    ("one", "Put one text in"),
    (b"one", "Put one text in"),
    (3, "must be a list of texts"),
    (["a", None], r"texts\[1\] is None"),
    (["\ud800"], "half a surrogate pair at character 0"),
  ],
)
def test_what_is_no_text_is_named(given, told):
  with pytest.raises(UserError, match=told):
    texts.check_texts(given, "texts")
