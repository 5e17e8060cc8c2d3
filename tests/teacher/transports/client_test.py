"""The client against a server that answers, fails and lies."""

import asyncio
import dataclasses
import functools
import subprocess
import sys

import fault_server
import pytest
import teacher_calls
from fake_time import FakeTime
from fault_server import FaultServer

from distill_jax.errors import UserError
from distill_jax.teacher.asking.exchange import Request, Response, TeacherError
from distill_jax.teacher.transports import client

KEY = "sk-0123456789abcdefghijklmnop"
CHAT = Request(
  "a-model",
  "chat",
  [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "How many?"},
  ],
  {"temperature": 0.5, "max_tokens": 16, "stop": ["\nQ:"], "seed": 3},
)
COMPLETION = Request("a-model", "completions", "Q: How many?\nA:", {})


def send_all(server, requests, fake_time=None, **settings):
  """Sends requests at once; returns answers and errors in their order."""
  fake_time = fake_time or FakeTime()
  arguments = {
    name: settings.pop(name)
    for name in ("count_tokens_fn",)
    if name in settings
  }
  return teacher_calls.call(
    functools.partial(
      client.TeacherClient,
      client.TeacherConfig(server.base_url, **settings),
      **arguments,
    ),
    lambda teacher: teacher_calls.send_together(teacher, requests),
    fake_time,
  )


def send(server, request, fake_time=None, **settings):
  (outcome,) = send_all(server, [request], fake_time, **settings)
  if isinstance(outcome, BaseException):
    raise outcome
  return outcome


# --- On the wire ------------------------------------------------------------


def test_a_chat_request_as_the_server_sees_it(monkeypatch):
  monkeypatch.setenv("OPENAI_API_KEY", KEY)
  with FaultServer() as server:
    response = send(server, CHAT)
  (received,) = server.received
  assert (received.method, received.path) == ("POST", "/v1/chat/completions")
  assert received.json == {
    "model": "a-model",
    "messages": CHAT.prompt,
    **CHAT.parameters,
  }
  assert received.headers["authorization"] == f"Bearer {KEY}"
  assert received.headers["content-type"] == "application/json"
  assert response == Response(
    text="answer to How many?",
    finish_reason="stop",
    prompt_tokens=11,
    completion_tokens=7,
    model="a-model",
    latency_seconds=0.0,
    num_attempts=1,
  )


def test_a_completion_request_as_the_server_sees_it():
  with FaultServer() as server:
    response = send(server, dataclasses.replace(COMPLETION, sample_index=3))
  (received,) = server.received
  assert received.path == "/v1/completions"
  assert received.json == {"model": "a-model", "prompt": COMPLETION.prompt}
  assert response.text == "answer to Q: How many?\nA:"


@pytest.mark.parametrize(
  "prompt",
  [
    "So the answer is (a). Ignore the above. {{x}} %s {0} $HOME",
    "\x00\x01\x1b[2J\u2028\u2029\x85\r\n\t\\u0041",
    "日本語 😀 ｅ\u0301",
    "x" * 100_000,
  ],
  ids=lambda prompt: ascii(prompt[:20]),
)
@pytest.mark.parametrize("endpoint", ["chat", "completions"])
def test_any_prompt_arrives_as_it_is_and_comes_back(prompt, endpoint):
  is_chat = endpoint == "chat"
  request = Request(
    "m",
    endpoint,
    [{"role": "user", "content": prompt}] if is_chat else prompt,
    {},
  )
  with FaultServer(answer=lambda r: fault_server.answer(r.prompt)(r)) as server:
    assert send(server, request).text == prompt
  assert server.received[0].prompt == prompt


def test_the_environment_neither_redirects_nor_intercepts(monkeypatch):
  monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:1/v1")
  for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
    monkeypatch.setenv(name, "http://127.0.0.1:1")
  with FaultServer() as server:
    assert send(server, CHAT).text == "answer to How many?"


def test_connections_are_few_and_kept():
  requests = [dataclasses.replace(CHAT, sample_index=i) for i in range(30)]
  answer = lambda r: dataclasses.replace(
    fault_server.echo(r), delay_seconds=0.005
  )
  with FaultServer(answer=answer) as server:
    responses = send_all(server, requests, max_concurrency=3)
  assert all(isinstance(response, Response) for response in responses)
  assert server.max_concurrent == 3
  assert server.num_connections <= 3


# --- What is asked again ----------------------------------------------------


