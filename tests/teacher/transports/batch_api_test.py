"""Batches against a server that has them."""

import asyncio
import dataclasses
import functools
import json

import fault_server
import pytest
import teacher_calls
from fake_time import FakeTime
from fault_server import BatchServer

from distill_jax.errors import UserError
from distill_jax.teacher.asking.exchange import Request, Response, TeacherError
from distill_jax.teacher.transports import batch_api
from distill_jax.teacher.transports.config import TeacherConfig

KEY = "sk-0123456789abcdefghijklmnop"


def make_request(index, model="m", endpoint="chat"):
  text = f"question {index}"
  prompt = [{"role": "user", "content": text}] if endpoint == "chat" else text
  return Request(model, endpoint, prompt, {"max_tokens": 8})


REQUESTS = [make_request(index) for index in range(4)]


@pytest.fixture
def state_path(tmp_path):
  return tmp_path / "batches.json"


def use(server, state_path, run_fn, fake_time=None, **settings):
  """Runs `run_fn` with a transport; returns what it returns."""
  fake_time = fake_time or FakeTime()
  config = {
    name: settings.pop(name)
    for name in ("max_attempts", "max_response_bytes", "timeout_seconds")
    if name in settings
  }
  make_fn = functools.partial(
    batch_api.BatchTransport,
    TeacherConfig(server.base_url, **config),
    batch_api.BatchConfig(state_path, **settings),
  )
  return teacher_calls.call(make_fn, run_fn, fake_time)


def send_all(server, state_path, requests, fake_time=None, **settings):
  """Sends requests at once; returns answers and errors in their order."""
  settings.setdefault("idle_seconds", 0.01)
  return use(
    server,
    state_path,
    lambda transport: teacher_calls.send_together(transport, requests),
    fake_time,
    **settings,
  )


def get_texts(outcomes):
  return [
    outcome.text if isinstance(outcome, Response) else type(outcome).__name__
    for outcome in outcomes
  ]


ANSWERS = [f"answer to question {index}" for index in range(4)]


def test_a_batch_from_requests_to_answers(monkeypatch, state_path, fake_time):
  monkeypatch.setenv("OPENAI_API_KEY", KEY)
  with BatchServer(polls_until_done=3) as server:
    outcomes = send_all(server, state_path, REQUESTS, fake_time, poll_seconds=9)
  assert get_texts(outcomes) == ANSWERS
  assert outcomes[0] == Response(
    "answer to question 0", "stop", 11, 7, "m", 60.0, 1
  )
  assert server.count("POST", "/v1/batches") == 1
  assert fake_time.sleeps == [9, 9, 9]
  (batch,) = server.batches.values()
  lines = [
    json.loads(line) for line in server.files[batch.input_file_id].splitlines()
  ]
  assert lines == [
    {
      "custom_id": request.key,
      "method": "POST",
      "url": "/v1/chat/completions",
      "body": {"model": "m", "messages": request.prompt, "max_tokens": 8},
    }
    for request in REQUESTS
  ]
  created = next(r for r in server.received if r.path == "/v1/batches")
  assert created.json == {
    "input_file_id": batch.input_file_id,
    "endpoint": "/v1/chat/completions",
    "completion_window": "24h",
  }
  for received in server.received:
    assert received.headers["authorization"] == f"Bearer {KEY}"
  assert KEY not in state_path.read_text()


def test_progress_is_said_when_there_is_some(state_path, caplog):
  with caplog.at_level("INFO"), BatchServer(polls_until_done=5) as server:
    send_all(server, state_path, REQUESTS)
  said = [
    r.getMessage() for r in caplog.records if r.name.startswith("distill")
  ]
  assert [text.partition(": ")[2] for text in said] == [
    "4 requests submitted.",
    "in_progress, 0 of 4 answered, 0 failed",
    "completed, 4 of 4 answered, 0 failed",
  ]


def test_a_batch_has_one_model_and_one_endpoint(state_path):
  requests = [
    make_request(0),
    make_request(1, model="another"),
    make_request(2, endpoint="completions"),
    make_request(3),
  ]
  with BatchServer() as server:
    assert get_texts(send_all(server, state_path, requests)) == ANSWERS
  endpoints = [batch.endpoint for batch in server.batches.values()]
  assert sorted(endpoints) == [
    "/v1/chat/completions",
    "/v1/chat/completions",
    "/v1/completions",
  ]


def test_equal_requests_are_asked_once(state_path):
  with BatchServer() as server:
    outcomes = send_all(server, state_path, [REQUESTS[0]] * 3)
  assert get_texts(outcomes) == ANSWERS[:1] * 3
  assert len(server.custom_ids) == 1


