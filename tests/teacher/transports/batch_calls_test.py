"""Tests of batch_calls.py; in their order, in batch_api_test.py."""

import functools
import json

import fault_server
import pytest
import teacher_calls
from fake_time import FakeTime
from fault_server import FaultServer

pytest.importorskip("openai")

from distill_jax.teacher.asking.exchange import TeacherError
from distill_jax.teacher.transports import batch_calls, connection
from distill_jax.teacher.transports.config import TeacherConfig


def _call(server, call_fn):
  """Returns what `call_fn` makes of the calls."""
  config = TeacherConfig(server.base_url, max_attempts=3)
  return teacher_calls.call(
    functools.partial(connection.Connection, config),
    lambda made: call_fn(batch_calls.BatchCalls(made, "24h")),
    FakeTime(),
  )


def _list_batches(pages):
  """Replies that list batches by pages of (id, input file)."""
  return [
    fault_server.json_body(
      {
        "data": [
          {"id": batch_id, "input_file_id": file_id}
          for batch_id, file_id in page
        ],
        "has_more": number < len(pages),
      }
    )
    for number, page in enumerate(pages, start=1)
  ]


def test_requests_are_uploaded_as_a_file():
  with FaultServer([fault_server.json_body({"id": "file-1"})]) as server:
    assert _call(server, lambda calls: calls.upload(b'{"x": 1}\n')) == "file-1"
  (received,) = server.received
  assert received.path == "/v1/files"
  assert b'\r\n\r\n{"x": 1}\n\r\n' in received.body


def test_a_batch_is_created_once():
  with FaultServer([fault_server.json_body({"id": "batch-1"})]) as server:
    found = _call(server, lambda calls: calls.create("file-1", "/v1/x"))
  assert found == "batch-1"
  assert json.loads(server.received[0].body) == {
    "input_file_id": "file-1",
    "endpoint": "/v1/x",
    "completion_window": "24h",
  }


def test_after_a_failure_it_is_looked_for_first():
  script = [
    fault_server.dropped(),
    *_list_batches([[("batch-1", "file-1")]]),
  ]
  with FaultServer(script) as server:
    found = _call(server, lambda calls: calls.create("file-1", "/v1/x"))
  assert found == "batch-1"
  assert [r.method for r in server.received] == ["POST", "GET"]


def test_every_page_is_looked_through():
  pages = [[("b1", "f1"), ("b2", "f2")], [("b3", "f3")], [("b4", "f4")]]
  for name in ("1", "2", "3", "4", "5"):
    with FaultServer(_list_batches(pages)) as server:
      found = _call(server, lambda calls, name=name: calls.find(f"f{name}"))
    assert found == (None if name == "5" else f"b{name}")
  queries = [r.path.partition("?")[2] for r in server.received]
  assert queries == ["limit=100", "limit=100&after=b2", "limit=100&after=b3"]


@pytest.mark.parametrize(
  "listed",
  [
    {"data": [{"id": "b1", "input_file_id": "f1"}], "has_more": True},
    {"data": [{"id": "../b", "input_file_id": "f2"}, "x", None]},
    {"data": {}, "has_more": True},
    {},
  ],
)
def test_a_list_that_does_not_end_or_is_none(listed):
  with FaultServer(answer=fault_server.json_body(listed)) as server:
    assert _call(server, lambda calls: calls.find("f2")) is None
  assert len(server.received) <= 2


def test_what_is_no_answer():
  with FaultServer(answer=fault_server.html_page()) as server:
    with pytest.raises(TeacherError):
      _call(server, lambda calls: calls.upload(b"{}"))
