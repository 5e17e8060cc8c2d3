"""Sending: how many at once, each once, and every way to end."""

import asyncio
import dataclasses
import json

import pytest

from distill_jax.errors import UserError
from distill_jax.teacher.asking import budget, journal, labelling, ledger
from distill_jax.teacher.asking.exchange import Request, Response, TeacherError

LIMITS = labelling.Limits(max_concurrency=3, drain_seconds=10.0)


def make_requests(*texts):
  return [
    (Request("m", "completions", text, {}), f"id {i}")
    for i, text in enumerate(texts)
  ]


class FakeTeacher:
  """Answers in a few turns of the loop; `reply_fn` may raise instead."""

  def __init__(self, reply_fn=str.upper, num_turns=3):
    self.sent = []
    self.num_under_way = self.max_under_way = 0
    self._reply_fn = reply_fn
    self._num_turns = num_turns

  async def send(self, request):
    self.sent.append(request.prompt)
    self.num_under_way += 1
    self.max_under_way = max(self.max_under_way, self.num_under_way)
    try:
      for _ in range(self._num_turns):
        await asyncio.sleep(0)
      text = self._reply_fn(request.prompt)
      if asyncio.iscoroutine(text):
        text = await text
      return Response(text, "stop", 10, 2, "m", 0.0, 1)
    finally:
      self.num_under_way -= 1

  async def close(self):
    pass


@pytest.fixture(name="own")
def fixture_own(tmp_path):
  with journal.Journal(tmp_path / "journal.jsonl") as own:
    yield own


def run(own, requests, teacher, limits=LIMITS, stop_fn=None, progress_fn=None):
  async def answer():
    stop = labelling.Stop()
    if stop_fn is not None:
      stop_fn(stop)
    # A run that hangs is to fail.
    async with asyncio.timeout(60):
      return await labelling.answer_requests(
        requests,
        teacher,
        own,
        journal.Answers([own]),
        limits,
        stop,
        progress_fn or (lambda progress: None),
      )

  return asyncio.run(answer())


def fail(kind="server_error", is_final=False):
  def reply(text):
    raise TeacherError("no", kind=kind, is_final=is_final, num_attempts=2)

  return reply


def _list_events(own):
  lines = map(json.loads, own.path.read_text().splitlines())
  return [line["event"] for line in lines]


def test_every_request_is_answered_and_few_at_once(own):
  requests = make_requests(*(f"text {i}" for i in range(20)))
  teacher = FakeTeacher()
  progress = run(own, requests, teacher)
  assert sorted(teacher.sent) == sorted(r.prompt for r, _ in requests)
  assert teacher.max_under_way == 3
  for request, _ in requests:
    assert own.read_response(request.key).text == request.prompt.upper()
  assert progress == labelling.Progress(
    num_sent=20, num_answered=20, prompt_tokens=200, completion_tokens=40
  )
  assert own.num_unsynced == 0


def test_a_request_is_journaled_before_it_is_sent(own):
  (request, _), *_ = requests = make_requests("one")

  def look(text):
    assert own.get_num_asked(request.key) == 1
    assert _list_events(own) == ["request"]
    return text

  run(own, requests, FakeTeacher(look))
  assert _list_events(own) == ["request", "response"]


def test_what_is_answered_is_not_sent_again(own):
  requests = make_requests(*(f"text {i}" for i in range(200)))
  run(own, requests[:150:2], FakeTeacher())
  teacher = FakeTeacher()
  run(own, requests, teacher)
  expected = {r.prompt for r, _ in requests} - {
    r.prompt for r, _ in requests[:150:2]
  }
  assert sorted(teacher.sent) == sorted(expected)


def test_equal_requests_are_sent_once(own):
  requests = make_requests("same", "same", "other", "same") * 3
  teacher = FakeTeacher()
  run(own, requests, teacher)
  assert sorted(teacher.sent) == ["other", "same"]


