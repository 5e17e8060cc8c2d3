"""Tokens as servers count them, in every spelling.

`usage` is untrusted: what is no count is None, and so is one above `MAX_COUNT`.
"""

import re
from collections.abc import Mapping
from typing import Any

# More tokens than any one request can have.
MAX_COUNT = 10**9
_DIGITS = re.compile("[0-9]{1,20}")


def get_count(usage: Mapping[str, Any], *names: str) -> int | None:
  """Returns the first of these that is a count."""
  for name in names:
    value = parse_count(usage.get(name))
    if value is not None:
      return value
  return None


def parse_count(value: Any) -> int | None:
  """Returns a number of things, however it is spelled; None: it is none."""
  if isinstance(value, str) and _DIGITS.fullmatch(value):
    value = int(value)
  if isinstance(value, float) and value.is_integer():
    value = int(value)
  if not isinstance(value, int) or isinstance(value, bool):
    return None
  return value if 0 <= value <= MAX_COUNT else None


def get_details(usage: Mapping[str, Any], which: str) -> Mapping[str, Any]:
  """Returns the parts of the "prompt" or the "completion" count."""
  other = {"prompt": "input", "completion": "output"}[which]
  for name in (f"{which}_tokens_details", f"{other}_tokens_details"):
    if isinstance(usage.get(name), dict):
      return usage[name]
  return {}


def get_cached(usage: Mapping[str, Any]) -> int | None:
  """Returns how many tokens of the prompt were cached."""
  found = get_count(get_details(usage, "prompt"), "cached_tokens")
  if found is not None:
    return found
  return get_count(usage, "prompt_cache_hit_tokens", "cache_read_input_tokens")
