"""What a server's reply means: an answer, or a failure and what to do about it.

Layer 1; imports no module of ours. Knows bodies, statuses and headers, and no
connection. Bodies are untrusted: nothing in them raises here, and of their text
only a short quotation gets into a message.

What each reply means, and why:

  200 with an answer             answer, whatever the content type says: it was
                                 paid for, and reading it is the better check
  200, not JSON, truncated, not  ask again: something broke on the way, or a
  UTF-8, HTML, no choices        proxy spoke in the server's place
  200, a choice without text     final: the model did answer, and would again;
                                 its reasoning or refusal is no answer
  408, 409, 425, 429, 5xx        ask again
  400, 413, 422 and the like     final: this request is refused
  401, 403, no credit            final for every request: the user must act
  3xx, 404, 405, 410             likewise: wrong address or model
"""

import dataclasses
import datetime
import email.utils
import json
import math
import re
from collections.abc import Mapping
from typing import Any

_MAX_QUOTED_CHARACTERS = 200
_LONE_SURROGATE = re.compile("[\ud800-\udfff]")

_RETRYABLE_KINDS = {
  408: "timeout",
  409: "server_error",
  425: "server_error",
  429: "rate_limited",
}
_WRONG_ADDRESS_STATUSES = (404, 405, 410)
# What servers call a prompt beyond the model's context: OpenAI and its
# compatibles, llama.cpp, vLLM.
_CONTEXT_ERRORS = re.compile(
  r"context[_ ]length|context[_ ]size|maximum context|too many tokens",
  re.IGNORECASE,
)
# A 403 for what one prompt says, not for who asks.
_MODERATION = re.compile(
  r"moderation|flagged|content[_ ](policy|filter)", re.IGNORECASE
)
_NO_CREDIT = re.compile(r"insufficient_quota|insufficient.balance", re.I)


@dataclasses.dataclass(frozen=True)
class Answer:
  """What a server said, read.

  Attributes:
    text: the raw output, not empty; untrusted.
    finish_reason: the server's word, if it is one.
    prompt_tokens: as the server counted them; None where it does not say.
    completion_tokens: likewise.
    model: what the server says answered.
  """

  text: str
  finish_reason: str | None
  prompt_tokens: int | None
  completion_tokens: int | None
  model: str | None


@dataclasses.dataclass(frozen=True)
class Failure:
  """Why there is no answer.

  Attributes:
    kind: one of those of `exchange.TeacherError`.
    message: for the user; quotes the server where it said anything.
    is_final: asking again would not help.
    hint: what the user must do before any request can succeed; None where it
      is only this one that failed.
    retry_after_seconds: the server's wish; None where it has none.
  """

  kind: str
  message: str
  is_final: bool
  hint: str | None = None
  retry_after_seconds: float | None = None


def read_answer(content: bytes, endpoint: str) -> Answer | Failure:
  """Reads the body of a reply whose status is good.

  The text is `content`, never `reasoning_content`, which some servers put
  beside it: the prompts ask for reasoning inside the answer, and a hidden one
  without an answer is one that the token budget cut off. Halves of surrogate
  pairs, which JSON can spell and UTF-8 cannot, become U+FFFD.

  Args:
    content: the body as it came.
    endpoint: "chat" or "completions".

  Returns:
    The first choice, or the failure that the body is.
  """
  try:
    text = content.decode("utf-8")
  except UnicodeDecodeError as error:
    return _bad_body(f"it is not UTF-8 ({error.reason})", "")
  try:
    body = json.loads(text)
  except (ValueError, RecursionError):
    is_html = text.lstrip()[:1] == "<"
    return _bad_body("it is HTML" if is_html else "it is no whole JSON", text)
  return read_answer_object(body, endpoint)


def read_answer_object(body: Any, endpoint: str) -> Answer | Failure:
  """As `read_answer`, of a body that was JSON."""
  choices = body.get("choices") if isinstance(body, dict) else None
  if not isinstance(choices, list) or not choices:
    return _bad_body("it has no choices", _get_error_text(body))
  choice = choices[0] if isinstance(choices[0], dict) else {}
  message = choice.get("message") if endpoint == "chat" else choice
  if not isinstance(message, dict):
    return _bad_body("its choice has no message", _get_error_text(body))
  text = message.get("content" if endpoint == "chat" else "text")
  finish_reason = _get_word(choice, "finish_reason")
  if not isinstance(text, str) or not text:
    return _empty_answer(message, finish_reason)
  usage = body.get("usage")
  usage = usage if isinstance(usage, dict) else {}
  return Answer(
    _LONE_SURROGATE.sub("\ufffd", text),
    finish_reason,
    _get_count(usage, "prompt_tokens"),
    _get_count(usage, "completion_tokens"),
    _get_word(body, "model"),
  )


