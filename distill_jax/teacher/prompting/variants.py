"""One way to label: which requests a question makes, and what the answers say.

Sends nothing and writes nothing: requests are found again by their keys, so a
record can be made as soon as, and as often as, the journal is read.
"""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import Any

from distill_jax.answers import finish_reasons, official_parsing, parsing
from distill_jax.data.records import Record
from distill_jax.errors import UserError
from distill_jax.teacher.asking import asking, exchange, journal
from distill_jax.teacher.filtering import voting
from distill_jax.teacher.prompting import prompts, template_files, templates

TOLERANT, STRICT = "tolerant", "strict"
FROM_ANSWER, FROM_REASONING = "answer", "reasoning"
# Where a server leaves the reasoning inside the answer.
_THINKING = re.compile(r"\s*<think>(.*?)</think>", re.DOTALL)


@dataclasses.dataclass(frozen=True)
class Variant:
  """All that decides requests and how their outputs are read.

  Attributes:
    template: the prompt.
    models: the teachers, by their server's names.
    endpoint: "chat" or "completions".
    temperature: of sampling; None: the server's.
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
    send_stop: send the template's stop texts; where a model refuses them, they
      end its answers here.
    extra_parameters: of the API, such as {"reasoning_effort": "low"}.
    rationale_from: "answer", or "reasoning" for what a reasoning model thought.
    teacher_settings: model -> its own of `asking.FIELDS`.
    addresses: model -> its server, which the journal keeps.
  """

  template: templates.PromptTemplate
  models: tuple[str, ...]
  endpoint: exchange.Endpoint = "chat"
  temperature: float | None = 0.0
  top_p: float | None = None
  seed: int | None = 0
  num_samples: int = 1
  max_tokens: int | None = None
  max_tokens_field: exchange.MaxTokensField = "max_tokens"
  parse: str = TOLERANT
  accuracies: Mapping[str, float] | None = None
  send_stop: bool = True
  extra_parameters: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  rationale_from: str = FROM_ANSWER
  teacher_settings: Mapping[str, Mapping[str, Any]] = dataclasses.field(
    default_factory=dict
  )
  addresses: Mapping[str, str] = dataclasses.field(default_factory=dict)
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
    """Returns what decides the records, as JSON holds it.

    What came later is in it where it is not at its default, so that what older
    versions wrote down is still the same.
    """
    fields = {
      field.name: getattr(self, field.name)
      for field in dataclasses.fields(self)
      if field.name not in ("template", "reading", "addresses")
    }
    for name, default in _LATER_FIELDS.items():
      if fields[name] == default:
        del fields[name]
    return {
      **fields,
      "models": list(self.models),
      "accuracies": None if self.accuracies is None else dict(self.accuracies),
      "prompt": self.template.name,
      "order": self.template.order,
    }

  def get_asking(self, model: str) -> dict[str, Any]:
    """Returns how a teacher is asked: the fields that are its own, or all's."""
    own = self.teacher_settings.get(model, {})
    return {name: own.get(name, getattr(self, name)) for name in asking.FIELDS}


_LATER_FIELDS: dict[str, Any] = {
  "send_stop": True,
  "extra_parameters": {},
  "rationale_from": FROM_ANSWER,
  "teacher_settings": {},
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
        sample_index=sample_index,
        address=variant.addresses.get(model),
        **variant.get_asking(model),
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
  variant: Variant,
  response: exchange.Response,
  question: Record,
  model: str | None = None,
) -> parsing.ParsedOutput:
  """Reads one answer as the variant says.

  Args:
    variant: gives `parse`.
    response: the answer.
    question: what was asked.
    model: the teacher asked; None: the first.

  Returns:
    Rationale, label and status. Blanks, which the strict reading writes for
    what it does not find, are None.
  """
  choices = None
  if variant.reading.answer_form == "choice_letter":
    choices = prompts.find_options(question.input, question.meta) or ()
  text, finish_reason = _end_answer(variant, response, model)
  is_broken = finish_reasons.is_broken_off(finish_reason)
  if is_broken:
    parsed = parsing.ParsedOutput(None, None, "truncated")
  elif variant.parse == STRICT:
    parsed = official_parsing.parse_output(
      text, variant.template.name, STRICT, choices
    )
  else:
    parsed = parsing.parse_with_format(
      text, variant.reading.output_format, choices, finish_reason
    )
  rationale, status = _none_if_blank(parsed.rationale), parsed.status
  if variant.rationale_from == FROM_REASONING and not is_broken:
    rationale = _find_reasoning(response)
    if status in ("ok", "empty_rationale"):
      status = "ok" if rationale else "empty_rationale"
  return parsing.ParsedOutput(
    rationale=rationale, label=_none_if_blank(parsed.label), status=status
  )


def _end_answer(
  variant: Variant, response: exchange.Response, model: str | None
) -> tuple[str, str | None]:
  """Ends an answer where the server would have, had it been sent the stops."""
  text, finish_reason = response.text, response.finish_reason
  settings = variant.get_asking(
    model if model is not None else variant.models[0]
  )
  if settings["send_stop"]:
    return text, finish_reason
  ends = [
    place for stop in variant.template.stop if (place := text.find(stop)) >= 0
  ]
  return (text[: min(ends)], "stop") if ends else (text, finish_reason)


def _find_reasoning(response: exchange.Response) -> str | None:
  if response.reasoning is not None:
    return _none_if_blank(response.reasoning.strip())
  thinking = _THINKING.match(response.text)
  return _none_if_blank(thinking[1].strip()) if thinking else None


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
      voting.Answer(read_output(variant, response, question, model), model)
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
  if not asking.is_whole(variant.num_samples, 1):
    raise UserError(
      f"NUM_SAMPLES is {variant.num_samples!r}, and must be a whole number"
      " above 0."
    )
  if variant.rationale_from not in (FROM_ANSWER, FROM_REASONING):
    raise UserError(
      f"RATIONALE_FROM is {variant.rationale_from!r}; it must be"
      f" {FROM_ANSWER!r} or {FROM_REASONING!r}."
    )
  asking.check(
    {name: getattr(variant, name) for name in asking.FIELDS},
    variant.num_samples,
  )
  for model in variant.models:
    if variant.teacher_settings.get(model):
      try:
        asking.check(variant.get_asking(model), variant.num_samples)
      except UserError as error:
        raise UserError(f"TEACHER_MODEL, {model!r}: {error}") from error
  _check_parse(variant)
  _check_accuracies(variant)


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
    asking.is_within(value, 0, 1) for value in accuracies.values()
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