@pytest.mark.parametrize(
  ("settings", "num_batches"),
  [
    ({"max_requests": 2}, 2),
    ({"max_requests": 3}, 2),
    ({"max_requests": 4}, 1),
    ({"max_bytes": 1}, 4),
  ],
)
def test_full_batches_leave_at_once(state_path, settings, num_batches):
  with BatchServer() as server:
    outcomes = send_all(server, state_path, REQUESTS, **settings)
  assert get_texts(outcomes) == ANSWERS
  assert len(server.batches) == num_batches
  assert sorted(server.custom_ids) == sorted(r.key for r in REQUESTS)


def test_a_flush_submits_what_is_there(state_path):
  async def run(transport):
    sending = [asyncio.create_task(transport.send(r)) for r in REQUESTS]
    while len(transport._waiting) < len(REQUESTS):
      await asyncio.sleep(0)
    assert server.received == []
    await transport.flush()
    assert len(server.batches) == 1
    return await asyncio.gather(*sending)

  with BatchServer() as server:
    assert get_texts(use(server, state_path, run, idle_seconds=100)) == ANSWERS


# --- Failures within a batch ------------------------------------------------


def test_each_request_has_its_own_error(state_path):
  faults = {
    "question 1": fault_server.context_error(),
    "question 2": fault_server.status(500),
    "question 3": fault_server.null_content(),
  }

  def answer(received):
    fault = faults.get(received.prompt, fault_server.echo)
    return fault if isinstance(fault, fault_server.Reply) else fault(received)

  with BatchServer(answer=answer) as server:
    outcomes = send_all(server, state_path, REQUESTS)
    assert outcomes[0].text == "answer to question 0"
    assert [(error.kind, error.is_final) for error in outcomes[1:3]] == [
      ("too_large", True),
      ("server_error", False),
    ]
    assert (outcomes[3].status, outcomes[3].prompt_tokens) == ("empty", 11)
    # What failed is submitted anew; what was answered is not.
    del faults["question 2"]
    again = send_all(server, state_path, REQUESTS)
  assert get_texts(again) == [
    ANSWERS[0],
    "TeacherError",
    ANSWERS[2],
    "",
  ]
  assert set(server.custom_ids[4:]) == {r.key for r in REQUESTS[1:]}


@pytest.mark.parametrize("code", [403, 404])
def test_one_line_that_is_refused_says_what_it_may_be(state_path, code):
  def answer(received):
    if received.prompt == "question 2":
      return fault_server.status(code)
    return fault_server.echo(received)

  with BatchServer(answer=answer) as server:
    outcomes = send_all(server, state_path, REQUESTS)
  assert get_texts(outcomes)[:2] == ANSWERS[:2]
  assert isinstance(outcomes[2], TeacherError)
  assert server.base_url in outcomes[2].advice
  assert outcomes[3].text == ANSWERS[3]


@pytest.mark.parametrize("is_repeated", [False, True])
def test_a_line_about_the_account(state_path, is_repeated):
  text = "Why is my credit balance too low for me?"
  asked = make_request(text) if is_repeated else REQUESTS[0]
  fault = fault_server.status(400, f"Error: {text}")
  with BatchServer(answer=fault) as server:
    (outcome,) = send_all(server, state_path, [asked])
  assert isinstance(outcome, TeacherError)
  assert outcome.is_about_account != is_repeated


def test_an_account_that_was_mended_is_not_refused_for_ever(state_path):
  refusal = [fault_server.status(401, "no such key")]

  def answer(received):
    return refusal[0] if refusal else fault_server.echo(received)

  with BatchServer(answer=answer) as server:
    assert get_texts(send_all(server, state_path, REQUESTS)) == [
      "UserError"
    ] * len(REQUESTS)
    refusal.clear()
    assert get_texts(send_all(server, state_path, REQUESTS)) == ANSWERS


def test_what_an_expired_batch_left_out_is_asked_again(state_path):
  missing = {request.key for request in REQUESTS[:2]}
  with BatchServer(
    final_status="expired", left_out=missing.__contains__
  ) as server:
    outcomes = send_all(server, state_path, REQUESTS)
    assert get_texts(outcomes) == ["TeacherError"] * 2 + ANSWERS[2:]
    assert not outcomes[0].is_final and "expired" in str(outcomes[0])
    server._left_out = lambda key: False
    assert get_texts(send_all(server, state_path, REQUESTS)) == ANSWERS
  assert set(server.custom_ids[4:]) == missing


