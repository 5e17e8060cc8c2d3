"""Tests of template_files.py: the templates that ship, and a user's."""

import json
import re

import pytest
import toy_template

from distill_jax.answers import arithmetic, official_parsing, parsing
from distill_jax.answers.answer_choices import read_choices
from distill_jax.data.sources import official, word_problems
from distill_jax.errors import UserError
from distill_jax.teacher.prompting import template_files, templates

_ORDERS = ("rationale_first", "label_first")


def test_a_template_for_each_data_set_ships():
  assert template_files.list_shipped() == sorted(
    [*official_parsing.FORMATS, "word_problems"]
  )


@pytest.mark.parametrize("order", _ORDERS)
@pytest.mark.parametrize("name", template_files.list_shipped())
def test_shipped_templates(name, order):
  template = template_files.load_template(name, order)
  assert (template.name, template.order) == (name, order)
  assert 6 <= len(template.exemplars) <= 8
  inputs = {exemplar.input for exemplar in template.exemplars}
  assert len(inputs) == len(template.exemplars)
  for exemplar in template.exemplars:
    choices = read_choices(exemplar.input)
    answer = templates.write_answer(template, exemplar)
    # With and without the server's word on why it ended, and going on.
    for finish_reason, rest in (
      ("stop", ""),
      (None, f"\n\n{template.fields[0]} next"),
      ("length", f"\n\n{template.fields[0]} ne"),
    ):
      parsed = parsing.parse_with_format(
        answer + rest, template.output_format, choices, finish_reason
      )
      assert parsed == parsing.ParsedOutput(
        exemplar.rationale, exemplar.label, "ok"
      )


@pytest.mark.parametrize("name", ["svamp", "asdiv", "word_problems"])
def test_the_arithmetic_of_exemplars_is_right(name):
  for exemplar in template_files.load_template(name).exemplars:
    sides = re.findall(
      r"((?:[0-9.]+ [-+*/] )+[0-9.]+) = ([0-9.]*[0-9])", exemplar.rationale
    )
    assert sides
    for equation, value in sides:
      assert arithmetic.equations_equal(equation, value)
    assert arithmetic.equations_equal(exemplar.label, sides[-1][1])


def test_all_labels_of_the_nli_sets_are_shown():
  for name in ("anli1", "esnli"):
    template = template_files.load_template(name)
    assert template.labels == official.NLI_LABELS
    shown = {exemplar.label for exemplar in template.exemplars}
    assert shown == set(official.NLI_LABELS)
    # The separator is that of the records.
    row = official.format_nli_row("A man.", "A person.", 0)
    assert templates.write_question(template, row.input) == (
      "Premise: A man.\nHypothesis: A person."
    )


def test_word_problems_are_written_as_they_are_generated():
  template = template_files.load_template("word_problems")
  records = word_problems.make_records("train", num_train_examples=300)
  words = {word for record in records for word in record.input.split()}
  for exemplar in template.exemplars:
    assert set(exemplar.input.split()) <= words
  for record in records[:20]:
    answer = f"{record.rationale} the answer is {record.label} ."
    parsed = parsing.parse_with_format(answer, template.output_format)
    assert parsed == parsing.ParsedOutput(record.rationale, record.label, "ok")


# --- A user's template ------------------------------------------------------


def test_a_new_data_set_is_one_file(tmp_path):
  template = toy_template.load(tmp_path)
  parsed = parsing.parse_with_format(
    " Fire burns. So the answer is No.", template.output_format
  )
  assert parsed == parsing.ParsedOutput("Fire burns.", "no", "ok")
  # What a chat model repeats of the exemplars' form is no rationale.
  parsed = parsing.parse_with_format(
    "A: Fire burns. The answer is no.", template.output_format
  )
  assert parsed.rationale == "Fire burns."