def test_a_failure_is_not_tried_twice_in_one_run(own):
  requests = make_requests("same") * 4
  teacher = FakeTeacher(fail())
  progress = run(
    own, requests, teacher, labelling.Limits(1), progress_fn=lambda p: None
  )
  assert teacher.sent == ["same"]
  assert progress.num_open == 1


@pytest.mark.parametrize(
  "is_final, retry_failures, num_sent",
  [(False, False, 1), (True, False, 0), (True, True, 1)],
)
def test_failures_of_an_earlier_run(own, is_final, retry_failures, num_sent):
  requests = make_requests("one")
  progress = run(own, requests, FakeTeacher(fail(is_final=is_final)))
  assert (progress.num_failed, progress.num_open) == (is_final, not is_final)
  assert progress.last_failure == "server_error: no"
  teacher = FakeTeacher()
  limits = labelling.Limits(2, retry_failures=retry_failures)
  run(own, requests, teacher, limits)
  assert len(teacher.sent) == num_sent
  assert own.has_response(requests[0][0].key) == bool(num_sent)


def test_a_server_in_trouble_is_left_alone(own):
  requests = make_requests(*(f"text {i}" for i in range(50)))
  teacher = FakeTeacher(fail())
  limits = labelling.Limits(1, max_open_failures=4)
  progress = run(own, requests, teacher, limits)
  assert progress.is_in_trouble
  assert len(teacher.sent) == 4


@pytest.mark.parametrize("is_final", [True, False])
def test_only_failures_in_a_row_that_might_pass_are_trouble(own, is_final):
  def reply(text):
    number = int(text)
    if number % 4:
      fail(is_final=is_final)(text)
    return text

  requests = make_requests(*map(str, range(40)))
  progress = run(
    own, requests, FakeTeacher(reply), labelling.Limits(1, max_open_failures=4)
  )
  assert not progress.is_in_trouble
  assert progress.num_sent == 40


def _reject(text):
  raise TeacherError(
    "Unsupported parameter", kind="rejected", is_final=True, num_attempts=1
  )


def test_a_server_that_wants_nothing_is_not_asked_on(own):
  requests = make_requests(*(f"text {i}" for i in range(50)))
  teacher = FakeTeacher(_reject)
  limits = labelling.Limits(1, max_first_refusals=3)
  with pytest.raises(UserError, match="first 3 requests.*Unsupported"):
    run(own, requests, teacher, limits)
  assert len(teacher.sent) == 3


@pytest.mark.parametrize(
  "num_answered, retry_failures", [(1, False), (0, True)]
)
def test_refusals_among_answers_end_nothing(own, num_answered, retry_failures):
  requests = make_requests(*map(str, range(20)))
  teacher = FakeTeacher(
    lambda text: text if int(text) < num_answered else _reject(text)
  )
  limits = labelling.Limits(
    1, max_first_refusals=3, retry_failures=retry_failures
  )
  progress = run(own, requests, teacher, limits)
  assert progress.num_failed == 20 - num_answered


def _doubt(text):
  raise TeacherError(
    "HTTP 404", kind="rejected", is_final=True, num_attempts=1, advice="Look."
  )


def _doubt_where(is_refused_fn):
  return lambda text: _doubt(text) if is_refused_fn(int(text)) else text


def test_a_refused_question_among_answers_has_failed(own):
  requests = make_requests(*map(str, range(30)))
  teacher = FakeTeacher(_doubt_where(lambda number: number % 3 == 0))
  progress = run(own, requests, teacher)
  assert (progress.num_answered, progress.num_failed) == (20, 10)
  assert progress.num_open == 0
  key = requests[3][0].key
  failure = own.read_failure(key)
  assert failure.is_final and failure.message == "Question 'id 3': HTTP 404"
  # Not again.
  teacher = FakeTeacher()
  run(own, requests, teacher)
  assert teacher.sent == []


