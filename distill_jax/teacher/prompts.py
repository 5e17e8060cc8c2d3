"""Few-shot prompts with rationales: one TOML file each, made into requests.

Owns the form of a template file, how its exemplars and a question become the
prompt of a completion or of a chat, and which output format they ask for.
Layer 2; imports errors, exchange and parsing. Sends nothing.

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
import difflib
import functools
import pathlib
import tomllib
from collections.abc import Mapping
from typing import Any, get_args

from distill_jax.data.answer_choices import read_choices
from distill_jax.errors import UserError
from distill_jax.teacher import exchange, parsing

_FILES = pathlib.Path(__file__).with_name("prompt_files")
_MAX_STOPS = 4  # As many as OpenAI's API takes.
_MAX_TEMPLATE_BYTES = 1 << 20


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
  answer_form: parsing.AnswerForm
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
      marker=parsing.compile_marker(self.answer_marker),
      stop=self.stop,
      labels=self.labels,
      order=self.order,
      answer_end=self.answer_end,
      # A chat model may begin as the exemplars of a completion do.
      rationale_prefixes=tuple(
        filter(None, (self.answer_prefix, self.rationale_marker))
      ),
    )

  @functools.cached_property
  def _completion_exemplars(self) -> str:
    return "".join(
      f"{write_question(self, exemplar.input)}\n"
      + _join(self.answer_prefix, write_answer(self, exemplar))
      + "\n\n"
      for exemplar in self.exemplars
    )

  @functools.cached_property
  def _chat_exemplars(self) -> tuple[dict[str, str], ...]:
    system = _join(self.instruction, _describe_order(self))
    messages = [{"role": "system", "content": system}]
    for exemplar in self.exemplars:
      question = write_question(self, exemplar.input)
      answer = write_answer(self, exemplar)
      messages.append({"role": "user", "content": question})
      messages.append({"role": "assistant", "content": answer})
    return tuple(messages)


def list_shipped() -> list[str]:
  """Returns the names of the templates that ship."""
  return sorted(path.stem for path in _FILES.glob("*.toml"))


def load_template(
  name_or_path: str, order: parsing.Order | None = None
) -> PromptTemplate:
  """Loads a template.

  Args:
    name_or_path: name of one that ships, or path of a TOML file, which must
      end in ".toml".
    order: overrides the file's; None: as the file says.

  Returns:
    The template, checked: each of its exemplars, written as the prompt writes
    it, is read back as what it was.

  Raises:
    UserError: there is no such template, or a field is missing, unknown, of
      the wrong type or does not fit the others. Names file and field.
  """
  if name_or_path in list_shipped():
    path = _FILES / f"{name_or_path}.toml"
  elif name_or_path.endswith(".toml"):
    path = pathlib.Path(name_or_path).expanduser()
  else:
    raise UserError(
      f"PROMPT is {name_or_path!r}, which is no template that ships"
      f" ({', '.join(list_shipped())}) and no path of a .toml file. Give one of"
      " these."
    )
  fields = _check_fields(_read_toml(path), _TEMPLATE_TYPES, f"{path}")
  exemplars = fields.pop("exemplar")
  fields["exemplars"] = tuple(
    Exemplar(
      **_check_fields(exemplar, _EXEMPLAR_TYPES, f"{path}: exemplar {number}")
    )
    for number, exemplar in enumerate(exemplars, start=1)
  )
  for name in ("fields", "stop", "labels"):
    if name in fields:
      fields[name] = tuple(fields[name])
  if order is not None:
    fields["order"] = order
  try:
    return PromptTemplate(**fields)
  except UserError as error:
    raise UserError(f"{path}: {error}") from error


# --- Prompts and requests ---------------------------------------------------


def make_request(
  template: PromptTemplate,
  record_input: str,
  *,
  model: str,
  endpoint: exchange.Endpoint,
  temperature: float = 0.0,
  seed: int | None = 0,
  sample_index: int = 0,
  max_tokens: int | None = None,
  top_p: float | None = None,
) -> exchange.Request:
  """Makes the request of one answer to one question.

  A completion is one text: exemplars and question, then `answer_prefix` and
  the marker of what comes first. A chat is a system message with the
  instruction, a user's and an assistant's turn for each exemplar, and the
  question as the last user's turn: servers put these into the form that the
  model was tuned on, and a question cannot leave its turn.

  Args:
    template: the template.
    record_input: the question, in the form of a record's input.
    model: the server's name of it.
    endpoint: "chat" or "completions".
    temperature: of sampling.
    seed: of sampling; sample i is asked for with seed + i, since servers give
      equal samples to equal seeds. None: no seed is sent.
    sample_index: which sample, from 0.
    max_tokens: overrides the template's.
    top_p: of sampling; None: not sent.

  Returns:
    The request.

  Raises:
    UserError: the endpoint is neither, or the input lacks a field.
  """
  if endpoint == "chat":
    question = write_question(template, record_input)
    last_turn = {"role": "user", "content": question}
    prompt = [*template._chat_exemplars, last_turn]
  elif endpoint == "completions":
    prompt = write_completion_prompt(template, record_input)
  else:
    raise UserError(
      f"ENDPOINT is {endpoint!r}; it must be 'chat' or 'completions'."
    )
  parameters: dict[str, Any] = {
    "temperature": temperature,
    "max_tokens": template.max_tokens if max_tokens is None else max_tokens,
  }
  if template.stop:
    parameters["stop"] = list(template.stop)
  if seed is not None:
    parameters["seed"] = seed + sample_index
  if top_p is not None:
    parameters["top_p"] = top_p
  return exchange.Request(model, endpoint, prompt, parameters, sample_index)


def write_completion_prompt(template: PromptTemplate, record_input: str) -> str:
  """Writes the prompt of a completion, without white space at its end.

  Args:
    template: the template.
    record_input: the question.

  Returns:
    Exemplars and question, up to where the teacher shall go on.

  Raises:
    UserError: the input lacks a field.
  """
  opening = (
    template.rationale_marker
    if template.order == "rationale_first"
    else _get_marker(template)
  )
  question = write_question(template, record_input)
  tail = _join(template.answer_prefix, opening)
  return template._completion_exemplars + question + ("\n" + tail).rstrip()


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
  return "\n".join(map(_join, template.fields, parts))


def write_answer(template: PromptTemplate, exemplar: Exemplar) -> str:
  """Writes an exemplar's answer as the teacher shall write it.

  Args:
    template: the template.
    exemplar: of it.

  Returns:
    Rationale and answer in the template's order.
  """
  rationale = _join(template.rationale_marker, exemplar.rationale)
  answer = _join(_get_marker(template), _write_label(template, exemplar))
  answer += template.answer_end
  if template.order == "label_first":
    return f"{answer}\n{rationale}"
  return f"{rationale}{template.rationale_separator}{answer}"


def find_options(
  record_input: str, meta: Mapping[str, Any]
) -> tuple[str, ...] | None:
  """Finds the options of a question.

  Args:
    record_input: a record's input.
    meta: the record's; its `choices`, where they are a list of texts, are
      the options.

  Returns:
    The options in the order of their letters, None where there are none.
  """
  choices = meta.get("choices")
  if isinstance(choices, list | tuple) and all(
    isinstance(choice, str) for choice in choices
  ):
    return tuple(choices)
  return read_choices(record_input)


def _write_label(template: PromptTemplate, exemplar: Exemplar) -> str:
  if template.answer_form != "choice_letter":
    return exemplar.label
  options = read_choices(exemplar.input) or ()
  letter = chr(ord("a") + options.index(exemplar.label))
  return f"({letter}) {exemplar.label}"


def _get_marker(template: PromptTemplate) -> str:
  """Returns the answer's marker, which follows from nothing at the start."""
  marker = template.answer_marker
  if template.order == "label_first" and marker.startswith("So "):
    return marker[3].upper() + marker[4:]
  return marker


