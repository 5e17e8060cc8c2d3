"""Tests of parsing.py: outputs in the formats that templates give."""

import pytest
from hostile_outputs import OUTPUTS
from hypothesis import given
from hypothesis import strategies as st

from distill_jax.data.records import STATUSES
from distill_jax.teacher import parsing

_CHOICES = ("bank", "library", "country club", "fitness center", "park.")


def _read(text, form, finish_reason=None, **fields):
  output_format = parsing.OutputFormat(
    form,
    parsing.compile_marker(fields.pop("marker", "So the answer is")),
    fields.pop("stop", ("\nQ:", "\nA:")),
    **fields,
  )
  parsed = parsing.parse_with_format(
    text, output_format, _CHOICES, finish_reason
  )
  return parsed.rationale, parsed.label, parsed.status


@pytest.mark.parametrize(
  "form, answer, label, status",
  [
    ("choice_letter", "B.", "library", "ok"),
    ("equation", "3 + 4.", "3 + 4", "ok"),
    ("equation", "x.", None, "not_evaluable"),
    ("free_text", "Paris, France.", "Paris, France", "ok"),
    ("free_text", "3.5", "3.5", "ok"),
  ],
)
@pytest.mark.parametrize("order", ["rationale_first", "label_first"])
def test_answers_of_every_form(form, answer, label, status, order):
  text = f"R.\nSo the answer is {answer}"
  if order == "label_first":
    text = f"So the answer is {answer}\nR."
  parsed = _read(text, form, "stop", order=order, answer_end=".")
  assert parsed == ("R.", label, status)


@pytest.mark.parametrize(
  "text, expected",
  [
    # With its marker, and without, as where the prompt ended in it.
    ("The answer is (b) library.\nIt lends.", ("It lends.", "library", "ok")),
    (" (b) library.\nIt lends.", ("It lends.", "library", "ok")),
    (
      "(b) library. It lends. It does.",
      ("It lends. It does.", "library", "ok"),
    ),
    # The first answer counts; what the rationale says later does not.
    (
      "(b) library.\nSo the answer is (a) bank.",
      ("So the answer is (a) bank.", "library", "ok"),
    ),
    ("A: Why: (b)\nWhy: It lends.", ("It lends.", "library", "ok")),
    ("(b) library.\nIt lends.\n\nQ: Who?", ("It lends.", "library", "ok")),
    ("(b) library.", (None, "library", "empty_rationale")),
    ("I wonder.\nIt lends.", (None, None, "no_marker")),
    (
      "The answer is unclear.\nIt lends.",
      ("It lends.", None, "outside_label_set"),
    ),
    ("(b) library.\nIt le", ("It le", "library", "truncated")),
    ("The answer", (None, None, "truncated")),
    ("", (None, None, "no_marker")),
  ],
)
def test_label_first(text, expected):
  parsed = _read(
    text,
    "choice_letter",
    order="label_first",
    rationale_prefixes=("A:", "Why:"),
  )
  assert parsed == expected


def test_the_first_of_several_stops_ends_the_output():
  text = "R. So the answer is 1.\nA: So the answer is 2.\nQ: 3"
  assert _read(text, "equation") == ("R.", "1", "ok")
  assert _read(text, "equation", stop=("\nQ:", "\nA:")) == ("R.", "1", "ok")
  assert _read(text, "equation", stop="\nQ:")[1] == "2"


@pytest.mark.parametrize(
  "text, finish_reason, label, status",
  [
    # Servers leave the stop text out; a label without a full stop is whole.
    ("R. So the answer is Par", "stop", "Par", "ok"),
    ("R. So the answer is Par", "length", None, "truncated"),
    ("R. So the answer is Paris.\n", "length", "Paris.", "ok"),
    # The server went on past the stop text and ran into its budget there.
    ("R. So the answer is Paris.\nQ: Wh", "length", "Paris.", "ok"),
    ("R. So the answer is", "stop", None, "outside_label_set"),
    ("R. So", "length", None, "truncated"),
    ("R. So", "stop", None, "no_marker"),
  ],
)
def test_why_an_output_ended(text, finish_reason, label, status):
  if text.endswith("\n"):
    text += "And then"
  assert _read(text, "free_text", finish_reason)[1:] == (label, status)
  # 18 - 2 may be the beginning of 18 - 26.
  assert _read("So the answer is 18 - 2", "equation", "length")[1] is None
  assert _read("So the answer is 18 - 2", "equation", "stop")[1] == "18 - 2"


@pytest.mark.parametrize(
  "words, text, found",
  [
    ("Answer:", "answer: x", "answer:"),
    ("Answer:", "the answer x", None),
    ("Answer:", "Reanswer: x", None),
    ("####", "x#### 3", "####"),
    ("Final  answer", "final\nanswer: 3", "final\nanswer:"),
    ("So the answer is", "Thus the answer is 3", "the answer is"),
    ("(.*)", "x", None),
  ],
)
def test_markers(words, text, found):
  match = parsing.compile_marker(words).search(text)
  assert (match and match.group()) == found


@given(text=OUTPUTS, order=st.sampled_from(["rationale_first", "label_first"]))
@pytest.mark.parametrize(
  "form", ["choice_letter", "closed_set", "equation", "free_text"]
)
def test_no_text_raises_with_any_format(form, text, order):
  for finish_reason in (None, "stop", "length", "tool_calls"):
    _, label, status = _read(
      text, form, finish_reason, order=order, labels=("neutral", "yes")
    )
    assert status in STATUSES
    assert label or status not in ("ok", "empty_rationale")
    if finish_reason == "stop":
      assert status != "truncated"


def test_long_hostile_outputs_end_with_any_format():
  # A quadratic step would need minutes.
  for form in ("choice_letter", "equation", "free_text"):
    for order in ("rationale_first", "label_first"):
      for fragment in ("a ", "= ", "1 ", "(", "**", "final ", ". ", "\n", "\t"):
        for marker in ("So the answer is", "Final answer"):
          text = f"{marker} 1" + fragment * 50_000
          parsed = _read(text, form, order=order, marker=marker)
          assert parsed[2] in STATUSES