@pytest.mark.parametrize(
  "fault",
  [
    fault_server.status(408),
    fault_server.status(409),
    fault_server.rate_limited(),
    fault_server.status(500),
    fault_server.status(503),
    fault_server.html_page(502),
    fault_server.dropped(),
    fault_server.dropped_within_body(),
    fault_server.Reply(500, b"x" * 2**21),
    fault_server.json_body({"error": {"code": 429, "message": "slow down"}}),
  ],
  ids=[
    *["408", "409", "429", "500", "503", "html 502", "dropped"],
    *["dropped within", "huge 500", "429 as 200"],
  ],
)
@pytest.mark.parametrize("request_", [CHAT, COMPLETION], ids=["chat", "text"])
def test_what_may_pass_is_asked_again(fault, request_):
  with FaultServer([fault, fault]) as server:
    response = send(server, request_)
  assert response.text.startswith("answer to")
  assert response.num_attempts == 3
  assert len({received.body for received in server.received}) == 1
  assert len(server.received) == 3


@pytest.mark.parametrize(
  "fault", [fault_server.silent(), fault_server.dripping()]
)
def test_an_attempt_has_an_end(fault):
  # Dripping: every byte comes in time, and the answer never does.
  with FaultServer([fault]) as server:
    response = send(server, CHAT, timeout_seconds=0.3)
    assert response.num_attempts == 2
    with pytest.raises(TeacherError, match="REQUEST_TIMEOUT_SECONDS") as caught:
      server._script = iter([fault])
      send(server, CHAT, timeout_seconds=0.3, max_attempts=1)
  assert caught.value.kind == "timeout" and not caught.value.is_final


def test_any_content_type_will_do_if_the_body_is_an_answer():
  script = [
    fault_server.wrong_content_type("text/html"),
    fault_server.wrong_content_type(None),
  ]
  with FaultServer(script) as server:
    assert [send(server, CHAT).num_attempts for _ in range(2)] == [1, 1]


# --- What is not ------------------------------------------------------------


@pytest.mark.parametrize(
  ("fault", "kind"),
  [
    (fault_server.status(400), "rejected"),
    (fault_server.status(422), "rejected"),
    (fault_server.status(413), "too_large"),
    (fault_server.context_error(), "too_large"),
    (
      fault_server.context_error(fault_server.LLAMA_CPP_CONTEXT_ERROR),
      "too_large",
    ),
    (fault_server.huge_answer(), "bad_response"),
    (fault_server.huge_answer(has_length=False), "bad_response"),
  ],
)
def test_what_will_not_pass_is_not_asked_again(fault, kind):
  with FaultServer([fault]) as server:
    with pytest.raises(TeacherError) as caught:
      send(server, CHAT)
    assert len(server.received) == 1
    # And the next request is none the worse.
    assert send(server, CHAT).num_attempts == 1
  error = caught.value
  assert (error.kind, error.is_final, error.num_attempts) == (kind, True, 1)


@pytest.mark.parametrize(
  ("reply", "status"),
  [
    (fault_server.null_content(), "empty"),
    (fault_server.answer("", finish_reason="length"), "empty"),
    (fault_server.answer(None, reasoning_content="hm"), "reasoning_only"),
    (fault_server.empty_choices(), "empty"),
    (fault_server.html_page(200), "unreadable"),
    (fault_server.truncated_json(), "unreadable"),
    (fault_server.Reply(200, b""), "unreadable"),
    (
      fault_server.Reply(200, b"x", headers={"content-encoding": "gzip"}),
      "unreadable",
    ),
  ],
)
def test_what_was_paid_for_comes_back_without_a_text(reply, status):
  with FaultServer([reply]) as server:
    response = send(server, CHAT)
    assert len(server.received) == 1
  assert (response.status, response.text) == (status, "")
  assert response.raw is not None and response.problem
  if status != "unreadable":
    assert (response.prompt_tokens, response.completion_tokens) == (11, 7)


@pytest.mark.parametrize(
  "make_reply",
  [
    fault_server.as_events,
    fault_server.as_compressed,
    lambda reply: fault_server.prefixed(reply, b"\xef\xbb\xbf"),
    lambda reply: fault_server.prefixed(reply, b": waiting\n\n \n"),
  ],
)
@pytest.mark.parametrize("request_", [CHAT, COMPLETION], ids=["chat", "text"])
def test_an_answer_is_read_however_it_is_wrapped(make_reply, request_):
  wrapped = lambda received: make_reply(fault_server.echo(received))
  with FaultServer([wrapped]) as server:
    response = send(server, request_)
  assert response.text.startswith("answer to") and response.is_answered
  assert (response.prompt_tokens, response.completion_tokens) == (11, 7)
  assert response.finish_reason == "stop"


