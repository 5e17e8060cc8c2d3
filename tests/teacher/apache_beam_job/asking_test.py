"""One shard of questions: what is asked, what is kept, and what is told."""

import json

import fault_server
import pytest

from distill_jax.data.records import Record
from distill_jax.errors import UserError
from distill_jax.teacher.asking import journal
from distill_jax.teacher.asking.exchange import Response
from distill_jax.teacher.asking.labelling import Limits, Progress
from distill_jax.teacher.prompting import template_files, variants
from distill_jax.teacher.transports import client
from distill_jax.teacher.transports.config import TeacherConfig

pytest.importorskip(
  "apache_beam", reason="apache_beam is not installed: pip install '.[beam]'"
)

from distill_jax.teacher.apache_beam_job import asking as beam_asking

_VARIANT = variants.Variant(
  template_files.load_template("svamp"), ("m",), num_samples=2, temperature=0.5
)
_FAILURE = journal.Failure("rejected", "no", True, 1)


def _make_response(text="so"):
  return Response(text, "stop", 1, 2, "m", 0.5, 1)


def _make_question(number, answers=None):
  record = Record(f"q{number}", f"Ann has {number}?")
  keys = tuple(r.key for r in variants.make_requests(_VARIANT, record))
  return beam_asking.Question((0, number), record, keys, answers or {})


def _make_config(server, **fields):
  return TeacherConfig(server.base_url, max_concurrency=4, **fields)


def _make_ask(server, folder, retry_failures=False, **fields):
  return beam_asking.Ask(
    _VARIANT,
    _make_config(server, **fields),
    Limits(max_concurrency=4, retry_failures=retry_failures),
    str(folder),
    2,
  )


def _process(ask, questions, problems=()):
  """Returns the questions that come out, and what comes out beside them."""
  ask.setup()
  try:
    outputs = list(ask.process((1, questions), list(problems)))
  finally:
    ask.teardown()
  is_question = lambda output: isinstance(output, beam_asking.Question)
  beside = [(o.tag, o.value) for o in outputs if not is_question(o)]
  return list(filter(is_question, outputs)), beside


def test_found_answers_are_answers():
  found = beam_asking.FoundAnswers(
    {"a" * 64: _make_response(), "b" * 64: _FAILURE}
  )
  assert found.has_response("a" * 64) and not found.has_response("b" * 64)
  assert found.read_response("a" * 64) == _make_response()
  assert found.read_response("b" * 64) is None
  assert found.has_final_failure("b" * 64)
  assert not found.has_final_failure("a" * 64)
  assert found.read_failure("b" * 64) == _FAILURE
  assert found.read_failure("c" * 64) is None


def test_only_what_is_open_is_asked(tmp_path):
  half, whole = _make_question(1), _make_question(2)
  half = _make_question(1, {half.keys[1]: _make_response("known")})
  failed = _make_question(3)
  failed = _make_question(
    3, {failed.keys[0]: _FAILURE, failed.keys[1]: _make_response("known")}
  )
  with fault_server.FaultServer() as server:
    questions, beside = _process(
      _make_ask(server, tmp_path), [half, whole, failed]
    )
    assert len(server.received) == 3
  assert [q.record.id for q in questions] == ["q1", "q2", "q3"]
  assert not any(q.is_open(False) for q in questions)
  assert [q.is_open(True) for q in questions] == [False, False, True]
  assert questions[0].answers[half.keys[1]].text == "known"
  assert questions[0].answers[half.keys[0]].text.startswith("answer to")
  assert questions[2].answers == failed.answers
  ((tag, progress),) = beside
  assert tag == beam_asking.PROGRESS
  assert (progress.num_sent, progress.num_answered) == (3, 3)


def test_failures_are_asked_again_on_demand(tmp_path):
  key = _make_question(1).keys[0]
  question = _make_question(
    1, {key: _FAILURE, _make_question(1).keys[1]: _make_response()}
  )
  with fault_server.FaultServer() as server:
    ask = _make_ask(server, tmp_path, retry_failures=True)
    (answered,), _ = _process(ask, [question])
    assert len(server.received) == 1
  assert answered.answers[key].text.startswith("answer to")


def test_a_bundle_that_is_tried_again_asks_nothing_twice(tmp_path):
  """Though its input is as before, and a torn line ends its journal."""
  questions = [_make_question(i) for i in range(6)]

  class Broken(list):
    """Questions that end in an error when they are gone through again."""

    num_left = 2

    def __iter__(self):
      self.num_left -= 1
      if not self.num_left:
        raise RuntimeError("the worker is gone")
      return super().__iter__()

  with fault_server.FaultServer() as server:
    with pytest.raises(RuntimeError, match="worker is gone"):
      _process(_make_ask(server, tmp_path), Broken(questions))
    assert len(server.received) == 12
    path = tmp_path / "shard-1-of-2" / "journal.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    last = json.loads(lines[-1])
    assert last["event"] == "response"
    path.write_bytes(b"".join(lines)[:-5])
    answered, _ = _process(_make_ask(server, tmp_path), questions)
    assert len(server.received) == 13  # The one whose answer was torn.
  assert len(answered) == 6
  assert not any(question.is_open(False) for question in answered)


