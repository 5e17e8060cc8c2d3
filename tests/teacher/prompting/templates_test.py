"""Tests of templates.py; what files may hold, in template_files_test.py."""

import dataclasses

import pytest
import toy_template

from distill_jax.errors import UserError
from distill_jax.teacher.prompting import template_files, templates


@pytest.mark.parametrize(
  "order, marker, answer",
  [
    (
      "rationale_first",
      "So the answer is",
      "Rain wets. So the answer is yes.",
    ),
    # Nothing precedes it that "So" could follow from.
    ("label_first", "The answer is", "The answer is yes.\nRain wets."),
  ],
)
def test_an_answer_in_both_orders(tmp_path, order, marker, answer):
  template = toy_template.load(tmp_path, order)
  assert templates.get_answer_marker(template) == marker
  assert templates.write_answer(template, template.exemplars[0]) == answer


def test_options_are_answered_by_letter_and_text():
  template = template_files.load_template("cqa")
  exemplar = templates.Exemplar(
    "Where?\nAnswer Choices:\n(a) bank\n(b) mall", "Shops.", "mall"
  )
  answer = templates.write_answer(template, exemplar)
  assert answer == "Shops. So the answer is (b) mall."


def test_an_input_without_its_fields_is_refused():
  template = template_files.load_template("esnli")
  with pytest.raises(UserError, match=r"has 1 part\(s\).*Premise:, Hypothesis"):
    templates.write_question(template, "only a premise")
  # Of several separators the first divides.
  question = templates.write_question(template, "P</s>H</s>more")
  assert question == "Premise: P\nHypothesis: H</s>more"


def test_a_template_that_code_makes_is_checked_too(tmp_path):
  template = toy_template.load(tmp_path)
  with pytest.raises(UserError, match="'mine': max_tokens: -1 is not above 0"):
    dataclasses.replace(template, max_tokens=-1)
  with pytest.raises(UserError, match="exemplar 1: label: .*is read as 'yes'"):
    dataclasses.replace(
      template, exemplars=(templates.Exemplar("A ||| B", "R.", "Yes"),)
    )