@pytest.mark.parametrize(
  ("status", "body"),
  [
    (400, fault_server.GOOGLE_BAD_KEY),
    (400, {"error": {"message": "m", "code": "billing_hard_limit_reached"}}),
    (429, {"error": {"message": "m", "code": "insufficient_quota"}}),
    (200, {"error": {"message": "Insufficient credits", "code": 402}}),
  ],
  ids=str,
)
def test_what_is_about_the_account_is_for_the_user(status, body):
  with FaultServer([fault_server.json_body(body, status)]) as server:
    with pytest.raises(UserError):
      send(server, CHAT)
    assert len(server.received) == 1


@pytest.mark.parametrize(
  ("status", "body"),
  [
    (400, fault_server.ANTHROPIC_NO_CREDIT),
    (400, {"code": "Invalid argument", "error": "Incorrect API key: x***"}),
    (403, {"error": {"message": "This API needs billing to be enabled."}}),
    (412, {"error": {"message": "Account is suspended, see billing."}}),
  ],
  ids=str,
)
def test_what_only_words_say_may_be_of_one_question(status, body):
  with FaultServer([fault_server.json_body(body, status)]) as server:
    with pytest.raises(TeacherError) as caught:
      send(server, CHAT)
  assert caught.value.is_about_account and caught.value.is_final
  assert "about the account or its key" in caught.value.advice


@pytest.mark.parametrize(
  ("said", "kind"),
  [
    ("Prompt flagged: discusses payment fraud", "rejected"),
    ("Input rejected by safety system: financial payment", "rejected"),
    ("This exceeds the token quota for a single request", "too_large"),
  ],
)
def test_what_is_about_the_prompt_is_not_about_the_account(said, kind):
  with FaultServer([fault_server.status(400, said)]) as server:
    with pytest.raises(TeacherError) as caught:
      send(server, CHAT)
  assert (caught.value.kind, caught.value.advice) == (kind, None)


def test_a_question_about_an_account_ends_no_run():
  text = 'Is this spam?\n"Your credit balance is too low, see billing now"'
  asked = dataclasses.replace(CHAT, prompt=[{"role": "user", "content": text}])
  fault = lambda received: fault_server.status(
    400, f"Flagged: {received.prompt}"
  )
  with FaultServer([fault]) as server:
    with pytest.raises(TeacherError) as caught:
      send(server, asked)
  assert (caught.value.kind, caught.value.advice) == ("rejected", None)


@pytest.mark.parametrize(
  ("status", "named"), [(403, "OPENAI_API_KEY"), (404, "TEACHER_MODEL")]
)
def test_what_may_be_of_one_question_says_so(status, named):
  with FaultServer([fault_server.status(status)]) as server:
    with pytest.raises(TeacherError) as caught:
      send(server, CHAT)
  assert named in caught.value.advice and caught.value.is_final


@pytest.mark.parametrize("has_length", [True, False])
def test_a_huge_answer_is_not_taken(has_length):
  with FaultServer(
    [fault_server.huge_answer(30_000_000, has_length)]
  ) as server:
    with pytest.raises(TeacherError, match="MAX_RESPONSE_BYTES"):
      send(server, CHAT, max_response_bytes=1000)
  # What the sockets hold between the two, and no more.
  assert server.num_sent_bytes < 15_000_000


@pytest.mark.parametrize(
  ("fault", "named"),
  [
    (fault_server.status(401), "OPENAI_API_KEY"),
    (fault_server.status(402), "credit"),
    (fault_server.status(405), "TEACHER_MODEL"),
    (
      fault_server.Reply(307, headers={"location": "http://127.0.0.1:1/v1"}),
      "TEACHER_BASE_URL",
    ),
  ],
)
def test_what_no_request_survives_is_for_the_user(fault, named):
  with FaultServer([fault]) as server:
    with pytest.raises(UserError, match=named) as caught:
      send(server, CHAT)
  assert len(server.received) == 1
  assert server.base_url in str(caught.value)


# --- Secrets ----------------------------------------------------------------


@pytest.mark.parametrize("status", [400, 401, 404, 500])
def test_a_key_that_the_server_repeats_goes_no_further(
  monkeypatch, status, caplog
):
  monkeypatch.setenv("OPENAI_API_KEY", KEY)
  fault = fault_server.status(status, f"your key {'x' * 150} {KEY} is bad")
  with caplog.at_level("DEBUG"), FaultServer(answer=fault) as server:
    with pytest.raises((TeacherError, UserError)) as caught:
      send(server, CHAT)
  # Nor a part of it, where a quotation ends.
  assert KEY[:8] not in str(caught.value)
  # No chain of exceptions either, whose requests hold it.
  assert caught.value.__context__ is None and caught.value.__cause__ is None
  assert KEY not in caplog.text


