"""Tests of teacher/parsing.py on real outputs and on ones made to trap it."""

import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distill_jax.data import arithmetic
from distill_jax.data.records import STATUSES
from distill_jax.teacher import parsing
from distill_jax.teacher.parsing import ParsedOutput, parse_output

_CHOICES = ("bank", "library", "country club", "fitness center", "park.")
_MODES = ("strict", "tolerant")


def _parse(text, dataset, mode):
  return parse_output(text, dataset, mode, _CHOICES)


@pytest.mark.parametrize("mode", _MODES)
@pytest.mark.parametrize(
  "dataset, text, rationale, label",
  [
    (
      "cqa",
      "Of the above choices, only banks. So the answer is (a) bank.\n\nQ: Who?"
      "\nA: So the answer is (b) library.",
      "Of the above choices, only banks.",
      "bank",
    ),
    (
      "svamp",
      "84 / 2 = 42. The answer is (84 / 2).\n\nQ: There are 120. The answer is"
      " (120 /",
      "84 / 2 = 42.",
      "(84 / 2)",
    ),
    # All of an equation, not only what its first parenthesis closes.
    (
      "svamp",
      "R. The answer is ((7 - 2) * (1 + 1)).\n\nQ: There",
      "R.",
      "((7 - 2) * (1 + 1))",
    ),
    ("asdiv", "1 + 1 = 2. The answer is (1 + 1).", "1 + 1 = 2.", "(1 + 1)"),
    (
      "anli1",
      "Oxford is in Europe. So the answer is contradiction.\n\nPremise: The"
      " 2016 season.\nAnswer: So the answer is neutral.",
      "Oxford is in Europe.",
      "contradiction",
    ),
    (
      "esnli",
      "It may be a choir.\nAnswer: neutral\n\nPremise: A person.\nAnswer: ent",
      "It may be a choir.",
      "neutral",
    ),
    # The budget ended right after the answer.
    ("esnli", "A choir.\nAnswer: neutral", "A choir.", "neutral"),
  ],
)
def test_well_formed_outputs(dataset, text, rationale, label, mode):
  assert _parse(text, dataset, mode) == ParsedOutput(rationale, label, "ok")


