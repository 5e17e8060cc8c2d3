"""Tests of data/sources/word_problem_templates.py."""

import string

import pytest

from distill_jax.data.sources import word_problem_templates as templates

_WORDS = {
  "name",
  "other_name",
  "things",
  "other_things",
  "boxes",
  "other_boxes",
  "coins",
}


def _list_fields(template):
  return [
    field for _, field, _, _ in string.Formatter().parse(template) if field
  ]


@pytest.mark.parametrize("kind", templates.STEPS)
def test_sentences_and_clause_of_a_step_hold_its_numbers(kind):
  step = templates.STEPS[kind]
  numbers = ["number", "start"] if step.is_opening else ["number"]
  for template in (*step.sentences, step.clause):
    fields = _list_fields(template)
    assert sorted(set(fields) - _WORDS) == numbers
    assert all(fields.count(number) == 1 for number in numbers)
  assert set(_list_fields(step.question)) <= _WORDS


@pytest.mark.parametrize("kind", templates.STEPS)
def test_mistaken_step_computes_something_else(kind):
  step = templates.STEPS[kind]
  other = templates.STEPS[step.mistaken_for]
  assert other.symbol != step.symbol
  # A confused second step must not need a starting number of its own.
  assert not other.is_opening


def test_openings_and_distractors_hold_their_number():
  for template in (*templates.OPENING_SENTENCES, templates.OPENING_CLAUSE):
    assert sorted(set(_list_fields(template)) - _WORDS) == ["start"]
  for template in templates.DISTRACTORS:
    assert set(_list_fields(template)) - _WORDS == {"number"}


def test_only_the_first_step_of_a_plan_opens():
  plans = templates.ONE_STEP_PLANS + templates.TWO_STEP_PLANS
  assert len(set(plans)) == len(plans)
  for _, *later in plans:
    assert not any(templates.STEPS[kind].is_opening for kind in later)


def test_text_is_lower_case_with_spaced_punctuation():
  for step in templates.STEPS.values():
    for template in (*step.sentences, step.clause, step.question):
      text = string.Formatter().vformat(
        template, (), dict.fromkeys(_list_fields(template), "x")
      )
      *words, end = text.split(" ")
      assert end in (".", "?") and all(map(str.isalpha, words)), text
      assert text == text.lower()
