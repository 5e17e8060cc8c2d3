"""What goes to a teacher and what comes back, whichever way it travels.

Layer 0; imports no module of ours. Prompts make requests, transports send
them, the journal keeps both sides; none of these knows the others.
"""

import dataclasses
import functools
import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any, Literal, Protocol, get_args

Endpoint = Literal["chat", "completions"]
MaxTokensField = Literal["max_tokens", "max_completion_tokens"]
MAX_TOKENS_FIELDS = get_args(MaxTokensField)


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
  """

  model: str
  endpoint: Endpoint
  prompt: str | Sequence[Mapping[str, str]]
  parameters: Mapping[str, Any]
  sample_index: int = 0

  @functools.cached_property
  def key(self) -> str:
    """Hex digest of everything above; equal requests are one request."""
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
  """A teacher's answer, as the server gave it.

  Attributes:
    text: the raw output; untrusted.
    finish_reason: why it ended: "stop", "length" or the server's own word.
    prompt_tokens: as the server counted them; None where it does not say.
    completion_tokens: likewise.
    model: what the server says answered.
    latency_seconds: of the attempt that succeeded.
    num_attempts: attempts made, that one included.
  """

  text: str
  finish_reason: str | None
  prompt_tokens: int | None
  completion_tokens: int | None
  model: str | None
  latency_seconds: float
  num_attempts: int


class TeacherError(Exception):
  """A request that got no answer.

  Attributes:
    kind: "rate_limited", "server_error", "timeout", "connection",
      "bad_response", "too_large", "rejected" or "unauthorized".
    is_final: asking again would not help; otherwise the budget of attempts or
      of time is used up, and another run may ask again.
    num_attempts: attempts made.
  """

  def __init__(
    self, message: str, *, kind: str, is_final: bool, num_attempts: int
  ):
    super().__init__(message)
    self.kind = kind
    self.is_final = is_final
    self.num_attempts = num_attempts


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