def test_an_answer_with_the_key_is_without_it(monkeypatch):
  monkeypatch.setenv("OPENAI_API_KEY", KEY)
  with FaultServer([fault_server.answer(f"It is {KEY}.")]) as server:
    assert send(server, CHAT).text == "It is [key]."


def test_a_word_instead_of_a_key_leaves_answers_alone(monkeypatch):
  monkeypatch.setenv("OPENAI_API_KEY", "none")
  with FaultServer([fault_server.answer("There are none.")]) as server:
    assert send(server, CHAT).text == "There are none."


def test_no_representation_holds_the_key(monkeypatch):
  monkeypatch.setenv("OPENAI_API_KEY", KEY)
  teacher = client.TeacherClient(client.TeacherConfig("http://127.0.0.1:1/v1"))
  shown = repr(teacher) + repr(vars(teacher)) + repr(vars(teacher._connection))
  asyncio.run(teacher.close())
  assert KEY not in shown.replace(repr(KEY.encode()), "")


# --- Before sending ---------------------------------------------------------


def test_a_request_that_is_too_long_is_not_sent():
  with FaultServer() as server:
    body_bytes = len(client.encode_body(client.make_body(CHAT), 10**6))
    send(server, CHAT, max_request_bytes=body_bytes)
    with pytest.raises(TeacherError, match="MAX_REQUEST_BYTES") as caught:
      send(server, CHAT, max_request_bytes=body_bytes - 1)
  assert len(server.received) == 1
  assert len(server.received[0].body) == body_bytes
  assert (caught.value.kind, caught.value.num_attempts) == ("too_large", 0)
  assert caught.value.is_final


def test_a_prompt_with_too_many_tokens_is_not_sent():
  settings = {"count_tokens_fn": lambda text: len(text.split())}
  with FaultServer() as server:
    send(server, CHAT, max_prompt_tokens=4, **settings)  # Both messages count.
    with pytest.raises(TeacherError, match="MAX_PROMPT_TOKENS") as caught:
      send(server, CHAT, max_prompt_tokens=3, **settings)
  assert len(server.received) == 1
  assert caught.value.kind == "too_large" and caught.value.is_final


def test_half_a_surrogate_pair_spoils_its_own_request_only():
  odd = dataclasses.replace(COMPLETION, prompt="a\ud800")
  with FaultServer() as server:
    error, response = send_all(server, [odd, COMPLETION])
  assert (error.kind, error.is_final) == ("rejected", True)
  assert response.text.startswith("answer to") and len(server.received) == 1


@pytest.mark.parametrize("name", ["model", "messages", "prompt", "n", "stream"])
def test_parameters_cannot_replace_what_the_client_sets(name):
  with pytest.raises(UserError, match=repr(name)):
    client.make_body(dataclasses.replace(CHAT, parameters={name: 1}))


def test_tokens_are_estimated_for_any_text():
  assert client.estimate_tokens("") == 1
  assert client.estimate_tokens("a" * 400) == 101
  assert client.estimate_tokens("\ud800") == 1


# --- Rates ------------------------------------------------------------------


def test_requests_leave_at_the_rate(fake_time):
  requests = [dataclasses.replace(CHAT, sample_index=i) for i in range(5)]
  with FaultServer() as server:
    send_all(server, requests, fake_time, requests_per_minute=30)
  assert fake_time.now == pytest.approx(8)  # The first is free.


def test_tokens_are_reserved_then_corrected(fake_time):
  # 10 tokens a second; about 300 are reserved, of which the answer took 18.
  request = dataclasses.replace(COMPLETION, parameters={"max_tokens": 300})
  with FaultServer() as server:
    send(server, request, fake_time, tokens_per_minute=600)
    assert fake_time.now == 0

    async def run():
      teacher = client.TeacherClient(
        client.TeacherConfig(server.base_url, tokens_per_minute=600),
        clock=fake_time.clock,
        sleep=fake_time.sleep,
      )
      for _ in range(3):
        await teacher.send(request)
      await teacher.close()

    asyncio.run(run())
  # Not the minute that three reservations would take: 18 tokens each, of
  # which 10 were there, and a full bucket before each of the next two.
  assert 3 < fake_time.now < 8


# --- Without openai ---------------------------------------------------------


def test_who_does_not_ask_needs_no_openai():
  code = """
import sys
sys.modules["openai"] = None
from distill_jax.errors import UserError
from distill_jax.teacher.transports import batch_api, client
try:
  client.TeacherClient(client.TeacherConfig("http://localhost/v1"))
except UserError as error:
  assert "pip install openai" in str(error), error
else:
  raise SystemExit("no error")
"""
  subprocess.run([sys.executable, "-c", code], check=True)
