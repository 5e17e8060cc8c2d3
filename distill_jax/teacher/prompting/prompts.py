"""Prompts: a template and a question, made into the request of one answer.

Sends nothing.
"""

from collections.abc import Mapping
from typing import Any

from distill_jax.answers.answer_choices import read_choices
from distill_jax.errors import UserError
from distill_jax.teacher.asking import exchange
from distill_jax.teacher.prompting import templates
from distill_jax.teacher.prompting.templates import PromptTemplate


def make_request(
  template: PromptTemplate,
  record_input: str,
  *,
  model: str,
  endpoint: exchange.Endpoint,
  temperature: float | None = 0.0,
  seed: int | None = 0,
  sample_index: int = 0,
  max_tokens: int | None = None,
  max_tokens_field: exchange.MaxTokensField = "max_tokens",
  top_p: float | None = None,
  send_stop: bool = True,
  extra_parameters: Mapping[str, Any] | None = None,
  address: str | None = None,
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
    temperature: of sampling; None: not sent.
    seed: of sampling; sample i is asked for with seed + i, since servers give
      equal samples to equal seeds. None: no seed is sent.
    sample_index: which sample, from 0.
    max_tokens: overrides the template's.
    max_tokens_field: what the server calls it.
    top_p: of sampling; None: not sent.
    send_stop: send the template's stop texts.
    extra_parameters: what the API takes besides, as it is.
    address: of the teacher's server, to be written down.

  Returns:
    The request.

  Raises:
    UserError: the endpoint is neither, or the input lacks a field.
  """
  if endpoint == "chat":
    question = templates.write_question(template, record_input)
    last_turn = {"role": "user", "content": question}
    prompt = [*template.chat_exemplars, last_turn]
  elif endpoint == "completions":
    prompt = write_completion_prompt(template, record_input)
  else:
    raise UserError(
      f"ENDPOINT is {endpoint!r}; it must be 'chat' or 'completions'."
    )
  # Floats: 0 and 0.0 are the same request, and must have the same key.
  parameters: dict[str, Any] = {}
  if temperature is not None:
    parameters["temperature"] = float(temperature)
  parameters[max_tokens_field] = (
    template.max_tokens if max_tokens is None else max_tokens
  )
  if template.stop and send_stop:
    parameters["stop"] = list(template.stop)
  if seed is not None:
    parameters["seed"] = seed + sample_index
  if top_p is not None:
    parameters["top_p"] = float(top_p)
  parameters |= extra_parameters or {}
  return exchange.Request(
    model, endpoint, prompt, parameters, sample_index, address, template.name
  )


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
    else templates.get_answer_marker(template)
  )
  question = templates.write_question(template, record_input)
  tail = templates.join(template.answer_prefix, opening)
  return template.completion_exemplars + question + ("\n" + tail).rstrip()


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
  if (
    isinstance(choices, list | tuple)
    and choices
    and all(isinstance(choice, str) for choice in choices)
  ):
    return tuple(choices)
  return read_choices(record_input)
