"""Tests of sending.py with a transport that answers at once."""

import dataclasses

import pytest

from distill_jax.data.records import Record
from distill_jax.errors import UserError
from distill_jax.teacher.asking import exchange, journal, labelling, sending
from distill_jax.teacher.prompting import template_files, variants

_VARIANTS = [
  variants.Variant(template_files.load_template("svamp"), (model,))
  for model in ("m", "n")
]
# Two of the three are one question.
_QUESTIONS = [Record("a", "1 and 2?"), Record("b", "3?"), Record("c", "3?")]


class _Transport:
  """Remembers what it was asked."""

  def __init__(self):
    self.asked = []

  async def send(self, request):
    self.asked.append(request)
    return exchange.Response("3", "stop", 1, 1, request.model, 0.1, 1)

  async def close(self):
    pass


@pytest.fixture(name="own")
def fixture_own(tmp_path):
  with journal.Journal(tmp_path / "journal.jsonl") as own:
    yield own


def _send(own, questions, transport, asked=_VARIANTS):
  return sending.send_unanswered(
    asked,
    lambda: questions,
    lambda: transport,
    own,
    journal.Answers([own]),
    labelling.Limits(max_concurrency=50),
  )


def test_each_request_without_an_answer_is_sent_once(own):
  first, second = _Transport(), _Transport()
  sent = _send(own, _QUESTIONS[:1], first, _VARIANTS[:1])
  assert sent is not None and sent.progress.num_answered == 1
  _send(own, _QUESTIONS, second)
  assert [request.model for request in second.asked] == ["m", "n", "n"]
  keys = [request.key for request in first.asked + second.asked]
  assert len(set(keys)) == 4


def test_where_all_is_answered_no_transport_is_made(own):
  _send(own, _QUESTIONS, _Transport())
  assert _send(own, _QUESTIONS, None) is None


def test_why_nothing_is_sent_is_true(own, caplog):
  caplog.set_level("INFO")
  _send(own, [], None)
  assert "There are no questions to ask" in caplog.text
  _send(own, _QUESTIONS[1:], _Transport())
  _send(own, _QUESTIONS[1:], None)
  assert "Every request is answered already" in caplog.text
  caplog.clear()
  (request,) = variants.make_requests(_VARIANTS[0], _QUESTIONS[0])
  error = exchange.TeacherError("", kind="x", is_final=True, num_attempts=1)
  own.append_failure(request.key, error)
  _send(own, _QUESTIONS, None, _VARIANTS[:1])
  assert "1 requests are answered, and 1 failed for good" in caplog.text


@pytest.mark.parametrize("retry_failures, count", [(False, 1), (True, 2)])
def test_final_failures_count_where_they_are_asked_again(
  own, retry_failures, count
):
  (request,) = variants.make_requests(_VARIANTS[0], _QUESTIONS[0])
  error = exchange.TeacherError("", kind="x", is_final=True, num_attempts=1)
  own.append_failure(request.key, error)
  answers = journal.Answers([own])
  unanswered = sending.list_unanswered(
    _VARIANTS[:1], lambda: _QUESTIONS, answers, retry_failures
  )
  assert len(list(unanswered)) == count


def test_equal_requests_are_one(own):
  twice = [_QUESTIONS[0], dataclasses.replace(_QUESTIONS[0], id="again")]
  (only,) = sending.list_unanswered(
    _VARIANTS[:1], lambda: twice, journal.Answers([own]), False
  )
  assert only == variants.make_requests(_VARIANTS[0], _QUESTIONS[0])[0]


def test_a_question_that_cannot_be_asked_stops_all(own):
  choosing = variants.Variant(template_files.load_template("cqa"), ("m",))
  transport = _Transport()
  with pytest.raises(UserError, match="'a' has no options"):
    _send(own, _QUESTIONS, transport, [_VARIANTS[0], choosing])
  assert transport.asked == []
