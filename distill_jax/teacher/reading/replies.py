"""What a server's reply means: an answer, or a failure and what to do about it.

Knows bodies, statuses and headers, and no connection. Bodies are untrusted:
nothing in them raises here, and of their text only a short quotation gets into
a message.

What each reply means, and why:

  200 with an answer             answer, whatever the content type says: it was
                                 paid for, and reading it is the better check
  200 without text: reasoning,   answer without text, of a status of its own: it
  refusal, tool call, filter,    was paid for as well, and would come again
  or no choice but `usage`
  200 that cannot be read        answer of the status "unreadable": perhaps paid
                                 for, perhaps a proxy's word
  200 with an error and no       as the error's own status; "unreadable" where
  `usage`                        it has none, or text came before it
  408, 409, 425, 429, 5xx        ask again
  400, 413, 422 and the like     final: this request is refused
  401, 402, and a code of        no request can succeed: the user must act
  credit or key
  403, 404, 410, and words of    either of the two, which the next ones tell
  credit or key
  3xx, 405                       wrong address: the user must act
"""

import dataclasses
import json
import re
from collections.abc import Mapping
from typing import Any

from distill_jax.answers import finish_reasons
from distill_jax.teacher.asking import exchange
from distill_jax.teacher.reading import (
  account_errors,
  nesting,
  reply_body,
  usage_counts,
)

_MAX_QUOTED_CHARACTERS = 200
# Of a body without answer, what the journal keeps.
_MAX_RAW_CHARACTERS = 1 << 14
_LONE_SURROGATE = re.compile("[\ud800-\udfff]")

_RETRYABLE_KINDS = {
  408: "timeout",
  409: "server_error",
  425: "server_error",
  429: "rate_limited",
  # A gateway gave up; the server behind it may have worked all the same.
  504: "timeout",
  524: "timeout",
}
# Of these a request may be the cause as well: a model or a text that this key
# may not ask for.
_MAYBE_OWN_STATUSES = (403, 404, 410)
# What servers call a prompt beyond the model's context: OpenAI and its
# compatibles, llama.cpp, vLLM.
_CONTEXT_ERRORS = re.compile(
  r"context[_ ]length|context[_ ]size|maximum context|too many tokens"
  r"|(single|each|one|per)[ -]request",
  re.IGNORECASE,
)
# An error for what one prompt says, not for who asks.
_MODERATION = re.compile(
  r"moderation|flagged|safety|guardrail|content[_ -]?(policy|filter)",
  re.IGNORECASE,
)
_REFUSED_KEY = "The server does not take the key."
_NO_CREDIT = (
  "The account has no credit left; nothing can be asked before it has."
)
_ACCOUNT = (
  "This is about the account or its key, so no request can succeed: correct"
  " what it names, then give the same command again."
)
_WRONG_ADDRESS = (
  "Nothing is there for this model: check TEACHER_BASE_URL, which usually ends"
  " in /v1, and TEACHER_MODEL."
)
_REASONING_FIELDS = (
  "reasoning_content",
  "reasoning",
  "thinking",
  "reasoning_details",
)


@dataclasses.dataclass(frozen=True)
class Answer:
  """What a server said, read.

  Attributes:
    text: the raw output; untrusted. Blank unless `status` is "answered".
    finish_reason: the server's word, if it is one.
    prompt_tokens: as the server counted them; None where it does not say.
    completion_tokens: as `prompt_tokens`.
    model: what the server says answered.
    status: this and the rest as of `exchange.Response`.
    reasoning: see there.
    raw: see there.
    cached_tokens: see there.
    reasoning_tokens: see there.
  """

  text: str
  finish_reason: str | None
  prompt_tokens: int | None
  completion_tokens: int | None
  model: str | None
  status: str = exchange.ANSWERED
  reasoning: str | None = None
  raw: str | None = None
  cached_tokens: int | None = None
  reasoning_tokens: int | None = None


@dataclasses.dataclass(frozen=True)
class Failure:
  """Why there is no answer.

  Attributes:
    kind: one of those of `exchange.TeacherError`.
    message: for the user; quotes the server where it said anything.
    is_final: asking again would not help.
    hint: what the user must do before any request can succeed; None where it
      is only this one that failed.
    is_maybe_own: there is a hint, and yet it may be only this request.
    retry_after_seconds: the server's wish; None where it has none.
    account_error: what said that it is about the account, see
      `discount_repetition`.
    otherwise: what it is if the server only repeated the request.
    is_unsent: the request did not reach the server.
    is_last: a refusal in a batch that has no answer behind it.
  """

  kind: str
  message: str
  is_final: bool
  hint: str | None = None
  is_maybe_own: bool = False
  retry_after_seconds: float | None = None
  account_error: account_errors.AccountError | None = None
  otherwise: "Failure | None" = None
  is_unsent: bool = False
  is_last: bool = False

  @property
  def is_maybe_paid(self) -> bool:
    """Whether the server may have worked, and charged, all the same."""
    return self.kind in exchange.MAYBE_PAID_KINDS and not self.is_unsent

  @property
  def is_refusal(self) -> bool:
    """Whether the server refused the request for good."""
    return self.kind == "rejected" and self.is_final


