"""Settings of a request that a teacher may have of its own."""

import json

import pytest

from distill_jax.errors import UserError
from distill_jax.teacher.asking import asking

_DEEP = json.loads("[" * 900 + "]" * 900)
_GOOD = {
  "endpoint": "chat",
  "temperature": None,
  "top_p": None,
  "seed": None,
  "max_tokens": None,
  "max_tokens_field": "max_tokens",
  "send_stop": False,
  "extra_parameters": {"reasoning_effort": "low", "a": {"b": [1, None]}},
}


def test_settings_that_can_be():
  assert set(_GOOD) == set(asking.FIELDS)
  asking.check(_GOOD, 3)


@pytest.mark.parametrize(
  "name, told",
  [
    ("messages", "the client sets itself"),
    ("prompt", "the client sets itself"),
    ("stream", "the client sets itself"),
    ("model", "which TEACHER_MODEL sets"),
    ("n", "which NUM_SAMPLES sets"),
    ("temperature", "which TEMPERATURE sets"),
    ("stop", "which SEND_STOP sets"),
    ("max_completion_tokens", "MAX_TOKENS_FIELD sets"),
  ],
)
def test_parameters_that_are_ours(name, told):
  with pytest.raises(UserError, match=f"EXTRA_PARAMETERS holds {name!r}") as e:
    asking.check(_GOOD | {"extra_parameters": {name: 1}}, 1)
  assert told in str(e.value)


@pytest.mark.parametrize(
  "fields, told",
  [
    ({"extra_parameters": {"a": _DEEP}}, "more than 64 lists"),
    ({"extra_parameters": None}, "EXTRA_PARAMETERS is None"),
    ({"extra_parameters": ["a"]}, "it is a mapping"),
    ({"extra_parameters": {1: 2}}, "it is a mapping"),
    ({"extra_parameters": {"a": float("nan")}}, "cannot be sent as JSON"),
    ({"extra_parameters": {"a": {1, 2}}}, "cannot be sent as JSON"),
    ({"send_stop": None}, "SEND_STOP is None, and must be True or False"),
    ({"temperature": 3}, "TEMPERATURE is 3, .* or None"),
  ],
)
def test_settings_that_cannot_be(fields, told):
  with pytest.raises(UserError, match=told):
    asking.check(_GOOD | fields, 1)
