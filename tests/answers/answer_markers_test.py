"""Tests of answer_markers.py; markers in their outputs, in parsing_test.py."""

import time

import pytest

from distill_jax.answers import answer_markers


@pytest.mark.parametrize(
  "words, text, found",
  [
    ("Answer:", "answer: x", "answer:"),
    ("Answer:", "the answer x", None),
    ("Answer:", "Reanswer: x", None),
    ("####", "x#### 3", "####"),
    ("Final  answer", "final\nanswer: 3", "final\nanswer:"),
    ("So the answer is", "And the answer is 3", "the answer is"),
    ("So the answer is", "Thus the answer is 3", "Thus the answer is"),
    ("(.*)", "x", None),
    # As chat models write them.
    ("The answer is", "The final answer is: 3", "The final answer is:"),
    ("The answer is", "**The answer is:** 3", "The answer is:**"),
    ("Answer:", "**Answer**: x", "Answer**:"),
    ("Answer:", "__Answer:__ x", "Answer:__"),
    ("Answer:", "Answer : x", "Answer :"),
    ("Answer:", "Final Answer: x", "Final Answer:"),
    ("Label:", "**Label**: x", "Label**:"),
    ("Label:", "the label x", None),
  ],
)
def test_markers(words, text, found):
  match = answer_markers.compile_marker(words).search(text)
  assert (match and match.group()) == found


@pytest.mark.parametrize(
  "text, end",
  [
    ("So.\n**Answer:** yes", "yes"),
    ("So.\n### Final Answer\nyes", "\nyes"),
    ("So.\n**Answer**\nyes", "\nyes"),
    ("So.\n- the answer: yes", " yes"),
    ("So the correct answer is yes", " yes"),
    ("An answer: yes", None),
    ("### Answers differ\nyes", None),
  ],
)
def test_common_markers(text, end):
  match = answer_markers.COMMON.search(text)
  assert (match and text[match.end() :].lstrip(" ")) == (
    end and end.lstrip(" ")
  )


@pytest.mark.parametrize(
  "text, is_found",
  [
    ("x\nPremise: y", True),
    ("x\n**Premise:** y", True),
    ("x\n## Premise\ny", False),
    ("x Premise: y", False),
    ("x\nPremises: y", False),
    ("x\nQ: y", True),
  ],
)
def test_fields_open_a_line(text, is_found):
  pattern = answer_markers.compile_fields(("Premise:", "Q:"))
  assert (pattern.search(text) is not None) == is_found


@pytest.mark.parametrize(
  "text, expected",
  [
    ("So.\n**Answer:**", "So."),
    ("So.\n### Answer", "So."),
    ("Answer:", ""),
    ("So.\nAnswer: yes", "So.\nAnswer: yes"),
    ("The answer", "The answer"),
  ],
)
def test_an_announced_answer_is_no_rationale(text, expected):
  assert answer_markers.remove_last_heading(text) == expected


def test_long_texts_take_no_time():
  start = time.process_time()
  patterns = (
    answer_markers.COMMON,
    answer_markers.WHOLE_LINE_ANSWER,
    answer_markers.compile_marker("Answer:"),
    answer_markers.compile_fields(("Q:",)),
  )
  for piece in (
    "#",
    "*",
    " ",
    "\n",
    "answer ",
    "Answer: ",
    "\nAnswer: x",
    "- ",
  ):
    for pattern in patterns:
      for _ in pattern.finditer(piece * 50_000):
        pass
  assert time.process_time() - start < 8