@pytest.mark.parametrize("num_answered, num_sent", [(0, 3), (2, 2 + 20)])
def test_refusals_in_a_row_are_about_all(own, num_answered, num_sent):
  requests = make_requests(*map(str, range(60)))
  teacher = FakeTeacher(_doubt_where(lambda number: number >= num_answered))
  with pytest.raises(UserError, match="Look. So ended question 'id ") as caught:
    run(own, requests, teacher, labelling.Limits(1))
  assert len(teacher.sent) == num_sent
  assert ("nothing was answered" in str(caught.value)) == (not num_answered)
  teacher = FakeTeacher()
  run(own, requests, teacher)
  assert len(teacher.sent) == 60 - num_answered  # None of them has failed.


def test_refusals_come_before_the_answers_that_clear_them(own):
  async def take_time(text):
    await asyncio.sleep(0.01)
    return text

  requests = make_requests(*map(str, range(20)))
  teacher = FakeTeacher(
    lambda text: _doubt(text) if int(text) < 7 else take_time(text)
  )
  progress = run(own, requests, teacher, labelling.Limits(8))
  assert (progress.num_answered, progress.num_failed) == (13, 7)


def test_a_model_that_refuses_all_beside_one_that_answers(own):
  requests = [
    (Request(model, "completions", text, {}), f"id {text}")
    for text in map(str, range(30))
    for model in ("good", "bad")
  ]

  class Teacher(FakeTeacher):
    async def send(self, request):
      if request.model == "bad":
        _doubt(request.prompt)
      return await super().send(request)

  with pytest.raises(UserError, match="Look"):
    run(own, requests, Teacher(), labelling.Limits(1))
  assert not own.has_final_failure(requests[1][0].key)


def test_only_refused_questions_are_left(own):
  requests = make_requests(*map(str, range(9)))
  run(own, requests[:8], FakeTeacher())
  with pytest.raises(UserError, match="same command again counts them"):
    run(own, requests, FakeTeacher(_doubt))
  assert run(own, requests, FakeTeacher(_doubt)).num_failed == 1
  assert own.has_final_failure(requests[8][0].key)


def test_nothing_was_ever_answered(own):
  for _ in range(3):
    with pytest.raises(UserError, match="Look"):
      run(own, make_requests("0"), FakeTeacher(_doubt))


class OddTeacher(FakeTeacher):
  """Answers without a text, of these statuses in turn."""

  def __init__(self, *statuses):
    super().__init__()
    self._statuses = list(statuses)

  async def send(self, request):
    response = await super().send(request)
    status = self._statuses.pop(0) if self._statuses else "answered"
    if status == "answered":
      return response
    return dataclasses.replace(response, text="", status=status, raw="x")


def _read_responses(own):
  lines = map(json.loads, own.path.read_text().splitlines())
  return [line["status"] for line in lines if line["event"] == "response"]


def test_what_cannot_be_read_is_asked_once_more_after_the_others(own):
  requests = make_requests("a", "b", "c")
  teacher = OddTeacher("unreadable")
  progress = run(own, requests, teacher, labelling.Limits(1))
  assert teacher.sent == ["a", "b", "c", "a"]
  assert (progress.num_answered, progress.num_open) == (3, 0)
  assert _read_responses(own) == ["unreadable"] + ["answered"] * 3
  assert progress.prompt_tokens == 40


@pytest.mark.parametrize("num_runs", [1, 2])
def test_it_is_asked_twice_over_all_runs(own, num_runs):
  requests = make_requests("a")
  if num_runs == 2:
    with pytest.raises(UserError):
      limits = labelling.Limits(1, max_first_refusals=1)
      run(own, requests, OddTeacher("unreadable"), limits)
    assert not own.has_final_failure(requests[0][0].key)
  progress = run(own, requests, OddTeacher(*["unreadable"] * 9))
  assert (progress.num_failed, progress.num_open) == (1, 0)
  assert _read_responses(own) == ["unreadable"] * 2
  teacher = FakeTeacher()
  run(own, requests, teacher)
  assert teacher.sent == []
  run(own, requests, teacher, labelling.Limits(1, retry_failures=True))
  assert own.read_response(requests[0][0].key).text == "A"