def test_a_batch_that_is_refused_is_the_users(state_path):
  errors = [{"code": "token_limit_exceeded", "message": "Enqueued token limit"}]
  with BatchServer(final_status="failed", errors=errors) as server:
    outcomes = send_all(server, state_path, REQUESTS)
    for outcome in outcomes:
      assert isinstance(outcome, UserError)
      assert "Enqueued token limit" in str(outcome)
    server._final_status = "completed"
    # Nothing of it was answered, so it is submitted anew.
    assert get_texts(send_all(server, state_path, REQUESTS)) == ANSWERS
  assert len(server.batches) == 2


def test_results_that_are_odd_harm_nobody_else(state_path):
  def answer(received):
    if received.prompt == "question 1":
      return fault_server.answer("x" * 5000)(received)
    return fault_server.echo(received)

  class OddServer(BatchServer):
    def _add_file(self, content):
      odd = [b"", b"null", b"[1", b'{"custom_id": 7}', b'{"custom_id": "else"}']
      if b'"response"' in content:
        content = b"\n".join([*odd, content, *odd, content])
      return super()._add_file(content)

  with OddServer(answer=answer) as server:
    outcomes = send_all(server, state_path, REQUESTS, max_response_bytes=1000)
  assert get_texts(outcomes) == [
    ANSWERS[0],
    "TeacherError",
    ANSWERS[2],
    ANSWERS[3],
  ]
  assert outcomes[1].is_final and "MAX_RESPONSE_BYTES" in str(outcomes[1])


# --- Failures on the way ----------------------------------------------------


_FAULTS = {
  "500": fault_server.status(500),
  "429": fault_server.rate_limited(seconds=3),
  "dropped": fault_server.dropped(),
  "html": fault_server.html_page(),
  "truncated": fault_server.Reply(200, b'{"id": "fi'),
}


# Upload, create, two polls, download: each in turn meets the fault once. Of a
# file that is downloaded, any content is one.
@pytest.mark.parametrize(
  ("fault", "step"),
  [
    (fault, step)
    for fault in _FAULTS
    for step in range(5)
    if step < 4 or fault not in ("html", "truncated")
  ],
)
def test_every_step_is_tried_again(state_path, fault, step):
  with BatchServer() as server:
    regular = server._answer
    steps = iter(range(100))

    def reply(received):
      return _FAULTS[fault] if next(steps) == step else regular(received)

    server._answer = reply
    outcomes = send_all(server, state_path, REQUESTS)
  assert get_texts(outcomes) == ANSWERS
  assert len(server.batches) == 1


def test_a_batch_created_unheard_is_found_not_paid_twice(state_path):
  with BatchServer() as server:
    regular = server._answer

    def reply(received):
      made = regular(received)
      is_first = received.path == "/v1/batches" and len(server.batches) == 1
      if received.method == "POST" and is_first:
        return fault_server.dropped()
      return made

    server._answer = reply
    outcomes = send_all(server, state_path, REQUESTS)
  assert get_texts(outcomes) == ANSWERS
  assert server.count("POST", "/v1/batches") == 1


def test_a_server_that_fails_for_good_fails_the_senders(state_path):
  with BatchServer() as server:
    regular = server._answer
    server._answer = lambda received: fault_server.status(503)
    outcomes = send_all(server, state_path, REQUESTS, max_attempts=2)
    for outcome in outcomes:
      assert isinstance(outcome, TeacherError)
      assert (outcome.kind, outcome.is_final) == ("server_error", False)
    server._answer = regular
    assert get_texts(send_all(server, state_path, REQUESTS)) == ANSWERS


def test_a_bad_key_is_the_users(state_path):
  with BatchServer([fault_server.status(401)]) as server:
    outcomes = send_all(server, state_path, REQUESTS)
  assert {type(outcome) for outcome in outcomes} == {UserError}
  assert len(server.received) == 1


# --- Restarts ---------------------------------------------------------------


def _submit_and_leave(server, state_path):
  """Submits all requests and closes before they are answered."""

  async def run(transport):
    sending = [asyncio.create_task(transport.send(r)) for r in REQUESTS]
    while len(transport._waiting) < len(REQUESTS):
      await asyncio.sleep(0)
    await transport.flush()
    await transport.close()
    return await asyncio.gather(*sending, return_exceptions=True)

  outcomes = use(server, state_path, run, idle_seconds=100)
  assert get_texts(outcomes) == ["TeacherError"] * 4
  assert not any(outcome.is_final for outcome in outcomes)


