"""The object that a reply's body is, however a server or a proxy wrapped it.

A body that was paid for is read if it can be: behind a byte order mark or blank
lines, as server-sent events that nobody asked for, as lines or a list of
chunks, or as JSON inside a JSON text. Bodies are untrusted: nothing in them
raises here.
"""

import json
import re
from collections.abc import Sequence
from typing import Any

from distill_jax.teacher.reading import nesting

_STREAM_END = "[DONE]"
# What stands before JSON and is none: marks, blanks, a filler of proxies.
_PADDING = "\ufeff\0 \t\r\n"
# Of an integer. Python refuses more than 4300, and no count has as many.
_MAX_DIGITS = 1000
_LINE_END = re.compile(r"\r\n|\r|\n")
_JOINED_FIELDS = (
  "content",
  "reasoning",
  "reasoning_content",
  "refusal",
  "text",
  "thinking",
)


def decode(content: bytes) -> str:
  """Returns a body's text; bytes that are none become U+FFFD."""
  return content.decode(json.detect_encoding(content), "replace")


def parse_json(text: str) -> Any:
  """Returns what JSON says; None where it is none.

  None also stands for a number too long for Python, and for whatever is nested
  too deeply (see `nesting`), so that these spoil nothing beside them.
  """
  try:
    return nesting.cut(json.loads(text, parse_int=_parse_int))
  # RecursionError: brackets nested by the thousand.
  except (ValueError, RecursionError):
    return None


def _parse_int(digits: str) -> int | None:
  return int(digits) if len(digits) <= _MAX_DIGITS else None


def read_object(text: str) -> dict[str, Any] | None:
  """Reads a body.

  Args:
    text: of the body.

  Returns:
    The object; of a stream one in the form of an answer that came at once. None
    where there is none, or where a stream broke off.
  """
  text = text.strip(_PADDING)
  body = parse_json(text)
  if isinstance(body, str):
    body = parse_json(body)
  if isinstance(body, list):
    return _join(body)
  if isinstance(body, dict):
    return body
  return _read_lines(_LINE_END.split(text))


def _read_lines(lines: Sequence[str]) -> dict[str, Any] | None:
  """Reads server-sent events, or JSON with comments or line by line."""
  # A line that begins with a colon is a comment, which keeps a connection open.
  lines = [line for line in lines if not line.startswith(":")]
  if any(line.startswith("data:") for line in lines):
    payloads, event = [], []
    for line in [*lines, ""]:
      payload = line.removeprefix("data:").removeprefix(" ")
      is_end = payload.strip() == _STREAM_END or not line.strip()
      if event and is_end:
        payloads.append("\n".join(event))
        event = []
      if not line.startswith("data:"):
        continue
      # Not all servers end an event by a blank line.
      if not event and (is_end or isinstance(parse_json(payload), dict)):
        payloads.append(payload)
      else:
        event.append(payload)
  else:
    whole = _read_first("\n".join(lines))
    if isinstance(whole, dict):
      return whole
    payloads = [line for line in lines if line.strip()]
  chunks = [
    parse_json(payload)
    for payload in payloads
    if payload.strip() != _STREAM_END
  ]
  is_ended = bool(payloads) and payloads[-1].strip() == _STREAM_END
  return _join(chunks, is_ended)


def _read_first(text: str) -> Any:
  """Returns the JSON that a text begins with, unless more JSON follows."""
  if (whole := parse_json(text)) is not None:
    return whole
  try:
    _, end = json.JSONDecoder(parse_int=_parse_int).raw_decode(text)
  except (ValueError, RecursionError):
    return None
  is_followed = text[end:].lstrip(_PADDING).startswith(("{", "["))
  return None if is_followed else parse_json(text[:end])


def _join(
  chunks: Sequence[Any], is_ended: bool = False
) -> dict[str, Any] | None:
  """Puts the chunks of an answer together.

  Args:
    chunks: in their order.
    is_ended: the stream said that it was over.

  Returns:
    The answer; None where a chunk is no object, the end is missing, or they
    are several answers. An error behind a part of an answer has one choice,
    which is empty: that part was paid for and is no answer.
  """
  if not chunks or not all(isinstance(chunk, dict) for chunk in chunks):
    return None
  if len(chunks) == 1:
    choice = _get_choice(chunks[0])
    if not choice or isinstance(choice.get("message"), dict):
      return chunks[0]
  has_text = any(map(_has_text, chunks))
  for chunk in chunks:
    if chunk.get("error"):
      return {
        "error": chunk["error"],
        "usage": _get_last(chunks, "usage"),
        "choices": [{}] if has_text else [],
      }
  whole = [
    chunk
    for chunk in chunks
    if isinstance(_get_choice(chunk).get("message"), dict)
  ]
  if whole:
    # A message is a whole answer, beside which there may be what it cost.
    if len(whole) > 1 or sum(map(_has_text, chunks)) > 1:
      return None
    return whole[0] | {"usage": _get_last(chunks, "usage")}
  message: dict[str, Any] = {}
  finish_reason = None
  for chunk in chunks:
    choice = _get_choice(chunk)
    if finish_reason is not None and _has_text(chunk):
      return None
    finish_reason = choice.get("finish_reason") or finish_reason
    for name, value in (_get_delta(chunk) or choice).items():
      if name in _JOINED_FIELDS or name == "tool_calls":
        message[name] = _add(message.get(name), value)
  if finish_reason is None and not is_ended:
    return None
  choice = {"message": message, "finish_reason": finish_reason}
  if "text" in message:
    choice["text"] = message["text"]
  has_choice = any(map(_get_choice, chunks))
  return {
    "model": _get_last(chunks, "model"),
    "choices": [choice] if has_choice else [],
    "usage": _get_last(chunks, "usage"),
  }


def find_choice(choices: Any) -> dict[str, Any] | None:
  """Returns the choice of index 0; others are not asked for.

  Args:
    choices: of a body, untrusted.

  Returns:
    It, or the first that has no index; None where there is none.
  """
  for choice in choices if isinstance(choices, list) else ():
    if isinstance(choice, dict) and choice.get("index", 0) in (0, None):
      return choice
  return None


def _get_choice(chunk: dict[str, Any]) -> dict[str, Any]:
  return find_choice(chunk.get("choices")) or {}


def _has_text(chunk: dict[str, Any]) -> bool:
  """Tells whether a chunk has any of an answer's text."""
  fields = _get_delta(chunk) or _get_choice(chunk)
  return any(fields.get(name) for name in _JOINED_FIELDS)


def _get_delta(chunk: dict[str, Any]) -> dict[str, Any] | None:
  choice = _get_choice(chunk)
  for name in ("delta", "message"):
    if isinstance(choice.get(name), dict):
      return choice[name]
  return None


def _get_last(chunks: Sequence[dict[str, Any]], name: str) -> Any:
  found = (chunk[name] for chunk in reversed(chunks) if chunk.get(name))
  return next(found, None)


def _add(before: Any, value: Any) -> Any:
  """Joins two parts of a field: texts, or lists of parts."""
  if before is None or value is None:
    return value if before is None else before
  if isinstance(before, str) and isinstance(value, str):
    return before + value
  as_lists = (x if isinstance(x, list) else [x] for x in (before, value))
  return [part for parts in as_lists for part in parts]