def test_nothing_is_asked_once_more_beyond_the_budget(own):
  requests = make_requests("a", "b")
  teacher = OddTeacher("unreadable")
  # Each answer has 12 tokens, and a next one may have 4096 beside its prompt.
  limit = budget.Budget([own.ledger], None, None, 4096 + 30)
  progress = run(own, requests, teacher, labelling.Limits(1, budget=limit))
  assert teacher.sent == ["a", "b"]
  assert progress.is_budget_spent and progress.num_open == 1
  assert not own.has_final_failure(requests[0][0].key)


def test_answers_that_cannot_be_read_in_a_row_are_trouble(own):
  requests = make_requests(*map(str, range(50)))
  limits = labelling.Limits(1, max_open_failures=5)
  teacher = OddTeacher("answered", *["unreadable"] * 40)
  progress = run(own, requests, teacher, limits)
  assert progress.is_in_trouble and len(teacher.sent) == 6
  assert progress.num_open == 5 and progress.num_failed == 0


@pytest.mark.parametrize("status", ["empty", "refused", "unreadable"])
def test_the_first_answers_are_of_no_use(own, status):
  requests = make_requests(*map(str, range(50)))
  limits = labelling.Limits(1, max_first_refusals=4)
  with pytest.raises(UserError, match=f"none got an answer of use .4 {status}"):
    run(own, requests, OddTeacher(*[status] * 50), limits)


def test_what_was_not_sent_says_nothing_of_the_server(own):
  def refuse(text):
    raise TeacherError("no", kind="too_large", is_final=True, num_attempts=0)

  requests = make_requests(*map(str, range(50)))
  assert run(own, requests, FakeTeacher(refuse)).num_failed == 50


def test_no_request_can_succeed(own):
  def refuse(text):
    if text != "text 0":
      raise UserError("no key")
    return text

  requests = make_requests(*(f"text {i}" for i in range(50)))
  teacher = FakeTeacher(refuse)
  with pytest.raises(UserError, match="no key"):
    run(own, requests, teacher)
  assert len(teacher.sent) <= 4
  # What was under way is kept.
  assert own.has_response(requests[0][0].key)
  assert own.num_unsynced == 0


def test_what_ended_a_run_is_neither_lost_nor_a_refusal_of_its_question(own):
  def end(text):
    raise UserError("no credit")

  requests = make_requests("0", "1")
  run(own, requests[:1], FakeTeacher())
  with pytest.raises(UserError, match="no credit"):
    run(own, requests, FakeTeacher(end))
  assert ledger.summarize([own.ledger], None, None)["num_unknown"] == 0
  # The first time that the question itself is refused.
  with pytest.raises(UserError, match="same command again counts them"):
    run(own, requests, FakeTeacher(_doubt))


def test_a_bug_ends_the_run_and_is_told(own):
  def break_down(text):
    raise ZeroDivisionError

  with pytest.raises(ZeroDivisionError):
    run(own, make_requests("a", "b"), FakeTeacher(break_down))


def test_a_bad_question_on_the_way_ends_the_run(own):
  def list_requests():
    yield from make_requests("a")
    raise UserError("line 2")

  with pytest.raises(UserError, match="line 2"):
    run(own, list_requests(), FakeTeacher())
  assert own.has_response(make_requests("a")[0][0].key)


def test_a_stop_waits_for_what_is_under_way(own):
  stops = []

  async def take_time(text):
    await asyncio.sleep(0.01)
    return text

  def reply(text):
    if text == "text 0":
      stops[0].ask()
      return text
    return take_time(text)

  requests = make_requests(*(f"text {i}" for i in range(50)))
  teacher = FakeTeacher(reply)
  progress = run(own, requests, teacher, stop_fn=stops.append)
  assert progress.num_answered == progress.num_sent == len(teacher.sent)
  assert 3 <= len(teacher.sent) <= 4


