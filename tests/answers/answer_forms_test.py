"""Tests of answer_forms.py; answers in their outputs, in parsing_test.py."""

import pytest

from distill_jax.answers import answer_forms
from distill_jax.answers.answer_forms import read_label

_CHOICES = ("bank", "library", "country club", "fitness center", "park.")


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
    ("choice_letter", "Option B", "library", "ok"),
    ("choice_letter", "the correct option is (b).", "library", "ok"),
    ("choice_letter", "B, library", "library", "ok"),
    ("choice_letter", "B: library", "library", "ok"),
    ("choice_letter", "b library", "library", "ok"),
    ("choice_letter", "library (b)", "library", "ok"),
    ("choice_letter", "A, because it lends", "bank", "ok"),
    ("choice_letter", "a, because it lends", None, "outside_label_set"),
    ("choice_letter", "[B]", "library", "ok"),
    ("choice_letter", r"\boxed{B}", "library", "ok"),
    ("choice_letter", r"\(\boxed{\text{(b) library}}\).", "library", "ok"),
    # Its text is no option's, or broke off.
    ("choice_letter", "(b) librarry", "library", "ok"),
    ("choice_letter", "(b) the place that lends", "library", "ok"),
    # Letter and text name different options.
    ("choice_letter", "(a) library.", "bank", "ambiguous"),
    ("choice_letter", "(a) library, which lends", "bank", "ambiguous"),
    ("choice_letter", "A) **library**", "bank", "ambiguous"),
    ("choice_letter", "A: library", "bank", "ambiguous"),
    ("choice_letter", "A, library", "bank", "ambiguous"),
    ("choice_letter", "library (a)", "bank", "ambiguous"),
    ("choice_letter", "(b) - bank", "library", "ambiguous"),
    ("choice_letter", "(b) = bank", "library", "ambiguous"),
    ("choice_letter", "(b) → bank, since", "library", "ambiguous"),
    ("choice_letter", "(b) i.e. bank", "library", "ambiguous"),
    ("choice_letter", "(b), that is, the bank", "library", "ambiguous"),
    ("choice_letter", "(b): the bank", "library", "ambiguous"),
    ("choice_letter", "(b) the bank", "library", "ambiguous"),
    ("choice_letter", "the bank (b)", "library", "ambiguous"),
    ("choice_letter", "Option B: the bank", "library", "ambiguous"),
    ("choice_letter", "Option B (the bank)", "library", "ambiguous"),
    ("choice_letter", "Option B - bank", "library", "ambiguous"),
    ("choice_letter", "(b) - the library", "library", "ok"),
    ("choice_letter", "(b) = library", "library", "ok"),
    ("choice_letter", "Option B: the library", "library", "ok"),
    # Denied.
    ("choice_letter", "not (b)", "library", "ambiguous"),
    ("choice_letter", "it isn't (b).", "library", "ambiguous"),
    ("choice_letter", "anything rather than (b)", "library", "ambiguous"),
    ("choice_letter", "(b) is wrong", "library", "ambiguous"),
    ("choice_letter", "(b) library isn't right", "library", "ambiguous"),
    ("choice_letter", "Option B is incorrect", "library", "ambiguous"),
    ("choice_letter", "(b), because it is not a shop", "library", "ok"),
    # Several letters.
    ("choice_letter", "C. country club. Not (a).", "bank", "ambiguous"),
    ("choice_letter", "C, and (a) is wrong", "bank", "ambiguous"),
    ("choice_letter", "A or (b)", "library", "ambiguous"),
    ("choice_letter", "A place to read, (b)", "library", "ok"),
    ("choice_letter", "B: (b) library", "library", "ok"),
    ("choice_letter", "B or C", None, "ambiguous"),
    ("choice_letter", "option b or c", "library", "ambiguous"),
    ("choice_letter", "b) library or c) country club", "library", "ambiguous"),
    ("equation", "(3 + 4) = 7.", "(3 + 4)", "ok"),
    ("equation", "(3 + 4) = 8.", None, "not_evaluable"),
    ("equation", "3 + 4 = 7 = 7.", "3 + 4", "ok"),
    ("equation", "**3 × 4**.", "3 * 4", "ok"),
    ("equation", "12 ÷ 4 − 1 miles.", "12 / 4 - 1", "ok"),
    ("equation", "42 miles an hour", "42", "ok"),
    ("equation", "42 miles and 3 yards", None, "not_evaluable"),
    ("equation", "12 *.", None, "not_evaluable"),
    ("equation", "x.", None, "not_evaluable"),
    ("free_text", "Paris, France", "Paris, France", "ok"),
    ("free_text", "3.5", "3.5", "ok"),
    ("free_text", "**Paris**", "Paris", "ok"),
    ("free_text", r"$\boxed{\text{Paris}}$", "Paris", "ok"),
    ("free_text", "**", "**", "ok"),
    ("free_text", "", None, "outside_label_set"),
  ],
)
def test_answers_of_every_form(form, answer, label, status):
  assert read_label(answer, form, _CHOICES, is_cut=False) == (label, status)


