"""What goes to a teacher and what comes back, whichever way it travels.

Prompts make requests, transports send them, the journal keeps both sides; none
of these knows the others.
"""

import dataclasses
import functools
import hashlib
import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Literal, Protocol, get_args, runtime_checkable

from distill_jax.answers import finish_reasons

Endpoint = Literal["chat", "completions"]
MaxTokensField = Literal["max_tokens", "max_completion_tokens"]
MAX_TOKENS_FIELDS = get_args(MaxTokensField)

# Kinds of failures that the server may have charged for all the same.
MAYBE_PAID_KINDS = ("timeout", "connection", "bad_response")

# The kind of a failure before the server had the request.
UNSENT = "unsent"
# The server may still have the request, and answer it in a later run.
WAITING = "waiting"

ANSWERED, UNREADABLE = "answered", "unreadable"
# What an answer lacks where it has no text that could be read.
_PROBLEMS = {
  "empty": "the answer has no text",
  "reasoning_only": "the answer has no text, only reasoning; a larger"
  " MAX_TOKENS may leave room for it",
  "refused": "the model refused",
  "filtered": "the server's content filter took the text away",
  "tool_calls": "the model called a tool instead of answering",
  UNREADABLE: "the reply came as a success and is no answer that can be read",
}


@dataclasses.dataclass(frozen=True)
class Request:
  """One answer asked of one model.

  Attributes:
    model: the server's name of it.
    endpoint: "chat" or "completions".
    prompt: messages, each {"role": ..., "content": ...}, for "chat"; text for
      "completions".
    parameters: what the API takes besides: `temperature`, one of
      `MAX_TOKENS_FIELDS`, `stop`, `seed`, `top_p`. JSON values.
    sample_index: which of several samples of one prompt, from 0.
    address: of the server it is for; not in the key, and only written down.
    prompt_name: of the template that made the prompt; not in the key either.
  """

  model: str
  endpoint: Endpoint
  prompt: str | Sequence[Mapping[str, str]]
  parameters: Mapping[str, Any]
  sample_index: int = 0
  address: str | None = dataclasses.field(default=None, compare=False)
  prompt_name: str | None = dataclasses.field(default=None, compare=False)

  @functools.cached_property
  def key(self) -> str:
    """Hex digest of all that is asked; equal requests are one request."""
    # Not asdict, whose copy of the exemplars takes longer than all the rest.
    fields = {
      "model": self.model,
      "endpoint": self.endpoint,
      "prompt": self.prompt,
      "parameters": self.parameters,
      "sample_index": self.sample_index,
    }
    canonical = json.dumps(fields, sort_keys=True, ensure_ascii=True)
    return hashlib.sha256(canonical.encode()).hexdigest()


def get_max_tokens(request: Request) -> int:
  """Returns the most tokens that an answer can have; 0 where none are given."""
  for field in MAX_TOKENS_FIELDS:
    value = request.parameters.get(field)
    if isinstance(value, int):
      return value
  return 0


@dataclasses.dataclass(frozen=True)
class Response:
  """A teacher's answer, as the server gave it; it was paid for.

  Attributes:
    text: the raw output; untrusted. Blank unless `status` is "answered".
    finish_reason: why it ended: "stop", "length" or the server's own word.
    prompt_tokens: as the server counted them; None where it does not say.
    completion_tokens: as `prompt_tokens`.
    model: what the server says answered.
    latency_seconds: of the attempt that succeeded.
    num_attempts: attempts made, that one included.
    status: "answered", or why there is no text: "empty", "reasoning_only",
      "refused", "filtered", "tool_calls" or "unreadable".
    reasoning: what the server gave as reasoning beside the text.
    raw: the beginning of the reply's body where there is no text.
    cached_tokens: of the prompt's, those that the server had in a cache; None
      where it does not say.
    reasoning_tokens: of the completion's, those spent on reasoning; None where
      it does not say.
  """

  text: str
  finish_reason: str | None
  prompt_tokens: int | None
  completion_tokens: int | None
  model: str | None
  latency_seconds: float
  num_attempts: int
  status: str = ANSWERED
  reasoning: str | None = None
  raw: str | None = None
  cached_tokens: int | None = None
  reasoning_tokens: int | None = None

  @property
  def is_answered(self) -> bool:
    """Whether there is a text to be read."""
    return self.status == ANSWERED

  @property
  def problem(self) -> str | None:
    """What keeps the answer from being of use, in words; None: nothing."""
    ended = f" (finish reason {self.finish_reason!a})"
    if not self.is_answered:
      said = _PROBLEMS.get(self.status, f"the answer is {self.status!a}")
      return said + (ended if self.finish_reason else "")
    if finish_reasons.is_broken_off(self.finish_reason):
      return f"the server cut the answer off{ended}"
    return None


class TeacherError(Exception):
  """A request that got no answer.

  Attributes:
    kind: "rate_limited", "server_error", "timeout", "connection",
      "bad_response", "too_large", "rejected" or "unauthorized"; "unsent" where
      the server did not get the request, "waiting" where it may still have it,
      "fatal" of what ended a run.
    is_final: asking again would not help; otherwise the budget of attempts or
      of time is used up, and another run may ask again.
    num_attempts: attempts made.
    advice: what the user must do if every request ends like this one, which
      alone does not tell; None: it is about this request.
    is_about_account: there is advice because the error's words are about the
      account.
    is_refusal: the server refused this request for good and did not say
      whether it would refuse every other too.
  """

  def __init__(
    self,
    message: str,
    *,
    kind: str,
    is_final: bool,
    num_attempts: int,
    advice: str | None = None,
    is_about_account: bool = False,
    is_refusal: bool = False,
  ):
    super().__init__(message)
    self.advice = advice
    self.is_about_account = is_about_account
    self.is_refusal = is_refusal
    self.kind = kind
    self.is_final = is_final
    self.num_attempts = num_attempts


@runtime_checkable
class Transport(Protocol):
  """A way to a teacher."""

  async def send(self, request: Request) -> Response:
    """Returns the answer to a request.

    Raises:
      TeacherError: there is none.
      UserError: no request can succeed: no server, or no valid key.
    """
    ...

  async def close(self) -> None:
    """Releases connections."""
    ...


@runtime_checkable
class Repeating(Protocol):
  """A transport that asks again by itself after a failure.

  Attributes:
    repeat_fn: called with a request before it is sent again after an attempt
      that may be charged; returns whether to send it. None: it is always sent.
  """

  repeat_fn: Callable[[Request], Awaitable[bool]] | None


@runtime_checkable
class Keeping(Protocol):
  """A transport whose server keeps requests after the run that sent them."""

  def has_submitted(self, key: str) -> bool:
    """Tells whether the server has it, so that `send` only gets the answer."""
    ...