def read_answer(content: bytes, endpoint: str) -> Answer | Failure:
  """Reads the body of a reply whose status is good.

  The text is `content`, never `reasoning_content`, which some servers put
  beside it: the prompts ask for reasoning inside the answer. Halves of
  surrogate pairs, which JSON can spell and UTF-8 cannot, become U+FFFD.

  Args:
    content: the body as it came.
    endpoint: "chat" or "completions".

  Returns:
    The first choice, with a status of its own where it has no text; or the
    error that the body is.
  """
  return _read_text(reply_body.decode(content), endpoint)


def read_answer_object(body: Any, endpoint: str) -> Answer | Failure:
  """As `read_answer`, of a body that was JSON."""
  if isinstance(body, str):
    return _read_text(body, endpoint)
  body = nesting.cut(body)
  text = json.dumps(body, ensure_ascii=False)
  return _read_body(body if isinstance(body, dict) else None, endpoint, text)


def read_error(
  status: int, content: bytes, retry_after_seconds: float | None = None
) -> Failure:
  """Reads a reply whose status is 300 or above.

  Args:
    status: the HTTP status.
    content: the body, whatever it is.
    retry_after_seconds: what the headers say, see `retry_after.get_seconds`.

  Returns:
    The failure it is.
  """
  text = reply_body.decode(content)
  body = reply_body.parse_json(text)
  is_page = text.lstrip()[:1] == "<"
  return _read_error(
    status,
    text if body is None and not is_page else body,
    text,
    retry_after_seconds,
  )


def discount_repetition(failure: Failure, asked: bytes) -> Failure:
  """Returns what a failure is, given the request that got it.

  Args:
    failure: one that may speak of the account.
    asked: the request's body.

  Returns:
    It, or what it is without the words that the server took from the request.
  """
  found = failure.account_error
  if (
    found is not None
    and failure.otherwise is not None
    and account_errors.is_repeated(found, asked)
  ):
    return failure.otherwise
  return failure


def quote(text: str) -> str:
  """Returns the beginning of untrusted text on one line, harmless to print."""
  shown = " ".join(text[: 4 * _MAX_QUOTED_CHARACTERS].split())
  if len(shown) > _MAX_QUOTED_CHARACTERS:
    shown = shown[:_MAX_QUOTED_CHARACTERS] + "..."
  return ascii(shown)


# --- Errors -----------------------------------------------------------------


def _read_error(
  status: int, body: Any, text: str, retry_after_seconds: float | None = None
) -> Failure:
  said = " ".join(
    filter(
      None, [account_errors.get_message(body), *account_errors.list_codes(body)]
    )
  )
  quoted = account_errors.get_message(body) or said or text
  message = f"HTTP {status}" + (f": {quote(quoted)}" if quoted.strip() else "")
  found = account_errors.find_account_error(status, body)
  plain = _read_status(status, said, message, retry_after_seconds)
  if status == 401:
    return plain
  if status == 402:
    return Failure("rejected", message, True, _NO_CREDIT)
  if found is None:
    return plain
  is_by_words = bool(found.contexts)
  if is_by_words and (plain.kind == "too_large" or _MODERATION.search(said)):
    return plain
  return Failure(
    "rejected",
    message,
    True,
    _NO_CREDIT if status == 429 else _ACCOUNT,
    is_by_words,
    account_error=found,
    otherwise=plain,
  )


def _read_status(
  status: int, said: str, message: str, retry_after_seconds: float | None
) -> Failure:
  if status in _RETRYABLE_KINDS or status >= 500:
    kind = _RETRYABLE_KINDS.get(status, "server_error")
    return Failure(
      kind, message, False, retry_after_seconds=retry_after_seconds
    )
  is_maybe_own = status in _MAYBE_OWN_STATUSES
  if status == 401 or (status == 403 and not _MODERATION.search(said)):
    return Failure("unauthorized", message, True, _REFUSED_KEY, is_maybe_own)
  if status < 400 or status in (404, 405, 410):
    return Failure("rejected", message, True, _WRONG_ADDRESS, is_maybe_own)
  is_too_large = status in (413, 414, 431) or _CONTEXT_ERRORS.search(said)
  return Failure("too_large" if is_too_large else "rejected", message, True)


# --- Answers ----------------------------------------------------------------


def _read_text(text: str, endpoint: str) -> Answer | Failure:
  return _read_body(reply_body.read_object(text), endpoint, text)


