"""How deeply untrusted JSON may be nested.

JSON may be nested hundreds of levels deep, and whatever walks it, `json.dumps`
too, then ends in a RecursionError. What `cut` returns can be walked.
"""

from typing import Any

MAX_DEPTH = 64


def is_too_deep(value: Any) -> bool:
  """Tells whether lists and dicts are nested deeper than `MAX_DEPTH`."""
  level = [value]
  for _ in range(MAX_DEPTH + 1):
    level = [
      item
      for holder in level
      if isinstance(holder, list | tuple | dict)
      for item in (holder.values() if isinstance(holder, dict) else holder)
    ]
    if not level:
      return False
  return True


def cut(value: Any) -> Any:
  """Returns JSON with None in the place of what is too deep."""
  return _cut(value, MAX_DEPTH) if is_too_deep(value) else value


def _cut(value: Any, depth: int) -> Any:
  if not isinstance(value, list | dict):
    return value
  if depth == 0:
    return None
  if isinstance(value, dict):
    return {key: _cut(item, depth - 1) for key, item in value.items()}
  return [_cut(item, depth - 1) for item in value]