@pytest.mark.parametrize("num_stops, drain_seconds", [(2, 1000.0), (1, 0.0)])
def test_a_stop_without_patience(own, num_stops, drain_seconds):
  stops = []

  async def hang():
    await asyncio.Event().wait()

  def reply(text):
    if text != "text 0":
      return hang()
    for _ in range(num_stops):
      stops[0].ask()
    return text

  requests = make_requests(*(f"text {i}" for i in range(50)))
  progress = run(
    own,
    requests,
    FakeTeacher(reply),
    labelling.Limits(3, drain_seconds=drain_seconds),
    stop_fn=stops.append,
  )
  assert progress.num_answered == 1
  assert own.has_response(requests[0][0].key)
  assert not own.has_response(requests[1][0].key)
  assert own.num_unsynced == 0


def test_a_full_disk_ends_the_run(own, monkeypatch):
  def refuse(descriptor, content):
    raise OSError(28, "No space left on device")

  monkeypatch.setattr(journal.append_file, "write_all", refuse)
  teacher = FakeTeacher()
  with pytest.raises(UserError, match="No space left"):
    run(own, make_requests("a", "b", "c", "d", "e"), teacher)
  assert teacher.sent == []


def test_lines_are_synced_on_the_way(own, monkeypatch):
  num_unsynced = []
  sync = own.sync

  def note():
    num_unsynced.append(own.num_unsynced)
    sync()

  monkeypatch.setattr(own, "sync", note)

  async def take_time():
    await asyncio.sleep(0.002)
    return "text"

  requests = make_requests(*(f"text {i}" for i in range(60)))
  limits = labelling.Limits(3, sync_lines=10, sync_seconds=1000.0)
  run(own, requests, FakeTeacher(lambda _: take_time()), limits)
  assert len(num_unsynced) > 4
  assert own.num_unsynced == 0


@pytest.mark.parametrize("num_requests", [1, 2])
def test_the_last_line_may_be_due_when_the_run_ends(
  own, monkeypatch, num_requests
):
  """A sync that is asked for and called off in one turn of the loop."""
  for num_turns in range(12):

    async def call_slowly(function, num_turns=num_turns):
      for _ in range(num_turns):
        await asyncio.sleep(0)
      function()

    monkeypatch.setattr(labelling.asyncio, "to_thread", call_slowly)
    texts = [f"{num_turns} {i}" for i in range(num_requests)]
    limits = labelling.Limits(1, sync_lines=1, sync_seconds=1000.0)
    progress = run(own, make_requests(*texts), FakeTeacher(), limits)
    assert progress.num_answered == num_requests
    assert own.num_unsynced == 0


def test_a_disk_that_refuses_ends_the_run(own, monkeypatch):
  def refuse():
    raise UserError("Input/output error")

  monkeypatch.setattr(own, "sync", refuse)
  requests = make_requests(*(f"text {i}" for i in range(10)))
  with pytest.raises(UserError, match="Input/output error"):
    run(own, requests, FakeTeacher(), labelling.Limits(2, sync_lines=2))


def test_progress_is_told_after_each_outcome(own):
  seen = []
  run(
    own,
    make_requests("a", "b", "c"),
    FakeTeacher(),
    progress_fn=lambda progress: seen.append(progress.num_answered),
  )
  assert seen == [1, 2, 3]


def test_requests_are_read_as_they_are_needed(own):
  num_read = 0

  def list_requests():
    nonlocal num_read
    for pair in make_requests(*(f"text {i}" for i in range(30))):
      num_read += 1
      yield pair

  def look(text):
    assert num_read <= len(teacher.sent) + 1
    return text

  teacher = FakeTeacher(look)
  run(own, list_requests(), teacher)
  assert num_read == 30


# --- What a brake says, and attempts of a transport --------------------------