def read_error(
  status: int, content: bytes, retry_after_seconds: float | None = None
) -> Failure:
  """Reads a reply whose status is 300 or above.

  Args:
    status: the HTTP status.
    content: the body, whatever it is.
    retry_after_seconds: what the headers say, see `get_retry_after_seconds`.

  Returns:
    The failure it is.
  """
  text = content.decode("utf-8", "replace")
  try:
    said = _get_error_text(json.loads(text))
  except (ValueError, RecursionError):
    said = ""
  quoted = said or text
  message = f"HTTP {status}" + (f": {quote(quoted)}" if quoted.strip() else "")

  if status == 402 or (status == 429 and _NO_CREDIT.search(said)):
    hint = "The account has no credit left; nothing can be asked before it has."
    return Failure("rejected", message, True, hint)
  if status in _RETRYABLE_KINDS or status >= 500:
    kind = _RETRYABLE_KINDS.get(status, "server_error")
    return Failure(
      kind, message, False, retry_after_seconds=retry_after_seconds
    )
  if status == 401 or (status == 403 and not _MODERATION.search(said)):
    hint = "The server does not take the key."
    return Failure("unauthorized", message, True, hint)
  if status < 400 or status in _WRONG_ADDRESS_STATUSES:
    hint = (
      "Nothing is there for this model: check TEACHER_BASE_URL, which usually"
      " ends in /v1, and TEACHER_MODEL."
    )
    return Failure("rejected", message, True, hint)
  is_too_large = status in (413, 414, 431) or _CONTEXT_ERRORS.search(said)
  return Failure("too_large" if is_too_large else "rejected", message, True)


def get_retry_after_seconds(
  headers: Mapping[str, str], now: datetime.datetime
) -> float | None:
  """Returns how long the server asks to wait; None where it does not say.

  Reads `retry-after-ms`, then `retry-after` in seconds or as a date. A date is
  measured from the reply's own `date` where it has one: the two clocks may
  differ. A time that is past is 0.

  Args:
    headers: of the reply; finds names in any case.
    now: this machine's time, with its zone.
  """
  milliseconds = _read_number(headers.get("retry-after-ms"))
  if milliseconds is not None:
    return milliseconds / 1000
  text = headers.get("retry-after")
  seconds = _read_number(text)
  if seconds is not None:
    return seconds
  wanted = _read_date(text)
  if wanted is None:
    return None
  said_now = _read_date(headers.get("date"))
  return max(0.0, (wanted - (said_now or now)).total_seconds())


def quote(text: str) -> str:
  """Returns the beginning of untrusted text on one line, harmless to print."""
  shown = " ".join(text[: 4 * _MAX_QUOTED_CHARACTERS].split())
  if len(shown) > _MAX_QUOTED_CHARACTERS:
    shown = shown[:_MAX_QUOTED_CHARACTERS] + "..."
  return ascii(shown)


def _bad_body(problem: str, said: str) -> Failure:
  quoted = f": {quote(said)}" if said.strip() else ""
  return Failure(
    "bad_response", f"The reply is no answer, {problem}{quoted}", False
  )


def _empty_answer(
  message: Mapping[str, Any], finish_reason: str | None
) -> Failure:
  """Says why a choice has no text, as far as the server does."""
  if message.get("refusal"):
    reason = f"the model refused: {quote(str(message['refusal']))}"
  elif message.get("reasoning_content") or message.get("reasoning"):
    reason = "only reasoning; a larger max_tokens may leave room for an answer"
  else:
    reason = "nothing"
  ended = f" (finish reason {quote(finish_reason)})" if finish_reason else ""
  return Failure(
    "bad_response", f"The answer has no text, {reason}{ended}", True
  )


def _get_error_text(body: Any) -> str:
  """Returns what an error object says, its type and code with it.

  Servers put it under `error`, as a text or an object, or at the top.
  """
  error = body.get("error", body) if isinstance(body, dict) else body
  if not isinstance(error, dict):
    return error if isinstance(error, str) else ""
  parts = [error.get(key) for key in ("message", "detail", "type", "code")]
  return " ".join(part for part in parts if isinstance(part, str) and part)


def _get_word(body: Mapping[str, Any], key: str) -> str | None:
  value = body.get(key)
  if not isinstance(value, str):
    return None
  return _LONE_SURROGATE.sub("\ufffd", value[:_MAX_QUOTED_CHARACTERS])


def _get_count(usage: Mapping[str, Any], key: str) -> int | None:
  value = usage.get(key)
  if not isinstance(value, int) or isinstance(value, bool) or value < 0:
    return None
  return value


def _read_number(text: str | None) -> float | None:
  try:
    number = float(text or "")
  except ValueError:
    return None
  return number if math.isfinite(number) and number >= 0 else None


def _read_date(text: str | None) -> datetime.datetime | None:
  try:
    date = email.utils.parsedate_to_datetime(text or "")
  except (ValueError, OverflowError):
    return None
  # A date without a zone is one in GMT, as HTTP's are.
  return date if date.tzinfo else date.replace(tzinfo=datetime.UTC)
