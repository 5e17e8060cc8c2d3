"""Whether an error is about the account, which no request survives.

Servers say that a key is wrong or a credit is spent with any status: OpenAI 429
and 400, Anthropic and Google 400, others 403 and 412. Machine words (`code`,
`type`, `status`, `reason`) are the server's own and decide alone. Words of a
message may also be about one question, so they raise a doubt that the outcomes
of other requests settle. They count only where the request did not hold them:
servers repeat requests in their messages.
"""

import dataclasses
import json
import re
from typing import Any

from distill_jax.teacher.reading import nesting

# How many words beside one tell whether it was repeated from the request.
_CONTEXT_WORDS = 2

_CODES = re.compile(
  r"insufficient_(user_)?(quota|balance|credits?|funds)|billing|credit|payment"
  r"|(^|_)api_?key|authentication|quota|arrearage|consumer_suspended"
  r"|(account|access|organization)_(deactivated|suspended|terminated|restricted"
  r"|disabled|inactive)",
  re.IGNORECASE,
)
# A 429 is a matter of patience but for these. Words tell nothing there: Google
# speaks of plan and billing where a minute's limit is used up.
_CODES_OF_429 = re.compile(
  r"insufficient_(user_)?(quota|balance|credits?|funds)|billing|arrearage"
  r"|exceeded_current_quota|^1113$",
  re.IGNORECASE,
)
_WORDS = re.compile(
  r"\b(billing|payment|credits?|api[ _-]?keys?|quota"
  r"|(usage|spend(ing)?) limits?"
  r"|(insufficient|not enough|no|out of|low|negative) (balance|funds)"
  r"|(balance|funds) (is |are |was |has been )?(too low|low|insufficient"
  r"|not (enough|sufficient)|exhausted|used up|negative)"
  r"|(account|organi[sz]ation|workspace|project|subscription|access|plan)"
  r" (is |was |has |has been |have been |is not )?(suspended|deactivated"
  r"|disabled|inactive|overdue|blocked|banned|restricted|terminated|expired"
  r"|revoked|not active|not in good standing|in good standing))\b"
  r"|余额不足|欠费",
  re.IGNORECASE,
)
_WORD = re.compile(r"\w+")
# Fields in which servers say what is wrong, at any depth.
_MESSAGE_FIELDS = (
  "error",
  "errors",
  "message",
  "msg",
  "detail",
  "error_msg",
  "error_message",
)


@dataclasses.dataclass(frozen=True)
class AccountError:
  """What says that an error is about the account.

  Attributes:
    contexts: for each word of the message that does, the texts around it that
      the request would hold if the server repeated it from there; empty: a
      machine word says it.
  """

  contexts: tuple[tuple[str, ...], ...] = ()


def find_account_error(status: int, body: Any) -> AccountError | None:
  """Finds out whether a reply with an error's status is about the account.

  Args:
    status: the HTTP status, 400 or above.
    body: of the reply, parsed; None where it is no JSON.

  Returns:
    What says so; None: nothing does.
  """
  is_429 = status == 429
  codes = _CODES_OF_429 if is_429 else _CODES
  if any(codes.search(word) for word in list_codes(body)):
    return AccountError()
  if is_429 or status >= 500:
    return None
  message = get_message(body)
  contexts = tuple(
    _list_contexts(message, *match.span()) for match in _WORDS.finditer(message)
  )
  return AccountError(contexts) if contexts else None


def is_repeated(found: AccountError, asked: bytes) -> bool:
  """Tells whether all that says so was repeated from the request.

  Args:
    found: see `find_account_error`.
    asked: the request's body, JSON.
  """
  if not found.contexts:
    return False
  try:
    texts = _list_texts(nesting.cut(json.loads(asked)))
  except (ValueError, RecursionError):
    texts = [asked.decode("utf-8", "replace")]
  said = " " + " ".join(map(_normalize, texts)) + " "
  return all(
    any(f" {context} " in said for context in contexts)
    for contexts in found.contexts
  )


def get_error(body: Any) -> Any:
  """Returns the error in a body, as a dict or a text.

  Servers put it under `error`, as a text or an object, or at the top; Google,
  into a list.
  """
  if isinstance(body, list):
    body = body[0] if body else None
  return body.get("error") or body if isinstance(body, dict) else body


def get_message(body: Any) -> str:
  """Returns what an error says to people; empty where it says nothing."""
  return " ".join(dict.fromkeys(_list_messages(body)))


def _list_messages(body: Any) -> list[str]:
  if isinstance(body, str):
    return [body] if body else []
  if isinstance(body, dict):
    body = [body.get(name) for name in _MESSAGE_FIELDS]
  if isinstance(body, list):
    return [text for item in body for text in _list_messages(item)]
  return []


def list_codes(body: Any) -> list[str]:
  """Returns what an error says to programs."""
  if isinstance(body, list):
    body = body[0] if body else None
  error = get_error(body)
  found = []
  for part in (error, body):
    if not isinstance(part, dict):
      continue
    details = part.get("details")
    for source in (part, *(details if isinstance(details, list) else ())):
      if isinstance(source, dict):
        found += [
          source.get(name) for name in ("type", "code", "status", "reason")
        ]
  # "insufficient balance" and "InsufficientBalance" are the same word.
  return [
    re.sub(r"(?<=[a-z])(?=[A-Z])|[\s.-]+", "_", str(code))
    for code in found
    if isinstance(code, str | int)
  ]


def _list_contexts(message: str, start: int, end: int) -> tuple[str, ...]:
  """Returns a word with those before it, and with those behind it."""
  words = _normalize(message[start:end])
  before = _WORD.findall(message[:start])[-_CONTEXT_WORDS:]
  behind = _WORD.findall(message[end:])[:_CONTEXT_WORDS]
  contexts = []
  if len(before) == _CONTEXT_WORDS:
    contexts.append(_normalize(" ".join([*before, words])))
  if len(behind) == _CONTEXT_WORDS:
    contexts.append(_normalize(" ".join([words, *behind])))
  return tuple(contexts) or (_normalize(message),)


def _normalize(text: str) -> str:
  return " ".join(_WORD.findall(text.lower()))


def _list_texts(value: Any) -> list[str]:
  if isinstance(value, str):
    return [value]
  if isinstance(value, dict):
    value = list(value.values())
  if isinstance(value, list):
    return [text for item in value for text in _list_texts(item)]
  return []
