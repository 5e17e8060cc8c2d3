"""Asks a teacher over an OpenAI-compatible HTTP API, one request at a time.

Knows what a request looks like on the wire and how many may be under way;
`connection` knows when to ask again.

An attempt that timed out or lost its connection may have been answered, and
charged, all the same: HTTP cannot tell. Everything else is asked once.
"""

import asyncio
import json
import random
import time
from collections.abc import Awaitable, Callable
from typing import Any

from distill_jax.errors import UserError
from distill_jax.teacher.asking.exchange import (
  Request,
  Response,
  TeacherError,
  get_max_tokens,
)
from distill_jax.teacher.reading import replies
from distill_jax.teacher.transports.config import TeacherConfig

PATHS = {"chat": "/chat/completions", "completions": "/completions"}

# What a request says itself, or what changes the form of the answer: samples
# are requests of their own, because servers differ in what they make of `n`.
_FORBIDDEN_PARAMETERS = ("messages", "model", "n", "prompt", "stream")


def estimate_tokens(text: str) -> int:
  """Returns about how many tokens a text has: one for four bytes of UTF-8.

  Right to a fifth for English; enough for rate limits, which are corrected by
  the server's own count.
  """
  return len(text.encode("utf-8", "surrogatepass")) // 4 + 1


def make_body(request: Request) -> dict[str, Any]:
  """Returns the JSON that asks a request.

  Raises:
    UserError: a parameter that the client sets itself.
  """
  for name in _FORBIDDEN_PARAMETERS:
    if name in request.parameters:
      raise UserError(
        f"The teacher's parameters hold {name!r}, which the client sets itself."
        " Leave it out; several samples are asked by sample_index."
      )
  body: dict[str, Any] = {"model": request.model, **request.parameters}
  if isinstance(request.prompt, str):
    return body | {"prompt": request.prompt}
  return body | {"messages": [dict(message) for message in request.prompt]}


def encode_body(body: Any, max_bytes: int) -> bytes:
  """Returns JSON as bytes.

  Args:
    body: what is sent.
    max_bytes: the most that may be.

  Raises:
    TeacherError: it is longer, or holds half a surrogate pair, which no server
      takes.
  """
  try:
    content = json.dumps(
      body, ensure_ascii=False, allow_nan=False, separators=(",", ":")
    ).encode("utf-8")
  except UnicodeEncodeError:
    raise _refuse(
      "rejected", "The prompt holds half a surrogate pair, which is no text"
    ) from None
  if len(content) > max_bytes:
    raise _refuse(
      "too_large",
      f"The request has {len(content)} bytes, above {max_bytes}"
      " (MAX_REQUEST_BYTES); not sent",
    )
  return content


class TeacherClient:
  """A `Transport` that asks a server directly, and again: see `Repeating`."""

  def __init__(
    self,
    config: TeacherConfig,
    *,
    count_tokens_fn: Callable[[str], int] = estimate_tokens,
    rng: random.Random | None = None,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
  ):
    """Opens nothing yet.

    Args:
      config: address, limits and budgets.
      count_tokens_fn: tokens of a text, for the rate limit and
        `max_prompt_tokens`.
      rng: draws the waits between attempts; None: one with a random seed.
      clock: seconds, never going back.
      sleep: waits so many seconds.

    Raises:
      UserError: no key, or no `openai` package.
    """
    # Here, so that whoever only trains needs no `openai`.
    from distill_jax.teacher.transports import connection

    self.repeat_fn: Callable[[Request], Awaitable[bool]] | None = None
    self._config = config
    self._count_tokens_fn = count_tokens_fn
    self._connection = connection.Connection(
      config, rng=rng, clock=clock, sleep=sleep
    )
    # Held through the waits as well: of a server in trouble, less is asked.
    self._slots = asyncio.Semaphore(config.max_concurrency)

  async def send(self, request: Request) -> Response:
    """Returns the answer to a request.

    Raises:
      TeacherError: there is none.
      UserError: no request can succeed: no server there, no valid key, no such
        model.
    """
    content = encode_body(make_body(request), self._config.max_request_bytes)
    num_tokens = self._check_tokens(request)
    repeat_fn = self.repeat_fn
    async with self._slots:
      success = await self._connection.post_json(
        PATHS[request.endpoint],
        content,
        lambda reply: replies.read_answer(reply, request.endpoint),
        num_tokens,
        is_one_of_many=True,
        repeat_fn=repeat_fn and (lambda: repeat_fn(request)),
      )
    answer = success.value
    if (
      answer.prompt_tokens is not None and answer.completion_tokens is not None
    ):
      self._connection.correct_tokens(
        answer.prompt_tokens + answer.completion_tokens - num_tokens
      )
    return make_response(answer, success.latency_seconds, success.num_attempts)

  async def close(self) -> None:
    """Releases connections."""
    await self._connection.close()

  def _check_tokens(self, request: Request) -> float:
    """Returns about how many tokens a request takes, its answer's included."""
    texts = (
      [request.prompt]
      if isinstance(request.prompt, str)
      else [message["content"] for message in request.prompt]
    )
    num_prompt = sum(map(self._count_tokens_fn, texts))
    most = self._config.max_prompt_tokens
    if most is not None and num_prompt > most:
      raise _refuse(
        "too_large",
        f"The prompt has about {num_prompt} tokens, above {most}"
        " (MAX_PROMPT_TOKENS); not sent",
      )
    return num_prompt + get_max_tokens(request)


def make_response(
  answer: replies.Answer, latency_seconds: float, num_attempts: int
) -> Response:
  """Returns an answer as the contract has it."""
  return Response(
    text=answer.text,
    finish_reason=answer.finish_reason,
    prompt_tokens=answer.prompt_tokens,
    completion_tokens=answer.completion_tokens,
    model=answer.model,
    latency_seconds=latency_seconds,
    num_attempts=num_attempts,
    status=answer.status,
    reasoning=answer.reasoning,
    raw=answer.raw,
    cached_tokens=answer.cached_tokens,
    reasoning_tokens=answer.reasoning_tokens,
  )


def _refuse(kind: str, message: str) -> TeacherError:
  return TeacherError(message, kind=kind, is_final=True, num_attempts=0)
