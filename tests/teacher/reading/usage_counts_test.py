"""What is a count, and where servers put it."""

import pytest

from distill_jax.teacher.reading import usage_counts


@pytest.mark.parametrize(
  ("value", "count"),
  [
    (0, 0),
    (7, 7),
    (7.0, 7),
    ("7", 7),
    (10**9, 10**9),
    (10**9 + 1, None),
    (10**400, None),
    ("9" * 400, None),
    (1e300, None),
    (float("inf"), None),
    (float("nan"), None),
    (7.5, None),
    (-1, None),
    ("-1", None),
    ("seven", None),
    (True, None),
    (None, None),
    ([7], None),
  ],
  ids=lambda value: str(value)[:20],
)
def test_what_is_a_count(value, count):
  assert usage_counts.parse_count(value) == count
  usage = {"input_tokens": value}
  assert usage_counts.get_count(usage, "prompt_tokens", "input_tokens") == count


@pytest.mark.parametrize(
  "usage",
  [
    {"prompt_tokens_details": {"cached_tokens": 4}},
    {"input_tokens_details": {"cached_tokens": 4}},
    {"prompt_cache_hit_tokens": 4},
    {"cache_read_input_tokens": "4", "prompt_tokens_details": None},
  ],
)
def test_cached_tokens(usage):
  assert usage_counts.get_cached(usage) == 4