@pytest.mark.parametrize(
  "dataset, text, strict, tolerant",
  [
    # Two options, of which the official rule takes the text between.
    (
      "cqa",
      "R. So the answer is either (c) country club or (d) fitness center.",
      ("R.", "country club or", "ambiguous"),
      ("R.", "country club", "ambiguous"),
    ),
    # Case, and a full stop that belongs to the option.
    (
      "cqa",
      "R. So the answer is (b) Library.",
      ("R.", "Library", "outside_label_set"),
      ("R.", "library", "ok"),
    ),
    (
      "cqa",
      "R. So the answer is (e) park.",
      ("R.", "park", "outside_label_set"),
      ("R.", "park.", "ok"),
    ),
    # Letter and text name different options.
    (
      "cqa",
      "R. So the answer is (a) library.",
      ("R.", "library", "ambiguous"),
      ("R.", "bank", "ok"),
    ),
    (
      "cqa",
      "R. So the answer is one of these four.",
      ("R.", " ", "outside_label_set"),
      ("R.", None, "outside_label_set"),
    ),
    (
      "cqa",
      "R. So the answer is (f) pool.",
      ("R.", "pool", "outside_label_set"),
      ("R.", None, "outside_label_set"),
    ),
    (
      "cqa",
      "R. So the answer is (b) libr",
      ("R.", "libr", "truncated"),
      ("R.", "library", "ok"),
    ),
    (
      "cqa",
      "So the answer is (a) bank. So the answer is (b) library.",
      (" ", " ", "ambiguous"),
      ("So the answer is (a) bank.", "library", "ok"),
    ),
    (
      "cqa",
      "Of the above choices, only",
      (" ", " ", "truncated"),
      (None, None, "truncated"),
    ),
    # Operators outside the parentheses.
    (
      "svamp",
      "R. The answer is (16 * 17) * 4.\n\nQ: There",
      ("R.", "(16 * 17)", "ambiguous"),
      ("R.", "(16 * 17) * 4", "ok"),
    ),
    (
      "svamp",
      "R. The answer is $1,000 / 4.\n\nQ: There",
      ("R.", " ", "not_evaluable"),
      ("R.", "1000 / 4", "ok"),
    ),
    (
      "svamp",
      "R. The answer is (2 * x).\n\nQ: There",
      ("R.", "(2 * x)", "not_evaluable"),
      ("R.", None, "not_evaluable"),
    ),
    (
      "svamp",
      "R. The answer is (175, 5).",
      ("R.", "(175, 5)", "not_evaluable"),
      ("R.", None, "not_evaluable"),
    ),
    (
      "svamp",
      "R. The answer is (120 /",
      ("R.", " ", "truncated"),
      ("R.", None, "truncated"),
    ),
    (
      "svamp",
      "Jake has 26. So Steven has 18 - 26",
      (" ", " ", "truncated"),
      (None, None, "truncated"),
    ),
    (
      "svamp",
      "I do not know.\n\nQ: There",
      (" ", " ", "no_marker"),
      (None, None, "no_marker"),
    ),
    # A marker the official rule does not know.
    (
      "anli1",
      "Born in 1995, so the answer is contradiction.\n\nPremise: The",
      ("", "", "no_marker"),
      ("Born in 1995", "contradiction", "ok"),
    ),
    (
      "anli1",
      "R. The answer is neutral.\n\nPremise: The",
      ("", "", "no_marker"),
      ("R.", "neutral", "ok"),
    ),
    # Cut inside "Premise:", which the official rule takes for the label.
    (
      "anli1",
      "R. So the answer is contradiction.\n\nPremise",
      ("R.", "contradiction.\n\nPremis", "truncated"),
      ("R.", "contradiction", "ok"),
    ),
    (
      "anli1",
      "R. So the answer is",
      ("R.", "", "truncated"),
      ("R.", None, "truncated"),
    ),
    (
      "anli1",
      "R. So the answer is analogy.\n\nPremise: The",
      ("R.", "analogy", "outside_label_set"),
      ("R.", None, "outside_label_set"),
    ),
    # The last character goes, whatever it is.
    (
      "anli1",
      "R. So the answer is neutral",
      ("R.", "neutra", "truncated"),
      ("R.", "neutral", "ok"),
    ),
    (
      "esnli",
      "R.\nAnswer: entail",
      ("R.", "entail", "truncated"),
      ("R.", "entailment", "ok"),
    ),
    (
      "esnli",
      "R.\nAnswer: entailment\n\nPre",
      ("R.", "entailment\n\nPre", "truncated"),
      ("R.", "entailment", "ok"),
    ),
    (
      "esnli",
      "R.\nAnswer: en",
      ("R.", "en", "truncated"),
      ("R.", None, "truncated"),
    ),
    (
      "esnli",
      "R.\nAnswer:",
      ("R.", " ", "truncated"),
      ("R.", None, "truncated"),
    ),
    (
      "esnli",
      "R.\nAnswer: N/A\n\nPremise: The",
      ("R.", "N/A", "outside_label_set"),
      ("R.", None, "outside_label_set"),
    ),
    (
      "esnli",
      "A word is a noun. A noun is a",
      ("A word is a noun. A noun is a", " ", "truncated"),
      (None, None, "truncated"),
    ),
    (
      "esnli",
      "\nAnswer:\n\nPremise: The",
      ("", " ", "outside_label_set"),
      (None, None, "outside_label_set"),
    ),
    (
      "esnli",
      "\nAnswer: neutral\n\nPremise: The",
      ("", "neutral", "empty_rationale"),
      (None, "neutral", "empty_rationale"),
    ),
    ("esnli", "", ("", " ", "no_marker"), (None, None, "no_marker")),
  ],
)
def test_outputs_that_go_wrong(dataset, text, strict, tolerant):
  assert _parse(text, dataset, "strict") == ParsedOutput(*strict)
  assert _parse(text, dataset, "tolerant") == ParsedOutput(*tolerant)


@pytest.mark.parametrize(
  "answer, label",
  [("no.", "No"), ("**Noth", "Nothing"), ("not", "Nothing"), ("n", None)],
)
def test_a_new_data_set_is_one_line(monkeypatch, answer, label):
  output_format = parsing.OutputFormat(
    "closed_set", re.compile("Verdict:"), "\nText:", ("Yes", "No", "Nothing")
  )
  monkeypatch.setitem(parsing.FORMATS, "mine", output_format)
  text = f"R.\nVerdict: {answer}\n\nText: next\nVerdict: Yes"
  assert parse_output(text, "mine", "tolerant").label == label