def _read_body(
  body: dict[str, Any] | None, endpoint: str, raw: str
) -> Answer | Failure:
  """Reads an object that should be an answer; None: there was no object."""
  if body is None:
    return Answer(
      "", None, None, None, None, exchange.UNREADABLE, raw=_shorten(raw)
    )
  usage = body.get("usage")
  usage = usage if isinstance(usage, dict) else {}
  if body.get("error") and not usage and not body.get("choices"):
    if (failure := _read_error_body(body)) is not None:
      return failure
  choice, message = _find_message(body, endpoint)
  finish_reason = _get_word(choice, "finish_reason")
  text, reasoning = "", None
  if message is not None:
    name = "text" if endpoint == "completions" or "text" in message else ""
    value = message.get("content") or message.get(name or "content")
    text, reasoning = _read_content(value)
    reasoning = reasoning or _read_reasoning(message)
    status = exchange.ANSWERED
    if text is None:
      status = exchange.UNREADABLE
    elif not text.strip():
      status = _find_status(message, finish_reason, reasoning)
  else:
    # Counted and without a choice: the server's work was done all the same.
    is_empty = usage and body.get("choices") in (None, [])
    status = "empty" if is_empty else exchange.UNREADABLE
  prompt_tokens = usage_counts.get_count(usage, "prompt_tokens", "input_tokens")
  completion_tokens = usage_counts.get_count(
    usage, "completion_tokens", "output_tokens"
  )
  return Answer(
    _clean(text or ""),
    finish_reason,
    prompt_tokens,
    completion_tokens,
    _get_word(body, "model"),
    status,
    _clean(reasoning) if reasoning else None,
    None if status == exchange.ANSWERED else _shorten(raw),
    usage_counts.get_cached(usage),
    usage_counts.get_count(
      usage_counts.get_details(usage, "completion"), "reasoning_tokens"
    ),
  )


def _read_error_body(body: dict[str, Any]) -> Failure | None:
  """Reads an error that came as a success; None: it does not say which."""
  error = account_errors.get_error(body)
  code = error.get("code") if isinstance(error, dict) else None
  status = usage_counts.parse_count(code)
  if status is not None and 400 <= status < 600:
    return _read_error(status, body, "")
  if account_errors.find_account_error(400, body) is not None:
    return _read_error(400, body, "")
  return None


def _find_message(
  body: Mapping[str, Any], endpoint: str
) -> tuple[Mapping[str, Any], Mapping[str, Any] | None]:
  """Returns the first choice and its message; None: it has none."""
  choices = body.get("choices")
  if isinstance(choices, dict):
    choices = [choices]
  if not isinstance(choices, list) or not choices:
    return {}, None
  choice = reply_body.find_choice(choices) or choices[0]
  if not isinstance(choice, dict):
    return {}, None
  if endpoint == "completions" and "text" in choice:
    return choice, choice
  for name in ("message", "delta"):
    if isinstance(choice.get(name), dict):
      return choice, choice[name]
  return choice, choice if "text" in choice else None


def _read_content(value: Any) -> tuple[str | None, str | None]:
  """Reads `content`: a text, or parts of it.

  Returns:
    The text, None where it is of an unknown form, and the reasoning in it.
  """
  if value is None or isinstance(value, str):
    return value or "", None
  parts = [value] if isinstance(value, dict) else value
  if not isinstance(parts, list):
    return None, None
  texts, reasoning = [], []
  for part in parts:
    if isinstance(part, str):
      texts.append(part)
    elif not isinstance(part, dict):
      return None, None
    elif str(part.get("type")) in ("thinking", "reasoning"):
      reasoning.append(_join_texts(part))
    elif "text" in part:
      texts.append(_join_texts(part["text"]))
  return "".join(texts), "".join(reasoning) or None


def _read_reasoning(message: Mapping[str, Any]) -> str | None:
  for name in _REASONING_FIELDS:
    if text := _join_texts(message.get(name)):
      return text
  return None


def _join_texts(value: Any) -> str:
  """Returns the texts in parts of whatever form."""
  if isinstance(value, str):
    return value
  if isinstance(value, dict):
    names = ("text", "thinking", "reasoning", "content", "summary", "value")
    return next(filter(None, (_join_texts(value.get(n)) for n in names)), "")
  if isinstance(value, list):
    return "".join(map(_join_texts, value))
  return ""


def _find_status(
  message: Mapping[str, Any], finish_reason: str | None, reasoning: str | None
) -> str:
  """Returns why a choice has no text, as far as the server says."""
  content = message.get("content")
  parts = content if isinstance(content, list) else []
  if message.get("refusal") or any(
    isinstance(part, dict) and part.get("refusal") for part in parts
  ):
    return "refused"
  if finish_reasons.is_refusal(finish_reason):
    return "refused"
  if finish_reasons.is_filtered(finish_reason):
    return "filtered"
  if message.get("tool_calls") or message.get("function_call"):
    return "tool_calls"
  return "reasoning_only" if reasoning else "empty"


def _clean(text: str) -> str:
  return _LONE_SURROGATE.sub("\ufffd", text)


def _shorten(raw: str) -> str:
  cut = len(raw) - _MAX_RAW_CHARACTERS
  shown = _clean(raw[:_MAX_RAW_CHARACTERS])
  return f"{shown}... ({cut} more characters)" if cut > 0 else shown


def _get_word(body: Mapping[str, Any], key: str) -> str | None:
  value = body.get(key)
  if not isinstance(value, str):
    return None
  return _clean(value[:_MAX_QUOTED_CHARACTERS])
