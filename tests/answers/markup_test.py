"""Tests of markup.py."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distill_jax.answers import markup


@pytest.mark.parametrize(
  "text, shown, is_open",
  [
    ("a", "a", False),
    ("<think>no</think>yes", "yes", False),
    ("<think>no <think>no</think> no</think>yes", "yes", False),
    ("a <thinking>no</thinking>b<THINK>no</THINK>c", "a bc", False),
    ("[THINK]no[/THINK]yes", "yes", False),
    # Some servers leave the beginning out.
    ("no</think>yes", "yes", False),
    ("no</think>no</think>yes", "yes", False),
    # It broke off.
    ("<think>no", "", True),
    ("a <think>no</think>b<think>no", "a b", True),
    ("2 < 3 and 4 > 3", "2 < 3 and 4 > 3", False),
    # Two numbers do not become one.
    ("1<think>6</think>5", "1 5", False),
    ("1.<think>6</think>5", "1. 5", False),
    ("1<think>6</think>,500", "1 ,500", False),
    ("1<think>6</think>.", "1.", False),
  ],
)
def test_thinking_is_removed(text, shown, is_open):
  assert markup.remove_thinking(text) == (shown, is_open)


@pytest.mark.parametrize(
  "text, bare, mark",
  [
    ("So.\n\n**", "So.", "**"),
    ("So.\n### ", "So.", "###"),
    ("So.\n---\n> **", "So.", "**"),
    ("It is **red** **", "It is **red**", "**"),
    ("It is **red**", "It is **red**", ""),
    ("**", "", "**"),
    ("", "", ""),
  ],
)
def test_marks_that_open_what_follows(text, bare, mark):
  assert markup.strip_opening_marks(text) == (bare, mark)


@pytest.mark.parametrize(
  "answer, before, expected",
  [
    ("yes**", "So.\n**", "yes"),
    ("yes.**", "So.\n**", "yes."),
    ("yes*.", "*", "yes."),
    ("**yes**", "So.\n**", "**yes**"),
    ("yes**", "So.", "yes**"),
  ],
)
def test_marks_that_close(answer, before, expected):
  assert markup.strip_closing_marks(answer, before) == expected


@pytest.mark.parametrize(
  "answer, expected",
  [
    ("**neutral**.", "neutral."),
    (r"$\boxed{\text{(b) bank}}$", "(b) bank"),
    (r"\(\boxed{8}\)", "8"),
    ("`x`", "x"),
    ("*Paris*", "Paris"),
    ("Paris, France", "Paris, France"),
    # Not around the whole of it.
    ("**3** and **4**", "**3** and **4**"),
    ("__init__", "__init__"),
    ("$5 and 3$4", "$5 and 3$4"),
    ("**", "**"),
    (r"\sum{x}", r"\sum{x}"),
  ],
)
def test_what_stands_around_an_answer(answer, expected):
  assert markup.unwrap(answer) == expected


@pytest.mark.parametrize(
  "text, held",
  [
    (r"So \boxed{8}.", ["8"]),
    (r"\boxed{7} or \boxed{\frac{1}{2}}", ["7", r"\frac{1}{2}"]),
    (r"\boxed{\boxed{8}}", [r"\boxed{8}"]),
    (r"\boxed{8", []),
    (r"\boxed{7} \boxed{8", ["7"]),
    (r"} \boxed {8}", ["8"]),
    (r"\boxed 8", []),
    ("8", []),
  ],
)
def test_boxes(text, held):
  found = list(markup.find_boxes(text))
  assert [box[2] for box in found] == held
  for start, end, content in found:
    assert text[start:end].replace(" ", "") == rf"\boxed{{{content}}}"


@pytest.mark.parametrize(
  "text, expected",
  [
    (r"\frac{84}{2} \times 3", "(84 / 2) * 3"),
    (r"\dfrac{3 + 4}{2}", "((3 + 4) / 2)"),
    (r"\$1{,}200 \cdot 2", "$1,200 * 2"),
    (r"1\,234", "1 234"),
    (r"\left(3 + 4\right)", "(3 + 4)"),
    (r"1\displaystyle2", "1 2"),
    (r"1\text{2}", "1 2"),
    (r"1\text{.2}", "1 .2"),
    ("{,}", "{,}"),
    (r"\alpha", r"\alpha"),
  ],
)
def test_plain_math(text, expected):
  assert markup.write_plain_math(text) == expected


@given(st.text("<>/think[]THINK{}\\boxed*_$ .()") | st.text())
def test_nothing_raises(text):
  markup.remove_thinking(text)
  markup.strip_opening_marks(text)
  markup.strip_closing_marks(text, text)
  markup.unwrap(text)
  list(markup.find_boxes(text))
  markup.write_plain_math(text)


def test_long_texts_take_no_time():
  start = time.process_time()
  for piece in ("<think>", "</think>", "\\boxed{", "{", "- ", "**", "\\frac{"):
    text = piece * 50_000
    markup.remove_thinking(text)
    markup.strip_opening_marks(text)
    markup.unwrap(text)
    list(markup.find_boxes(text))
    markup.write_plain_math(text)
  assert time.process_time() - start < 4
