"""The lines of a journal: what each kind holds, and reading one again.

Three kinds of lines:

  {"event": "request", "key", "model", "endpoint", "prompt", "parameters",
   "sample_index", "question", "attempt", "address", "prompt_name", "time"}
  {"event": "response", "key", "text", "finish_reason", "prompt_tokens",
   "completion_tokens", "model", "latency_seconds", "num_attempts", "status",
   "reasoning", "raw", "cached_tokens", "reasoning_tokens", "address", "time"}
  {"event": "failure", "key", "kind", "message", "is_final", "num_attempts",
   "time"}

`key` is `Request.key`, `question` the id of the question it was first asked
for, `attempt` counts the times it was asked, over all runs. An attempt made
after one that may be charged has a request line of its own; waiting again for a
batch of an earlier run has none. A request without a response or final failure
is open, and may be asked again. Of several responses to one request the first
counts; a response outdoes a failure.

Every reply that came as a success is a response and was paid for, so what was
paid is the sum over all response lines. One whose `status` is not "answered"
has no text; for the request it is a final failure, and an "unreadable" one is
from the second on. What `OPTIONAL_FIELDS` names is left out where there is
nothing to say; responses of earlier versions, which lack it, are answers.
"""

import dataclasses
import json
import re
from typing import Any

from distill_jax.teacher.reading import usage_counts

_KEY = re.compile(r"[0-9a-f]{64}")
_NUMBER, _COUNT = (int, float), (int, type(None))
_TEXT_OR_NONE = (str, type(None))
# What is read back of each event, and its types.
EVENT_FIELDS: dict[str, dict[str, Any]] = {
  "request": {},
  "response": {
    "text": str,
    "finish_reason": _TEXT_OR_NONE,
    "prompt_tokens": _COUNT,
    "completion_tokens": _COUNT,
    "model": _TEXT_OR_NONE,
    "latency_seconds": _NUMBER,
    "num_attempts": int,
  },
  "failure": {
    "kind": str,
    "message": str,
    "is_final": bool,
    "num_attempts": int,
  },
}
# Types of the fields that a line may lack.
OPTIONAL_FIELDS: dict[str, dict[str, Any]] = {
  "request": {"address": _TEXT_OR_NONE, "prompt_name": _TEXT_OR_NONE},
  "response": {
    "status": str,
    "reasoning": _TEXT_OR_NONE,
    "raw": _TEXT_OR_NONE,
    "cached_tokens": _COUNT,
    "reasoning_tokens": _COUNT,
    "address": _TEXT_OR_NONE,
  },
  "failure": {},
}


_COUNT_FIELDS = (
  "prompt_tokens",
  "completion_tokens",
  "cached_tokens",
  "reasoning_tokens",
)


@dataclasses.dataclass(frozen=True)
class Failure:
  """A request that got no answer, as the journal keeps it.

  Attributes:
    kind: see `exchange.TeacherError`.
    message: what was said.
    is_final: asking again would not help.
    num_attempts: attempts made.
  """

  kind: str
  message: str
  is_final: bool
  num_attempts: int


def parse_event(line: bytes) -> dict[str, Any] | None:
  """Returns the event that a line is; None: it is damaged."""
  try:
    event = json.loads(line)
  # RecursionError: brackets nested by the thousand.
  except (ValueError, RecursionError):
    return None
  if not isinstance(event, dict):
    return None
  key, name = event.get("key"), event.get("event")
  if not isinstance(key, str) or not _KEY.fullmatch(key):
    return None
  fields = EVENT_FIELDS.get(name) if isinstance(name, str) else None
  if fields is None:
    return None
  for field, types in fields.items():
    if field not in event or not isinstance(event[field], types):
      return None
  for field, types in OPTIONAL_FIELDS[event["event"]].items():
    if field in event and not isinstance(event[field], types):
      return None
  for field in _COUNT_FIELDS if name == "response" else ():
    # Earlier versions wrote down whatever a server counted.
    value = event.get(field)
    if value is not None and not 0 <= value <= usage_counts.MAX_COUNT:
      event[field] = None
  return event


def get_fields(event: dict[str, Any]) -> dict[str, Any]:
  """Returns what is read back of an event."""
  name = event["event"]
  fields = [*EVENT_FIELDS[name], *OPTIONAL_FIELDS[name]]
  return {field: event[field] for field in fields if field in event}
