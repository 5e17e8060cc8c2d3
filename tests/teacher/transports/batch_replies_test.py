"""Replies and files of the batch API, good and odd."""

import json

import pytest

from distill_jax.teacher.asking.exchange import Response
from distill_jax.teacher.reading import replies
from distill_jax.teacher.transports import batch_replies

KEY = "0123456789abcdef" * 4
BODY = {"choices": [{"message": {"content": "3"}}]}


def _read(result):
  line = result if isinstance(result, bytes) else json.dumps(result).encode()
  return batch_replies.read_result(line, "chat", 5.0)


def test_an_answered_request():
  key, response = _read(
    {"custom_id": KEY, "response": {"status_code": 200, "body": BODY}}
  )
  assert key == KEY
  assert response == Response("3", None, None, None, None, 5.0, 1)


@pytest.mark.parametrize(
  ("result", "kind", "is_final"),
  [
    ({"response": {"status_code": 400, "body": {}}}, "rejected", True),
    ({"response": {"status_code": 429, "body": None}}, "rate_limited", False),
    ({"response": {"status_code": "200"}}, "server_error", False),
    ({"response": None, "error": {"code": "expired"}}, "server_error", False),
    ({}, "server_error", False),
  ],
  ids=str,
)
def test_one_that_was_not(result, kind, is_final):
  key, failure = _read({"custom_id": KEY, **result})
  assert key == KEY and isinstance(failure, replies.Failure)
  assert (failure.kind, failure.is_final) == (kind, is_final)


@pytest.mark.parametrize("body", [{}, None, [], "<html>", 7])
def test_a_success_that_cannot_be_read_is_an_answer(body):
  _, response = _read({"custom_id": KEY, "response": _succeed(body)})
  assert (response.status, response.num_attempts) == ("unreadable", 1)


def test_a_stream_inside_a_batch_is_read():
  body = f"data: {json.dumps(BODY)}\n\ndata: [DONE]\n\n"
  _, response = _read({"custom_id": KEY, "response": _succeed(body)})
  assert response.text == "3"


def _succeed(body):
  return {"status_code": 200, "body": body}


@pytest.mark.parametrize(
  "line",
  [b"", b"7", b"[[", b"\xff", b"{}", b'{"custom_id": ["a"]}', b"[" * 99999],
)
def test_a_line_that_is_no_result_is_nobodys(line):
  key, failure = _read(line)
  assert key == "" and isinstance(failure, replies.Failure)


def test_a_line_that_was_cut_off_is_still_someones():
  line = json.dumps(
    {"custom_id": KEY, "response": {"status_code": 200, "body": BODY}}
  ).encode()
  key, failure = _read(line[:-9])
  assert key == KEY and failure.is_final and failure.kind == "bad_response"


@pytest.mark.parametrize(
  ("value", "is_plain"),
  [
    ("batch_67-A:b", True),
    ("", False),
    ("a/b", False),
    ("..", False),
    ("a?b", False),
    ("a%2fb", False),
    ("ä", False),
    ("a" * 257, False),
    (None, False),
    (7, False),
  ],
)
def test_ids_that_may_stand_in_a_path(value, is_plain):
  assert batch_replies.is_plain_id(value) == is_plain


@pytest.mark.parametrize(
  ("content", "required", "is_good"),
  [
    (b'{"id": "a"}', "id", True),
    (b'{"id": "a/../b"}', "id", False),
    (b'{"id": 7}', "id", False),
    (b'{"status": "any words"}', "status", True),
    (b"{}", "status", False),
    (b"{}", None, True),
    (b"[]", None, False),
    (b"<html>", None, False),
    (b"\xff", None, False),
    (b"[" * 99999, None, False),
  ],
  ids=lambda value: repr(value)[:20],
)
def test_objects(content, required, is_good):
  read = batch_replies.read_object(content, required)
  assert isinstance(read, dict) == is_good
  if not is_good:
    assert not read.is_final and read.kind == "bad_response"


@pytest.mark.parametrize(
  ("described", "seconds"),
  [
    ({"created_at": 10, "completed_at": 25}, 15),
    ({"created_at": 10, "completed_at": None}, 0),
    ({"created_at": "a", "completed_at": 3}, 0),
    ({"created_at": 30, "completed_at": 25}, 0),
    ({}, 0),
  ],
  ids=str,
)
def test_durations(described, seconds):
  assert batch_replies.get_duration(described) == seconds


def test_progress_in_words():
  counts = {"total": 9, "completed": 4, "failed": "x" * 1000}
  said = batch_replies.describe_progress("in_progress", counts)
  assert said == "in_progress, 4 of 9 answered, ? failed"
  assert batch_replies.describe_progress("a\nb", None) == "a b"
