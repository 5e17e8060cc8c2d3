"""Tests of journal_lines.py; whole journals, in journal_test.py."""

import json

import pytest

from distill_jax.teacher.asking.journal_lines import (
  EVENT_FIELDS,
  get_fields,
  parse_event,
)

_KEY = "0" * 64
_EVENTS = {
  "request": {},
  "response": {
    "text": "\ud800",
    "finish_reason": None,
    "prompt_tokens": 3,
    "completion_tokens": None,
    "model": "m",
    "latency_seconds": 1,
    "num_attempts": 1,
  },
  "failure": {
    "kind": "timeout",
    "message": "",
    "is_final": False,
    "num_attempts": 2,
  },
}


def _make_line(name, **changes):
  fields = {"event": name, "key": _KEY, **_EVENTS[name]} | changes
  return json.dumps(fields).encode()


@pytest.mark.parametrize("name", _EVENTS)
def test_every_kind_is_read_whatever_stands_beside(name):
  event = parse_event(_make_line(name, time="then", later="version"))
  assert event is not None
  assert (event["event"], event["key"]) == (name, _KEY)
  assert {field: event[field] for field in EVENT_FIELDS[name]} == _EVENTS[name]


@pytest.mark.parametrize(
  "name, field",
  [(name, field) for name, fields in _EVENTS.items() for field in fields],
)
def test_a_field_of_another_type_or_none_is_damage(name, field):
  assert parse_event(_make_line(name, **{field: ["x"]})) is None
  fields = json.loads(_make_line(name))
  del fields[field]
  assert parse_event(json.dumps(fields).encode()) is None


def test_what_a_response_may_say_besides():
  more = {
    "status": "refused",
    "reasoning": "hm",
    "raw": "{}",
    "cached_tokens": 3,
    "reasoning_tokens": None,
  }
  line = _make_line("response", time="then", later="version", **more)
  assert get_fields(parse_event(line)) == _EVENTS["response"] | more
  for name in more:
    assert parse_event(_make_line("response", **{name: ["x"]})) is None


@pytest.mark.parametrize("name", ["prompt_tokens", "cached_tokens"])
@pytest.mark.parametrize("count", [10**400, 10**9 + 1, -1])
def test_a_count_beyond_all_reason_is_none(name, count):
  event = parse_event(_make_line("response", **{name: count}))
  assert event is not None and event[name] is None


@pytest.mark.parametrize(
  "line",
  [
    b"{",
    b"[]",
    b"\0\0\0",
    b"",
    b"\xff",
    b'{"event": "response"}',
    _make_line("request", key="../../x"),
    _make_line("request", key="0" * 63),
    _make_line("request", event="more"),
    _make_line("request", event=["request"]),
    b"[" * 100_000,
  ],
)
def test_what_is_no_event_is_damage(line):
  assert parse_event(line) is None
