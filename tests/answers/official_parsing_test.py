"""Tests of official_parsing.py on real outputs and on ones made to trap it."""

import time

import pytest
from hostile_outputs import OUTPUTS
from hypothesis import given

from distill_jax.answers import arithmetic
from distill_jax.answers.official_parsing import FORMATS, parse_output
from distill_jax.answers.parsing import ParsedOutput
from distill_jax.data.records import STATUSES

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
      ("R.", "bank", "ambiguous"),
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
    # A pair, and no number of four digits.
    (
      "svamp",
      "R. The answer is (14,21).",
      ("R.", "(14,21)", "not_evaluable"),
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


@pytest.mark.parametrize("mode", _MODES)
@pytest.mark.parametrize("dataset", sorted(FORMATS))
@given(text=OUTPUTS)
def test_no_text_raises_and_ok_means_usable(dataset, mode, text):
  parsed = _parse(text, dataset, mode)
  assert parsed.status in STATUSES
  if parsed.status == "ok":
    assert parsed.rationale.strip()
    if FORMATS[dataset].answer_form == "equation":
      assert arithmetic.equations_equal(parsed.label, parsed.label)
    else:
      labels = FORMATS[dataset].labels or _CHOICES
      assert parsed.label in labels


@pytest.mark.parametrize("mode", _MODES)
@pytest.mark.parametrize("dataset", sorted(FORMATS))
def test_long_hostile_outputs_take_no_time(dataset, mode):
  start = time.process_time()  # A busy machine's is the same.
  for fragment in ("(", "(a", " ", "so, ", "So the answer is ", "\nAnswer: "):
    _parse("The answer is " + fragment * 50_000, dataset, mode)
    _parse(fragment * 50_000, dataset, mode)
  # A quadratic step needs some 3 seconds a text.
  assert time.process_time() - start < 4


def test_what_the_caller_must_get_right():
  with pytest.raises(ValueError, match="no output format for 'imdb'"):
    parse_output("x", "imdb", "strict")
  with pytest.raises(ValueError, match="read with their choices"):
    parse_output("x", "cqa", "tolerant")
  with pytest.raises(ValueError, match="mode 'lenient'"):
    parse_output("x", "svamp", "lenient")
