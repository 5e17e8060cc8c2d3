"""Few-shot prompt templates: their parts, and how each part is written.

Owns what a template is, what may not be in one, and how questions and
exemplars' answers are written with its field names and markers. Reads no file
and makes no request.

A template describes its parts; both orders and both endpoints are written from
them. With `order = "rationale_first"`, the parts of one exemplar stand so:

  Q: <input>                         a line for each of `fields`
  A: <rationale> The answer is (3 + 4).
  |              |             |      |
  answer_prefix  answer_marker answer answer_end

A question is untrusted. It is put in by concatenation and nothing in it is
looked at, save for the separator that divides it into its fields.
"""

import dataclasses
import functools
from typing import get_args

from distill_jax.answers import answer_forms, answer_markers, parsing
from distill_jax.answers.answer_choices import read_choices
from distill_jax.errors import UserError

_MAX_STOPS = 4  # As many as OpenAI's API takes.


@dataclasses.dataclass(frozen=True)
class Exemplar:
  """A question answered for the teacher to imitate.

  Attributes:
    input: in the form of a record's input.
    rationale: the reasoning.
    label: in the form of a record's label; of options, the option's text.
  """

  input: str
  rationale: str
  label: str


@dataclasses.dataclass(frozen=True)
class PromptTemplate:
  """All that decides a prompt but the question.

  Attributes:
    name: of the template.
    answer_form: how the answer is written, see `parsing.OutputFormat`.
    labels: the closed set, where the form is "closed_set".
    order: what comes first; the other order needs no other file.
    instruction: the task in words, the system message of a chat. What order
      the answer has is added to it.
    fields: what is written before each part of an input, "Q:" or "Premise:",
      "Hypothesis:".
    input_separator: what divides a record's input into its fields; "" where
      there is one field.
    answer_prefix: what opens the answer in a completion: "A:"; "" for none.
    rationale_marker: what stands before the rationale: "Reasonings:"; "" for
      none.
    answer_marker: what stands before the answer: "The answer is".
    answer_end: what stands after it: ".".
    rationale_separator: what divides rationale and answer marker, " " or a
      line break. In the other order a line break divides them.
    stop: where the server shall end the output.
    max_tokens: most tokens of an output.
    exemplars: the shots, in the order they are shown.
  """

  name: str
  answer_form: answer_forms.AnswerForm
  fields: tuple[str, ...]
  answer_marker: str
  stop: tuple[str, ...]
  max_tokens: int
  exemplars: tuple[Exemplar, ...]
  labels: tuple[str, ...] = ()
  order: parsing.Order = "rationale_first"
  instruction: str = ""
  input_separator: str = ""
  answer_prefix: str = ""
  rationale_marker: str = ""
  answer_end: str = ""
  rationale_separator: str = " "

  def __post_init__(self):
    for field, problem in _find_problems(self):
      raise UserError(f"Prompt template {self.name!r}: {field}: {problem}")

  @functools.cached_property
  def output_format(self) -> parsing.OutputFormat:
    """How outputs are read; see `parsing.parse_with_format`."""
    return parsing.OutputFormat(
      answer_form=self.answer_form,
      marker=answer_markers.compile_marker(self.answer_marker),
      stop=self.stop,
      labels=self.labels,
      order=self.order,
      answer_end=self.answer_end,
      # A chat model may begin as the exemplars of a completion do.
      rationale_prefixes=tuple(
        filter(None, (self.answer_prefix, self.rationale_marker))
      ),
      fields=self.fields,
    )

  @functools.cached_property
  def completion_exemplars(self) -> str:
    """The exemplars as one text opens with them."""
    return "".join(
      f"{write_question(self, exemplar.input)}\n"
      + join(self.answer_prefix, write_answer(self, exemplar))
      + "\n\n"
      for exemplar in self.exemplars
    )

  @functools.cached_property
  def chat_exemplars(self) -> tuple[dict[str, str], ...]:
    """The turns before a question: the instruction and the exemplars."""
    system = join(self.instruction, _describe_order(self))
    messages = [{"role": "system", "content": system}]
    for exemplar in self.exemplars:
      question = write_question(self, exemplar.input)
      answer = write_answer(self, exemplar)
      messages.append({"role": "user", "content": question})
      messages.append({"role": "assistant", "content": answer})
    return tuple(messages)


def write_question(template: PromptTemplate, record_input: str) -> str:
  """Writes an input with its field names.

  Args:
    template: the template.
    record_input: a record's input. It is divided at the first separators; what
      further ones it holds are part of its last field.

  Returns:
    A line for each field, or more where the input has line breaks.

  Raises:
    UserError: the input has fewer parts than the template has fields.
  """
  parts = [record_input]
  if template.input_separator:
    parts = record_input.split(
      template.input_separator, maxsplit=len(template.fields) - 1
    )
  if len(parts) < len(template.fields):
    raise UserError(
      f"An input has {len(parts)} part(s), where prompt template"
      f" {template.name!r} asks for {', '.join(template.fields)} divided by"
      f" {template.input_separator!r}: {record_input[:200]!r}. Complete the"
      " input, or choose another PROMPT."
    )
  return "\n".join(map(join, template.fields, parts))