@pytest.mark.parametrize(
  "labels, answer, label",
  [
    (("not at all", "not quite", "yes"), "Not quite.", "not quite"),
    (("not at all", "not quite", "yes"), "yes, it is", "yes"),
    (("not at all", "not quite", "yes"), "not", None),
    (("Yes", "No", "Nothing"), "no.", "No"),
    # A beginning, where it is long enough and of one label only.
    (("Yes", "No", "Nothing"), "**Noth", "Nothing"),
    (("Yes", "No", "Nothing"), "not", "Nothing"),
    (("Yes", "No", "Nothing"), "n", None),
    (("yes", "no"), "“Yes”.", "yes"),
    (("yes", "no"), "__Yes__", "yes"),
    (("yes", "no"), r"\boxed{\text{no}}", "no"),
    (("yes", "no"), "`no`", "no"),
    (("*", "**"), "*", "*"),
    (("*", "**"), "**.", "**"),
    (("<", ">"), ">.", ">"),
    (("$x$", "x"), "$x$", "$x$"),
  ],
)
def test_labels_of_a_closed_set(labels, answer, label):
  status = "ok" if label else "outside_label_set"
  found = read_label(answer, "closed_set", labels, is_cut=False)
  assert found == (label, status)


@pytest.mark.parametrize(
  "answer, label, status",
  [
    ("neutral or contradiction", None, "ambiguous"),
    ("neutral, neutral", "neutral", "ok"),
    ("entailment is wrong", None, "ambiguous"),
    ("Entailment isn't right.", None, "ambiguous"),
    ("entailment? No.", None, "ambiguous"),
    ("neutral is right", "neutral", "ok"),
    ("Neutral. No more is said.", "neutral", "ok"),
    ("neutrality", None, "outside_label_set"),
  ],
)
def test_two_labels_of_a_closed_set(answer, label, status):
  labels = ("entailment", "neutral", "contradiction")
  found = read_label(answer, "closed_set", labels, is_cut=False)
  assert found == (label, status)


@pytest.mark.parametrize(
  "answer, label, status",
  [
    ("us", "US", "ambiguous"),
    ("(b) us", "us", "ok"),
    ("them", "them", "ok"),
  ],
)
def test_options_that_differ_in_case_only(answer, label, status):
  found = read_label(answer, "choice_letter", ("US", "us", "them"), False)
  assert found == (label, status)


@pytest.mark.parametrize(
  "form, answer",
  [
    ("choice_letter", "the"),
    ("equation", "(3 +"),
    ("closed_set", "en"),
    ("free_text", ""),
  ],
)
def test_what_broke_off_is_said_to_have(form, answer):
  labels = ("entailment", "neutral")
  assert read_label(answer, form, labels, is_cut=True) == (None, "truncated")


def test_an_option_is_named_by_its_whole_text():
  options = ("paris", "paris, france", "river bank", "bank", "bank")
  for answer, label, status in (
    ("(b) Paris, France.", "paris, france", "ok"),
    ("(b) Paris, Texas.", "paris, france", "ambiguous"),
    ("(c) bank", "river bank", "ambiguous"),
    ("(d) river bank", "bank", "ambiguous"),
    ("(d) river banks", "bank", "ok"),
    # An article of its own.
    ("(d) the bank", "bank", "ok"),
    # Two options with one text.
    ("(d) bank", "bank", "ok"),
    ("(e) bank", "bank", "ok"),
  ):
    assert read_label(answer, "choice_letter", options, False) == (
      label,
      status,
    )


@pytest.mark.parametrize(
  "answer, label, status",
  [
    ("?", "?", "ok"),
    ("(b)", "!", "ok"),
    ("", None, "outside_label_set"),
    ("...", None, "outside_label_set"),
  ],
)
def test_options_of_nothing_but_marks(answer, label, status):
  found = read_label(answer, "choice_letter", ("?", "!", "x"), is_cut=False)
  assert found == (label, status)


def test_the_metric_of_a_form():
  assert answer_forms.get_metric("equation") == "equation"
  assert answer_forms.get_metric("free_text") == "exact_match"