def _describe_order(template: PromptTemplate) -> str:
  marker = _get_marker(template)
  if template.order == "label_first":
    return (
      f'First write "{marker}" and the answer; then, on a new line, the'
      " reasoning."
    )
  return f'First write the reasoning; then end with "{marker}" and the answer.'


def _join(first: str, second: str) -> str:
  """Joins two texts by a blank, which either may do without."""
  return f"{first} {second}" if first and second else first + second


# --- Checks of a template ---------------------------------------------------

_EXEMPLAR_TYPES: dict[str, tuple[type, bool]] = {
  "input": (str, True),
  "rationale": (str, True),
  "label": (str, True),
}
# Name -> type and whether it must be given.
_TEMPLATE_TYPES: dict[str, tuple[type, bool]] = {
  "name": (str, True),
  "answer_form": (str, True),
  "labels": (list, False),
  "order": (str, False),
  "instruction": (str, False),
  "fields": (list, True),
  "input_separator": (str, False),
  "answer_prefix": (str, False),
  "rationale_marker": (str, False),
  "answer_marker": (str, True),
  "answer_end": (str, False),
  "rationale_separator": (str, False),
  "stop": (list, True),
  "max_tokens": (int, True),
  "exemplar": (list, True),
}
_TYPE_NAMES = {str: "text", int: "a whole number", list: "a list"}