def _answer_with(finish_reason):
  async def send(request):
    del request
    return Response("3", finish_reason, 10, 2, "m", 0.0, 1)

  return send


@pytest.mark.parametrize(
  "finish_reason", ["SAFETY", "content-filter", "failed"]
)
def test_a_brake_does_not_promise_what_no_setting_does(own, finish_reason):
  teacher = FakeTeacher()
  teacher.send = _answer_with(finish_reason)
  with pytest.raises(UserError, match="20 answered") as caught:
    run(own, make_requests(*map(str, range(30))), teacher)
  assert "RETRY_FAILURES" not in str(caught.value)
  assert "not asked for again" in str(caught.value)


class RepeatingTeacher(FakeTeacher):
  """Makes several attempts at each request, as far as it may."""

  repeat_fn = None

  async def send(self, request):
    for _ in range(3):
      if not await self.repeat_fn(request):
        fail("timeout")(request)
    return await super().send(request)


def test_further_attempts_are_requests_in_the_journal(own):
  progress = run(own, make_requests("a", "b"), RepeatingTeacher())
  assert (progress.num_sent, progress.num_answered) == (2, 2)
  summary = ledger.summarize([own.ledger], None, None)
  assert (summary["num_requests"], summary["num_unknown"]) == (8, 6)


@pytest.mark.parametrize("max_concurrency", [1, 2, 5])
def test_further_attempts_keep_to_the_budget(own, max_concurrency):
  limit = budget.Budget([own.ledger], None, None, 9 * 4097)
  limits = labelling.Limits(max_concurrency, budget=limit)
  progress = run(own, make_requests(*"abcde"), RepeatingTeacher(), limits)
  assert progress.is_budget_spent
  num_unknown = ledger.summarize([own.ledger], None, None)["num_unknown"]
  assert 7 <= num_unknown <= 9


class _RefusingTeacher(RepeatingTeacher):
  """Makes attempts at "a" without end; refuses all else at once."""

  async def send(self, request):
    if request.prompt != "a":
      raise TeacherError(
        "no", kind="unauthorized", is_final=True, num_attempts=1, advice="Key?"
      )
    while await self.repeat_fn(request):
      await asyncio.sleep(0)
    return fail("timeout")(request)


def test_attempts_and_refusals_do_not_wait_for_each_other(own):
  limit = budget.Budget([own.ledger], None, None, 6 * 4097)
  limits = labelling.Limits(4, budget=limit)
  with pytest.raises(UserError, match="Key?"):
    run(own, make_requests(*"abcd"), _RefusingTeacher(), limits)


class _KeepingTeacher(FakeTeacher):
  """Has some requests of an earlier run still, as a batch does."""

  def __init__(self, kept):
    super().__init__()
    self._kept = kept

  def has_submitted(self, key):
    return key in self._kept


def test_what_the_server_has_still_is_not_a_request_anew(own):
  requests = make_requests("a", "b")
  for request, question in requests:
    own.append_request(request.key, request, question)
  # Of an earlier run, whose two requests used the budget up.
  limit = budget.Budget([own.ledger], None, None, 2 * 4097)
  limits = labelling.Limits(2, budget=limit)
  kept = [request.key for request, _ in requests]
  progress = run(own, requests, _KeepingTeacher(kept), limits)
  assert progress.num_answered == 2
  paid = ledger.summarize([own.ledger], None, None)
  assert (paid["num_requests"], paid["num_unknown"]) == (2, 0)


def test_what_the_server_had_and_failed_is_a_request_anew(own):
  ((request, question),) = make_requests("a")
  own.append_request(request.key, request, question)
  own.append_failure(
    request.key,
    TeacherError("no", kind="timeout", is_final=False, num_attempts=1),
  )
  run(own, [(request, question)], _KeepingTeacher([request.key]))
  paid = ledger.summarize([own.ledger], None, None)
  assert (paid["num_requests"], paid["num_unknown"]) == (2, 1)
