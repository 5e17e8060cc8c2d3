"""One way to label: which requests a question makes, and what the answers say.

Layer 2; imports errors, data.records and, of its own folder, exchange, journal,
official_parsing, parsing, prompts, template_files, templates and voting. Sends
nothing and writes nothing: requests are found again by their keys, so a record
can be made as soon as, and as often as, the journal is read.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from distill_jax.data.records import Record
from distill_jax.errors import UserError
from distill_jax.teacher import (
  exchange,
  journal,
  official_parsing,
  parsing,
  prompts,
  template_files,
  templates,
  voting,
)

TOLERANT, STRICT = "tolerant", "strict"


@dataclasses.dataclass(frozen=True)
class Variant:
  """All that decides requests and how their outputs are read.

  Attributes:
    template: the prompt.
    models: the teachers, by their server's names.
    endpoint: "chat" or "completions".
    temperature: of sampling.
    top_p: of sampling; None: the server's.
    seed: of the first sample; None: none is sent.
    num_samples: answers asked of each teacher.
    max_tokens: most tokens of an output; None: the template's.
    max_tokens_field: what the server calls that; newer models of OpenAI's know
      "max_completion_tokens" alone.
    parse: "tolerant"; "strict", the rules of the authors' code for the data set
      the template is named after; or another template's name or path, in whose
      form the outputs are read.
    accuracies: teacher -> share of right answers, which weighs its vote; None:
      all votes weigh the same.
  """

  template: templates.PromptTemplate
  models: tuple[str, ...]
  endpoint: exchange.Endpoint = "chat"
  temperature: float = 0.0
  top_p: float | None = None
  seed: int | None = 0
  num_samples: int = 1
  max_tokens: int | None = None
  max_tokens_field: exchange.MaxTokensField = "max_tokens"
  parse: str = TOLERANT
  accuracies: Mapping[str, float] | None = None
  # Whose answer form the outputs are read in.
  reading: templates.PromptTemplate = dataclasses.field(init=False)

  def __post_init__(self):
    _check(self)
    reading = self.template
    if self.parse not in (TOLERANT, STRICT):
      try:
        reading = template_files.load_template(self.parse)
      except UserError as error:
        raise UserError(
          f"PARSE is {self.parse!r}; it is {TOLERANT!r}, {STRICT!r}, or names"
          f" a template. {error}"
        ) from error
    object.__setattr__(self, "reading", reading)

  def describe(self) -> dict[str, Any]:
    """Returns what decides the records, as JSON holds it."""
    fields = {
      field.name: getattr(self, field.name)
      for field in dataclasses.fields(self)
      if field.name not in ("template", "reading")
    }
    return {
      **fields,
      "models": list(self.models),
      "accuracies": None if self.accuracies is None else dict(self.accuracies),
      "prompt": self.template.name,
      "order": self.template.order,
    }


@dataclasses.dataclass(frozen=True)
class Outcome:
  """What is known of one question.

  Attributes:
    record: its record; None while a request of it is open.
    responses: the answers, each with the teacher asked, those without text
      among them.
    failures: of requests that failed for good, or whose answer has no text.
    num_open: requests without either.
  """

  record: Record | None
  responses: tuple[tuple[str, exchange.Response], ...]
  failures: tuple[journal.Failure, ...]
  num_open: int


def make_requests(variant: Variant, question: Record) -> list[exchange.Request]:
  """Makes all requests of a question, by teacher, then by sample.

  Args:
    variant: the way to ask.
    question: a record, of which only the input is used.

  Returns:
    `num_samples` requests for each of the models.

  Raises:
    UserError: the input does not fit the template. Names the question.
  """
  try:
    return [
      prompts.make_request(
        variant.template,
        question.input,
        model=model,
        endpoint=variant.endpoint,
        temperature=variant.temperature,
        seed=variant.seed,
        sample_index=sample_index,
        max_tokens=variant.max_tokens,
        max_tokens_field=variant.max_tokens_field,
        top_p=variant.top_p,
      )
      for model in variant.models
      for sample_index in range(variant.num_samples)
    ]
  except UserError as error:
    raise UserError(f"Question {question.id!r}: {error}") from error


def check_question(variant: Variant, question: Record) -> None:
  """Refuses a question whose answers could not be read.

  Args:
    variant: the way to read.
    question: a record.

  Raises:
    UserError: the answer is a choice, and the question has no options.
  """
  if variant.reading.answer_form != "choice_letter":
    return
  if prompts.find_options(question.input, question.meta) is None:
    raise UserError(
      f"Question {question.id!r} has no options, and answers to prompt template"
      f" {variant.reading.name!r} choose one. End the input in a line 'Answer"
      " Choices:' with '(a) ...' and '(b) ...' below it, or give them as a list"
      " in meta.choices."
    )


def find_outcome(
  variant: Variant, question: Record, answers: journal.Answers
) -> Outcome:
  """Finds the answers to a question and makes its record of them.

  A request that failed for good is no answer and has no vote, and neither has
  an answer without text; both lower the confidence. Where all are such, the
  record has neither label, rationale, teacher nor status. Their kinds are in
  `meta.failures`.

  Args:
    variant: the way it was asked, and is read.
    question: a record; what a teacher said before is replaced.
    answers: the journals.

  Returns:
    The outcome.

  Raises:
    UserError: as `make_requests`, or a journal cannot be read.
  """
  responses, failures, failed_teachers, num_open = [], [], [], 0
  for request in make_requests(variant, question):
    key = request.key
    if (response := answers.read_response(key)) is not None:
      responses.append((request.model, response))
      if not response.is_answered:
        failures.append(
          journal.Failure(
            response.status,
            response.problem or "",
            True,
            response.num_attempts,
          )
        )
        failed_teachers.append(request.model)
    elif answers.has_final_failure(key):
      failure = answers.read_failure(key)
      assert failure is not None
      failures.append(failure)
      failed_teachers.append(request.model)
    else:
      num_open += 1
  record = None
  if num_open == 0:
    readable = [pair for pair in responses if pair[1].is_answered]
    record = _make_record(
      variant, question, readable, failures, failed_teachers
    )
  return Outcome(record, tuple(responses), tuple(failures), num_open)


def read_output(
  variant: Variant, response: exchange.Response, question: Record
) -> parsing.ParsedOutput:
  """Reads one answer as the variant says.

  Args:
    variant: gives `parse`.
    response: the answer.
    question: what was asked.

  Returns:
    Rationale, label and status. Blanks, which the strict reading writes for
    what it does not find, are None.
  """
  choices = None
  if variant.reading.answer_form == "choice_letter":
    choices = prompts.find_options(question.input, question.meta) or ()
  if parsing.is_broken(response.finish_reason):
    parsed = parsing.ParsedOutput(None, None, "truncated")
  elif variant.parse == STRICT:
    parsed = official_parsing.parse_output(
      response.text, variant.template.name, STRICT, choices
    )
  else:
    parsed = parsing.parse_with_format(
      response.text,
      variant.reading.output_format,
      choices,
      response.finish_reason,
    )
  return parsing.ParsedOutput(
    rationale=_none_if_blank(parsed.rationale),
    label=_none_if_blank(parsed.label),
    status=parsed.status,
  )


def _make_record(
  variant: Variant,
  question: Record,
  responses: Sequence[tuple[str, exchange.Response]],
  failures: Sequence[journal.Failure],
  failed_teachers: Sequence[str],
) -> Record:
  # A question that was labelled before says nothing of this vote.
  meta = {
    name: value
    for name, value in question.meta.items()
    if name not in voting.META_FIELDS
  }
  if failures:
    meta["failures"] = [failure.kind for failure in failures]
  blank = dataclasses.replace(
    question,
    rationale=None,
    teacher_label=None,
    teacher=None,
    status=None,
    meta=meta,
  )
  if not responses:
    return blank
  vote = voting.take_vote(
    [
      voting.Answer(read_output(variant, response, question), model)
      for model, response in responses
    ],
    variant.reading.answer_form,
    variant.accuracies,
    failed_teachers,
  )
  return voting.apply_vote(blank, vote)


def _none_if_blank(text: str | None) -> str | None:
  return text if text and text.strip() else None


def _check(variant: Variant) -> None:
  if variant.endpoint not in ("chat", "completions"):
    raise UserError(
      f"ENDPOINT is {variant.endpoint!r}; it must be 'chat' or 'completions'."
    )
  if variant.max_tokens_field not in exchange.MAX_TOKENS_FIELDS:
    raise UserError(
      f"MAX_TOKENS_FIELD is {variant.max_tokens_field!r}; it must be one of"
      f" {', '.join(map(repr, exchange.MAX_TOKENS_FIELDS))}."
    )
  if not variant.models or not all(
    isinstance(model, str) and model for model in variant.models
  ):
    raise UserError(
      f"TEACHER_MODEL is {list(variant.models)!r}; it is a model's name, as the"
      " server has it, or a list of such names."
    )
  if len(set(variant.models)) != len(variant.models):
    raise UserError(
      f"TEACHER_MODEL names a model twice: {list(variant.models)!r}. For"
      " several answers of one model give NUM_SAMPLES."
    )
  for macro, value, is_good in (
    ("NUM_SAMPLES", variant.num_samples, _is_whole(variant.num_samples, 1)),
    (
      "MAX_TOKENS",
      variant.max_tokens,
      variant.max_tokens is None or _is_whole(variant.max_tokens, 1),
    ),
    ("SEED", variant.seed, variant.seed is None or _is_whole(variant.seed, 0)),
    ("TEMPERATURE", variant.temperature, _is_within(variant.temperature, 0, 2)),
    (
      "TOP_P",
      variant.top_p,
      variant.top_p is None or _is_within(variant.top_p, 0, 1),
    ),
  ):
    if not is_good:
      raise UserError(f"{macro} is {value!r}, {_RANGES[macro]}.")
  if variant.num_samples > 1 and variant.temperature == 0:
    raise UserError(
      f"NUM_SAMPLES is {variant.num_samples} and TEMPERATURE is 0, at which all"
      " samples are the same and are paid for all the same. Give a TEMPERATURE"
      " above 0, such as 0.7."
    )
  _check_parse(variant)
  _check_accuracies(variant)


_RANGES = {
  "NUM_SAMPLES": "and must be a whole number above 0",
  "MAX_TOKENS": "and must be a whole number above 0, or None",
  "SEED": "and must be a whole number from 0 on, or None",
  "TEMPERATURE": "and must be a number from 0 to 2",
  "TOP_P": "and must be a number from 0 to 1, or None",
}


def _check_parse(variant: Variant) -> None:
  if variant.parse != STRICT:
    return
  known = official_parsing.FORMATS
  if variant.template.name not in known:
    raise UserError(
      f"PARSE is {STRICT!r}, which is known for the prompts"
      f" {', '.join(known)}; this one is {variant.template.name!r}. Give"
      f" {TOLERANT!r}."
    )
  if variant.template.order != "rationale_first":
    raise UserError(
      f"PARSE is {STRICT!r}, whose rules look for the rationale before the"
      f" label, and the prompt asks for the label first. Give {TOLERANT!r}."
    )


def _check_accuracies(variant: Variant) -> None:
  accuracies = variant.accuracies
  if accuracies is None:
    return
  if not isinstance(accuracies, Mapping) or not all(
    _is_within(value, 0, 1) for value in accuracies.values()
  ):
    raise UserError(
      f"TEACHER_ACCURACIES is {accuracies!r}; it is {{model: share of right"
      " answers, from 0 to 1}, or None."
    )
  if set(accuracies) != set(variant.models):
    raise UserError(
      f"TEACHER_ACCURACIES is of {sorted(accuracies)}, and the teachers are"
      f" {sorted(variant.models)}. Give one for each; --evaluate measures them."
    )


def _is_whole(value: Any, least: int) -> bool:
  is_int = isinstance(value, int) and not isinstance(value, bool)
  return is_int and value >= least


def _is_within(value: Any, low: float, high: float) -> bool:
  is_number = isinstance(value, int | float) and not isinstance(value, bool)
  return is_number and low <= value <= high