def test_a_restart_asks_for_results_and_pays_nothing(state_path):
  with BatchServer(polls_until_done=10**9) as server:
    _submit_and_leave(server, state_path)
    server._polls_until_done = 0
    assert get_texts(send_all(server, state_path, REQUESTS)) == ANSWERS
    # However often, and for some of them only.
    assert get_texts(send_all(server, state_path, REQUESTS[2:])) == ANSWERS[2:]
  assert server.count("POST", "/v1/files") == 1
  assert server.count("POST", "/v1/batches") == 1


def test_a_restart_with_more_requests_submits_those_only(state_path):
  with BatchServer(polls_until_done=10**9) as server:
    _submit_and_leave(server, state_path)
    server._polls_until_done = 0
    more = [*REQUESTS, make_request(4)]
    outcomes = send_all(server, state_path, more)
  assert get_texts(outcomes) == [*ANSWERS, "answer to question 4"]
  assert server.custom_ids[4:] == [more[4].key]


def test_one_by_one_a_batch_is_downloaded_once(state_path):
  async def run(transport):
    return [await transport.send(request) for request in REQUESTS]

  with BatchServer(polls_until_done=10**9) as server:
    _submit_and_leave(server, state_path)
    server._polls_until_done = 0
    assert get_texts(use(server, state_path, run)) == ANSWERS
  downloads = [r for r in server.received if r.path.endswith("/content")]
  assert len(downloads) == 1


def test_a_batch_that_is_being_created_is_not_looked_for(state_path):
  async def run(transport):
    sending = [asyncio.create_task(transport.send(r)) for r in REQUESTS[:3]]
    while not server.count("POST", "/v1/batches"):
      await asyncio.sleep(0.001)
    return await asyncio.gather(*sending, transport.send(REQUESTS[3]))

  with BatchServer() as server:
    regular = server._answer

    def reply(received):
      is_creation = received.method == "POST" and received.path[-1] == "s"
      seconds = 0.05 if is_creation else 0
      return dataclasses.replace(regular(received), delay_seconds=seconds)

    server._answer = reply
    outcomes = use(server, state_path, run, idle_seconds=0.01)
  assert get_texts(outcomes) == ANSWERS
  assert server.count("GET", "/v1/batches") == 0 and len(server.batches) == 2


def test_what_is_about_to_be_created_is_written_down_first(state_path):
  seen = []

  with BatchServer() as server:
    regular = server._answer

    def reply(received):
      if (received.method, received.path) == ("POST", "/v1/batches"):
        seen.append(json.loads(state_path.read_text())["batches"])
      return regular(received)

    server._answer = reply
    send_all(server, state_path, REQUESTS)
  ((batch,),) = seen
  assert batch["id"] is None and batch["keys"] == [r.key for r in REQUESTS]
  assert batch["input_file_id"] in server.files


@pytest.mark.parametrize("was_created", [True, False])
def test_killed_while_it_created_a_batch(state_path, was_created):
  with BatchServer(polls_until_done=10**9) as server:
    _submit_and_leave(server, state_path)
    stored = json.loads(state_path.read_text())
    stored["batches"][0]["id"] = None
    state_path.write_text(json.dumps(stored))
    if not was_created:
      server.batches.clear()
    server._polls_until_done = 0
    assert get_texts(send_all(server, state_path, REQUESTS)) == ANSWERS
  assert server.count("POST", "/v1/batches") == 1 + (not was_created)


def test_a_batch_the_server_does_not_know_is_the_users(state_path):
  with BatchServer(polls_until_done=10**9) as server:
    _submit_and_leave(server, state_path)
    server.batches.clear()
    outcomes = send_all(server, state_path, REQUESTS)
  for outcome in outcomes:
    assert isinstance(outcome, UserError) and str(state_path) in str(outcome)
  assert server.count("POST", "/v1/batches") == 1


# --- Settings ---------------------------------------------------------------


@pytest.mark.parametrize(
  "name", ["poll_seconds", "idle_seconds", "max_requests", "max_bytes"]
)
@pytest.mark.parametrize("value", [0, -1, None, "5", True, float("inf")])
def test_sizes_and_times_that_cannot_be(name, value):
  with pytest.raises(UserError, match=f"^{name} is"):
    batch_api.BatchConfig("x.json", **{name: value})


def test_a_request_that_is_too_long_is_not_collected(state_path):
  odd = dataclasses.replace(
    REQUESTS[0], prompt=[{"role": "user", "content": "x" * 2**20}]
  )
  with BatchServer() as server:
    outcomes = send_all(server, state_path, [odd, *REQUESTS])
  assert outcomes[0].kind == "too_large" and outcomes[0].is_final
  assert get_texts(outcomes[1:]) == ANSWERS and len(server.custom_ids) == 4