@pytest.mark.parametrize(
  "field, line, message",
  [
    ("name", "", r"mine\.toml: name: missing; give text"),
    ("name", 'name = " "', r"mine\.toml: .*name: is blank"),
    ("max_tokens", "max_tokens = true", "max_tokens: True is not a whole n"),
    ("max_tokens", "max_tokens = 0", "max_tokens: 0 is not above 0"),
    ("max_tokens", "max_token = 5", "max_token: unknown .* mean max_tokens?"),
    ("stop", 'stop = ["a", 1]', "stop: .* is not all texts"),
    ("stop", 'stop = ["a", ""]', "stop: holds an empty text"),
    ("stop", 'stop = ["a","b","c","d","e"]', "stop: has 5 texts; servers"),
    ("stop", 'stop = ["wets"]', "exemplar 1: rationale: holds the stop text"),
    ("answer_form", 'answer_form = "letter"', "answer_form: 'letter' is none"),
    ("labels", "", "labels: list two or more"),
    ("labels", 'labels = ["no", "no"]', "labels: holds a label twice"),
    ("labels", 'labels = ["no", "maybe"]', "exemplar 1: label: .*is read as"),
    ("fields", "fields = []", "fields: is empty"),
    ("fields", 'fields = ["Q:"]', "input_separator: give what divides"),
    ("input_separator", "", "input_separator: give what divides"),
    ("input_separator", 'input_separator = "It"', r"exemplar 1: input: has 3"),
    ("answer_marker", 'answer_marker = ""', "answer_marker: is blank"),
    (
      "answer_prefix",
      'rationale_separator = "-"',
      "rationale_separator: is not white",
    ),
    ("instruction", "instruction = 3", "instruction: 3 is not text"),
    ("instruction", 'order = "both"', "order: 'both' is none of"),
    ("rationale", 'rationale = ""', "exemplar 1: label: .*empty_rationale"),
    ("rationale", "", "exemplar 1: rationale: missing"),
    ("rationale", 'reason = "x"', "exemplar 1: reason: unknown field"),
    ("instruction", "= 3", r"mine\.toml is not TOML"),
  ],
)
def test_errors_name_file_and_field(tmp_path, field, line, message):
  with pytest.raises(UserError, match=message) as error:
    toy_template.load(tmp_path, **{field: line})
  assert "mine.toml" in str(error.value)


def test_exemplars_must_be_there_and_list_their_options(tmp_path):
  head, *_ = toy_template.TEXT.partition("[[exemplar]]")
  with pytest.raises(UserError, match="exemplar: missing; give a list"):
    template_files.load_template(toy_template.write(tmp_path, head))
  with pytest.raises(UserError, match=r"mine\.toml.*exemplar: there is none"):
    template_files.load_template(
      toy_template.write(tmp_path, f"{head}exemplar = []")
    )
  with pytest.raises(UserError, match="exemplar 1: 'x' is not a table"):
    template_files.load_template(
      toy_template.write(tmp_path, f'{head}exemplar = ["x"]')
    )
  letters = head.replace("closed_set", "choice_letter")
  letters = re.sub(r"(?m)^(labels|input_sep).*\n", "", letters)
  letters = letters.replace(', "Claim:"', "") + "[[exemplar]]\n"
  with pytest.raises(UserError, match='does not end in a line "Answer Choi'):
    exemplar = 'input = "x"\nrationale = "R."\nlabel = "x"'
    template_files.load_template(
      toy_template.write(tmp_path, letters + exemplar)
    )
  with pytest.raises(UserError, match="label: 'sea' is none of the options"):
    exemplar = 'rationale = "R."\nlabel = "sea"'
    options = "Where?\nAnswer Choices:\n(a) bank\n(b) mall"
    exemplar += f"\ninput = {json.dumps(options)}"
    template_files.load_template(
      toy_template.write(tmp_path, letters + exemplar)
    )


def test_templates_that_are_not_there(tmp_path):
  with pytest.raises(UserError, match="PROMPT is 'imdb', .*anli1, asdiv"):
    template_files.load_template("imdb")
  with pytest.raises(UserError, match="PROMPT is '../prompts'"):
    template_files.load_template("../prompts")
  with pytest.raises(UserError, match=r"none\.toml cannot be read"):
    template_files.load_template(str(tmp_path / "none.toml"))
  path = tmp_path / "mine.toml"
  path.write_bytes(b"name = '\xff'")
  with pytest.raises(UserError, match="is not TOML in UTF-8"):
    template_files.load_template(str(path))
  path.write_text("#" * (1 << 20) + "#")
  with pytest.raises(UserError, match="more than 1048576 bytes"):
    template_files.load_template(str(path))
  path.write_text("x = " + "[" * 100_000)
  with pytest.raises(UserError, match="is not TOML"):
    template_files.load_template(str(path))


def test_an_override_is_checked_too(tmp_path):
  with pytest.raises(UserError, match="order: 'both' is none of"):
    template_files.load_template("svamp", "both")  # type: ignore[arg-type]