def test_an_attempt_that_still_runs_is_not_disturbed(tmp_path):
  place = tmp_path / "shard-1-of-2"
  with fault_server.FaultServer() as server:
    with journal.Journal(place / "journal.jsonl"):
      questions, beside = _process(
        _make_ask(server, tmp_path), [_make_question(1)]
      )
    assert server.received == []
  assert questions == []
  ((tag, said),) = beside
  assert tag == beam_asking.PROBLEM and "is in use by process" in said


def test_nothing_is_asked_where_there_are_problems(tmp_path):
  with fault_server.FaultServer() as server:
    ask = _make_ask(server, tmp_path)
    assert _process(ask, [_make_question(1)], ["bad line"]) == ([], [])
    assert server.received == []
  assert list(tmp_path.iterdir()) == []


def test_the_key_is_read_by_the_worker(tmp_path, monkeypatch):
  monkeypatch.delenv("TEACHER_KEY", raising=False)
  with fault_server.FaultServer() as server:
    ask = _make_ask(server, tmp_path, api_key_variable="TEACHER_KEY")
    monkeypatch.setenv("TEACHER_KEY", "sk-0123456789abcdef")
    _process(ask, [_make_question(1)])
    assert {r.headers["authorization"] for r in server.received} == {
      "Bearer sk-0123456789abcdef"
    }
    monkeypatch.setenv("TEACHER_KEY", "no key")
    ask = _make_ask(server, tmp_path, api_key_variable="TEACHER_KEY")
    _, ((tag, said),) = _process(ask, [_make_question(2)])
  assert tag == beam_asking.PROBLEM and "TEACHER_KEY holds blanks" in said


def test_a_server_that_refuses_all(tmp_path, monkeypatch):
  monkeypatch.setenv("OPENAI_API_KEY", "sk-0123456789abcdef")
  with fault_server.FaultServer(answer=fault_server.status(401)) as server:
    questions, beside = _process(
      _make_ask(server, tmp_path), [_make_question(i) for i in range(9)]
    )
  assert questions == []
  ((tag, said),) = beside
  assert tag == beam_asking.PROBLEM and "does not take the key" in said


def test_one_client_serves_several_shards(tmp_path):
  """A loop of its own for each would break the client's connections."""
  with fault_server.FaultServer() as server:
    ask = _make_ask(server, tmp_path)
    ask.setup()
    for shard in range(2):
      outputs = list(ask.process((shard, [_make_question(shard)]), []))
      assert not outputs[-1].is_open(False)
    ask.teardown()
    ask.teardown()  # As a runner may that tidies up after an error.
    assert len(server.received) == 4


def test_equal_questions_have_one_shard():
  questions = [_make_question(i) for i in range(200)]
  shards = [question.get_shard(7) for question in questions]
  assert set(shards) == set(range(7))
  twin = beam_asking.Question((5, 0), Record("x", "Ann has 9?"), (), {})
  keys = tuple(r.key for r in variants.make_requests(_VARIANT, twin.record))
  twin = beam_asking.Question((5, 0), twin.record, keys, {})
  assert twin.get_shard(7) == shards[9]


def test_limits_are_divided():
  config = TeacherConfig(
    "http://127.0.0.1:9/v1", max_concurrency=11, requests_per_minute=90
  )
  part = beam_asking.divide_limits(config, 4)
  assert part.max_concurrency == 2
  assert part.requests_per_minute == 22.5
  assert part.tokens_per_minute is None
  assert part.timeout_seconds == config.timeout_seconds
  with pytest.raises(UserError, match="--num_shards is 12, and MAX_CONCURREN"):
    beam_asking.divide_limits(config, 12)


def test_progress_is_summed():
  parts = [
    Progress(3, 1, 1, 1, 10, 20, True, "first"),
    Progress(2, 2, 0, 0, 5, 6, True, ""),
    Progress(),
  ]
  total = Progress(5, 3, 1, 1, 15, 26, True, "first")
  assert beam_asking.sum_progress(parts) == total
  assert beam_asking.sum_progress(parts[::-1]) == total
  assert beam_asking.sum_progress(iter(())) == Progress()
  assert beam_asking.sum_progress(parts).is_in_trouble is True


def test_more_is_not_sent_at_a_time(tmp_path, monkeypatch):
  """Half of the concurrency, because there are two shards."""

  def reply(received):
    body = fault_server.echo(received).body
    return fault_server.Reply(body=body, delay_seconds=0.02)

  with fault_server.FaultServer(answer=reply) as server:
    _process(_make_ask(server, tmp_path), [_make_question(i) for i in range(8)])
    assert server.max_concurrent == 2
  assert client.TeacherClient is beam_asking.TeacherClient