_FRAGMENTS = st.sampled_from(
  [
    "So the answer is",
    "the answer is ",
    "The answer is ",
    "Answer:",
    "Answer: ",
    "(a)",
    "(b) library",
    "(",
    ")",
    "(1 + 2)",
    "*",
    "neutral",
    "entail",
    ".",
    "\n",
    "Q:",
    "Premise:",
    " ",
  ]
)
_OUTPUTS = st.lists(_FRAGMENTS | st.text(max_size=5), max_size=12).map("".join)


@pytest.mark.parametrize("mode", _MODES)
@pytest.mark.parametrize("dataset", sorted(parsing.FORMATS))
@given(text=_OUTPUTS)
def test_no_text_raises_and_ok_means_usable(dataset, mode, text):
  parsed = _parse(text, dataset, mode)
  assert parsed.status in STATUSES
  if parsed.status == "ok":
    assert parsed.rationale.strip()
    if parsing.FORMATS[dataset].answer_form == "equation":
      assert arithmetic.equations_equal(parsed.label, parsed.label)
    else:
      labels = parsing.FORMATS[dataset].labels or _CHOICES
      assert parsed.label in labels


@pytest.mark.parametrize("mode", _MODES)
@pytest.mark.parametrize("dataset", sorted(parsing.FORMATS))
def test_long_hostile_outputs_take_no_time(dataset, mode):
  start = time.perf_counter()
  for fragment in ("(", "(a", " ", "so, ", "So the answer is ", "\nAnswer: "):
    _parse("The answer is " + fragment * 50_000, dataset, mode)
    _parse(fragment * 50_000, dataset, mode)
  # A quadratic step would need minutes.
  assert time.perf_counter() - start < 4


def test_what_the_caller_must_get_right():
  with pytest.raises(ValueError, match="no output format for 'imdb'"):
    parse_output("x", "imdb", "strict")
  with pytest.raises(ValueError, match="read with their choices"):
    parse_output("x", "cqa", "tolerant")
  with pytest.raises(ValueError, match="mode 'lenient'"):
    parse_output("x", "svamp", "lenient")


# --- Formats that a template gives ------------------------------------------


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
    ("choice_letter", "b) library", "library", "ok"),
    ("choice_letter", "**(b) library**", "library", "ok"),
    ("choice_letter", "country club.", "country club", "ok"),
    ("choice_letter", "(e) park.", "park.", "ok"),
    # An article, and nothing that is an option.
    ("choice_letter", "a bank.", None, "outside_label_set"),
    ("choice_letter", "z)", None, "outside_label_set"),
    ("equation", "(3 + 4) = 7.", "(3 + 4)", "ok"),
    ("equation", "(3 + 4) = 8.", None, "not_evaluable"),
    ("equation", "3 + 4 = 7 = 7.", None, "not_evaluable"),
    ("equation", "**3 × 4**.", "3 * 4", "ok"),
    ("equation", "12 ÷ 4 − 1 miles.", "12 / 4 - 1", "ok"),
    ("equation", "42 miles an hour", "42", "ok"),
    ("equation", "42 miles and 3 yards", None, "not_evaluable"),
    ("equation", "12 *.", None, "not_evaluable"),
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


def test_labels_of_several_words():
  labels = ("not at all", "not quite", "yes")
  for answer, label in (
    ("Not quite.", "not quite"),
    ("yes, it is", "yes"),
    ("not", None),
  ):
    parsed = _read(
      f"R.\nVerdict: {answer}", "closed_set", marker="Verdict", labels=labels
    )
    assert parsed[1] == label


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


def test_options_that_differ_in_case_only():
  output_format = parsing.FORMATS["cqa"]
  for answer, label, status in (
    ("us", "US", "ambiguous"),
    ("(b) us", "us", "ok"),
    ("them", "them", "ok"),
  ):
    parsed = parsing.parse_with_format(
      f"R. The answer is {answer}.", output_format, ("US", "us", "them")
    )
    assert parsed == ParsedOutput("R.", label, status)


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


@given(text=_OUTPUTS, order=st.sampled_from(["rationale_first", "label_first"]))
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