def write_answer(template: PromptTemplate, exemplar: Exemplar) -> str:
  """Writes an exemplar's answer as the teacher shall write it.

  Args:
    template: the template.
    exemplar: of it.

  Returns:
    Rationale and answer in the template's order.
  """
  rationale = join(template.rationale_marker, exemplar.rationale)
  answer = join(get_answer_marker(template), _write_label(template, exemplar))
  answer += template.answer_end
  if template.order == "label_first":
    return f"{answer}\n{rationale}"
  return f"{rationale}{template.rationale_separator}{answer}"


def _write_label(template: PromptTemplate, exemplar: Exemplar) -> str:
  if template.answer_form != "choice_letter":
    return exemplar.label
  options = read_choices(exemplar.input) or ()
  letter = chr(ord("a") + options.index(exemplar.label))
  return f"({letter}) {exemplar.label}"


def get_answer_marker(template: PromptTemplate) -> str:
  """Returns the answer's marker; at the start it follows from nothing."""
  marker = template.answer_marker
  if template.order == "label_first" and marker.startswith("So "):
    return marker[3].upper() + marker[4:]
  return marker


def _describe_order(template: PromptTemplate) -> str:
  marker = get_answer_marker(template)
  if template.order == "label_first":
    return (
      f'First write "{marker}" and the answer; then, on a new line, the'
      " reasoning."
    )
  return f'First write the reasoning; then end with "{marker}" and the answer.'


def join(first: str, second: str) -> str:
  """Joins two texts by a blank, which either may do without."""
  return f"{first} {second}" if first and second else first + second


def _find_problems(template: PromptTemplate):
  """Yields (field, what is wrong with it and what to do)."""
  for field, type_ in (
    ("answer_form", answer_forms.AnswerForm),
    ("order", parsing.Order),
  ):
    value = getattr(template, field)
    if value not in get_args(type_):
      yield field, f"{value!r} is none of {', '.join(get_args(type_))}."
  if not template.name.strip():
    yield "name", "is blank; give one."
  if not template.answer_marker.strip():
    yield "answer_marker", "is blank; no answer could be found without it."
  if (template.answer_form == "closed_set") != bool(template.labels):
    yield (
      "labels",
      "list two or more for answer_form closed_set, and none for another.",
    )
  if len(set(template.labels)) != len(template.labels):
    yield "labels", "holds a label twice."
  if not template.fields:
    yield "fields", 'is empty; give what stands before the input, such as "Q:".'
  if (len(template.fields) > 1) != bool(template.input_separator):
    yield (
      "input_separator",
      "give what divides an input where there are several fields, and nothing"
      " where there is one.",
    )
  if not template.exemplars:
    yield "exemplar", "there is none; give at least one [[exemplar]]."
  if not 0 < template.max_tokens:
    yield "max_tokens", f"{template.max_tokens} is not above 0."
  if len(template.stop) > _MAX_STOPS:
    yield "stop", f"has {len(template.stop)} texts; servers take {_MAX_STOPS}."
  if not all(template.stop):
    yield "stop", "holds an empty text, at which every output would end."
  if template.rationale_separator.strip() or not template.rationale_separator:
    yield "rationale_separator", "is not white space."
  for number, exemplar in enumerate(template.exemplars, start=1):
    for field, problem in _find_exemplar_problems(template, exemplar):
      yield f"exemplar {number}: {field}", problem


def _find_exemplar_problems(template: PromptTemplate, exemplar: Exemplar):
  num_parts = 1
  if template.input_separator:
    num_parts = len(exemplar.input.split(template.input_separator))
  if num_parts != len(template.fields):
    yield (
      "input",
      f"has {num_parts} part(s) divided by {template.input_separator!r}, and"
      f" there are {len(template.fields)} fields.",
    )
  options = None
  if template.answer_form == "choice_letter":
    options = read_choices(exemplar.input)
    if options is None:
      yield (
        "input",
        'does not end in a line "Answer Choices:" with "(a) ...", "(b) ..."'
        " below it.",
      )
    elif exemplar.label not in options:
      yield "label", f"{exemplar.label!r} is none of the options."
  answer = write_answer(template, exemplar)
  for stop in template.stop:
    if stop in answer:
      yield "rationale", f"holds the stop text {stop!r}; outputs end there."
  parsed = parsing.parse_with_format(
    answer, template.output_format, options, finish_reason="stop"
  )
  expected = (exemplar.rationale.strip(), exemplar.label, "ok")
  if (parsed.rationale, parsed.label, parsed.status) != expected:
    yield (
      "label",
      f"the answer {answer!r} is read as {parsed.label!r} with rationale"
      f" {parsed.rationale!r} and status {parsed.status}. Mend label,"
      " rationale or answer_marker.",
    )
