"""What the batch API's replies and files say.

All of it is untrusted: an id gets into a URL only where it is plain, and a line
that is no result is one.
"""

import json
import re
from typing import Any

from distill_jax.teacher.asking.exchange import Response
from distill_jax.teacher.reading import nesting, replies
from distill_jax.teacher.transports import client

_KEY = re.compile(rb'"custom_id"\s*:\s*"([0-9a-f]{64})"')


def is_plain_id(value: Any) -> bool:
  """Whether something is an id that may stand in a URL's path."""
  return (
    isinstance(value, str)
    and 0 < len(value) <= 256
    and all(letter.isalnum() or letter in "-_:" for letter in value)
    and value.isascii()
  )


def read_object(
  content: bytes, required: str | None
) -> dict[str, Any] | replies.Failure:
  """Reads an object of the batch API.

  Args:
    content: a reply's body.
    required: a field that must be a text, an `id` also a plain one; None: any
      object will do.
  """
  try:
    body = nesting.cut(json.loads(content))
  except (ValueError, RecursionError):
    body = None
  value = body.get(required) if required and isinstance(body, dict) else "-"
  is_good = isinstance(value, str) and (required != "id" or is_plain_id(value))
  if not isinstance(body, dict) or not is_good:
    said = replies.quote(content.decode("utf-8", "replace"))
    return replies.Failure(
      "bad_response", f"The reply is none of the batch API: {said}", False
    )
  return body


def read_result(
  line: bytes, endpoint: str, latency_seconds: float
) -> tuple[str, Response | replies.Failure]:
  """Reads one line of a batch's output or error file.

  Args:
    line: JSON, perhaps cut off.
    endpoint: "chat" or "completions".
    latency_seconds: of the batch.

  Returns:
    The request's key, empty where the line has none, and what became of it.
  """
  try:
    result = nesting.cut(json.loads(line))
  except (ValueError, RecursionError):
    result = None
  if result is None and (found := _KEY.search(line)):
    return found[1].decode(), replies.Failure(
      "bad_response",
      "The result is no whole JSON, or longer than MAX_RESPONSE_BYTES",
      True,
    )
  if not isinstance(result, dict) or not isinstance(
    result.get("custom_id"), str
  ):
    return "", replies.Failure("bad_response", "not a result", False)
  key = result["custom_id"]
  response = result.get("response")
  status = response.get("status_code") if isinstance(response, dict) else None
  if not isinstance(status, int) or not isinstance(response, dict):
    said = replies.quote(json.dumps(result.get("error")))
    return key, replies.Failure(
      "server_error", f"Not answered within its batch: {said}", False
    )
  body = response.get("body")
  if status >= 300:
    content = body if isinstance(body, str) else json.dumps(body)
    return key, replies.read_error(status, content.encode())
  answer = replies.read_answer_object(body, endpoint)
  if isinstance(answer, replies.Failure):
    return key, answer
  return key, client.make_response(answer, latency_seconds, 1)


def get_duration(described: dict[str, Any]) -> float:
  """Returns how long a batch took, by the server's clock; 0 if unsaid."""
  times = described.get("created_at"), described.get("completed_at")
  if not all(isinstance(moment, int | float) for moment in times):
    return 0.0
  return max(0.0, float(times[1] or 0) - float(times[0] or 0))


def describe_progress(status: str, counts: Any) -> str:
  """Returns a batch's status and counts in words."""
  shown = replies.quote(status)[1:-1]
  if not isinstance(counts, dict):
    return shown
  total, completed, failed = (
    value if isinstance(value := counts.get(name), int) else "?"
    for name in ("total", "completed", "failed")
  )
  return f"{shown}, {completed} of {total} answered, {failed} failed"