def _read_toml(path: pathlib.Path) -> dict[str, Any]:
  try:
    with open(path, "rb") as file:
      content = file.read(_MAX_TEMPLATE_BYTES + 1)
  except OSError as error:
    raise UserError(
      f"Prompt template {path} cannot be read ({error.strerror}). PROMPT is a"
      f" name ({', '.join(list_shipped())}) or the path of a .toml file."
    ) from error
  if len(content) > _MAX_TEMPLATE_BYTES:
    raise UserError(
      f"Prompt template {path} has more than {_MAX_TEMPLATE_BYTES} bytes; no"
      " prompt can be that long. Give fewer exemplars."
    )
  try:
    return tomllib.loads(content.decode("utf-8"))
  # RecursionError: brackets nested by the thousand.
  except (ValueError, RecursionError) as error:
    raise UserError(
      f"Prompt template {path} is not TOML in UTF-8 ({error}). Mend it there."
    ) from error


def _check_fields(
  values: Any, types: Mapping[str, tuple[type, bool]], where: str
) -> dict[str, Any]:
  """Returns a table of which every field is known and of its type."""
  if not isinstance(values, dict):
    raise UserError(f"{where}: {values!r} is not a table; write [[exemplar]].")
  for name in values:
    if name not in types:
      close = difflib.get_close_matches(name, types, n=1)
      hint = f"did you mean {close[0]}?" if close else f"of {', '.join(types)}."
      raise UserError(f"{where}: {name}: unknown field; {hint}")
  for name, (kind, is_required) in types.items():
    if name not in values:
      if is_required:
        raise UserError(f"{where}: {name}: missing; give {_TYPE_NAMES[kind]}.")
    # `type`, because isinstance would take true for 1.
    elif type(values[name]) is not kind:
      raise UserError(
        f"{where}: {name}: {values[name]!r} is not {_TYPE_NAMES[kind]}."
      )
  for name in {"fields", "labels", "stop"} & values.keys():
    if not all(isinstance(value, str) for value in values[name]):
      raise UserError(f"{where}: {name}: {values[name]!r} is not all texts.")
  return dict(values)


def _find_problems(template: PromptTemplate):
  """Yields (field, what is wrong with it and what to do)."""
  for field, type_ in (
    ("answer_form", parsing.AnswerForm),
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
