"""Attempts and waits, counted on a clock that only sleeping moves."""

import asyncio
import functools
import random
import socket

import fault_server
import pytest
import teacher_calls
from fault_server import FaultServer, Reply

from distill_jax.errors import UserError
from distill_jax.teacher.asking.exchange import TeacherError
from distill_jax.teacher.reading import replies
from distill_jax.teacher.transports import connection
from distill_jax.teacher.transports.config import TeacherConfig


def use(base_url, fake_time, run_fn, **settings):
  """Runs `run_fn` with a connection; returns what it returns."""
  config = TeacherConfig(base_url, **settings)
  make_fn = functools.partial(connection.Connection, config)
  return teacher_calls.call(make_fn, run_fn, fake_time, seed=7)


def post(base_url, fake_time, **settings):
  return use(
    base_url,
    fake_time,
    lambda made: made.post_json("/chat/completions", b"{}", bytes),
    **settings,
  )


OK = Reply(200, b"ok")


def test_waits_double_and_are_drawn_below_their_bound(fake_time):
  script = [fault_server.status(500)] * 9
  with FaultServer(script, OK) as server:
    success = post(server.base_url, fake_time, max_attempts=10)
  rng = random.Random(7)
  bounds = [1, 2, 4, 8, 16, 32, 60, 60, 60]
  assert fake_time.sleeps == [rng.uniform(0, bound) for bound in bounds]
  assert (success.value, success.num_attempts) == (b"ok", 10)
  assert success.latency_seconds == 0  # The waits are not the server's time.


def test_the_first_wait_is_a_setting(fake_time):
  with FaultServer([fault_server.status(500)] * 3, OK) as server:
    post(server.base_url, fake_time, first_delay_seconds=0.01)
  assert len(fake_time.sleeps) == 3 and fake_time.now < 0.07


@pytest.mark.parametrize(
  ("fault", "seconds"),
  [
    (fault_server.rate_limited(seconds=20), 20),
    (fault_server.rate_limited(date_in_seconds=30), 30),
    (fault_server.rate_limited(milliseconds=2500), 2.5),
    (fault_server.status(503, retry_after="7"), 7),
    (fault_server.rate_limited(seconds=0), 0),
  ],
)
def test_the_servers_wish_is_the_least_one_waits(fake_time, fault, seconds):
  with FaultServer([fault], OK) as server:
    post(server.base_url, fake_time)
  assert seconds < fake_time.now < seconds + 1  # And a bit, so as not to crowd.


def test_the_servers_wish_holds_every_other_call(fake_time):
  sleeping, may_wake = [], asyncio.Event()

  async def sleep(seconds):
    sleeping.append(seconds)
    await may_wake.wait()

  async def run(made):
    made._sleep = made._limits._sleep = sleep
    calls = []
    for num_calls in (1, 2):  # The second begins when the first one waits.
      calls.append(
        asyncio.create_task(made.post_json("/x", b"{}", bytes, num_tokens=1))
      )
      while len(sleeping) < num_calls:
        await asyncio.sleep(0.001)
    assert len(server.received) == 1
    may_wake.set()
    await asyncio.gather(*calls)

  with FaultServer([fault_server.rate_limited(seconds=30)], OK) as server:
    use(server.base_url, fake_time, run)
  assert 30 < sleeping[0] < 31 and sleeping[1] == 30


def test_attempts_run_out(fake_time):
  with FaultServer(answer=fault_server.status(503)) as server:
    with pytest.raises(TeacherError, match="MAX_ATTEMPTS") as caught:
      post(server.base_url, fake_time, max_attempts=4)
  assert len(server.received) == 4 and len(fake_time.sleeps) == 3
  error = caught.value
  assert (error.kind, error.is_final, error.num_attempts) == (
    "server_error",
    False,
    4,
  )


def test_the_budget_runs_out(fake_time):
  with FaultServer(answer=fault_server.rate_limited(seconds=25)) as server:
    with pytest.raises(TeacherError, match="RETRY_BUDGET_SECONDS") as caught:
      post(server.base_url, fake_time, retry_budget_seconds=60)
  assert len(server.received) == 3  # At 0, 25 and a bit, 50 and a bit.
  assert fake_time.now < 60
  assert caught.value.kind == "rate_limited" and not caught.value.is_final


def test_a_wait_beyond_the_budget_is_not_begun(fake_time):
  with FaultServer([fault_server.rate_limited(seconds=86400)]) as server:
    with pytest.raises(TeacherError, match="86400 seconds"):
      post(server.base_url, fake_time)
  assert fake_time.sleeps == [] and len(server.received) == 1


def test_waiting_for_ones_turn_is_not_in_the_budget(fake_time):
  async def run(made):
    for _ in range(4):
      await made.post_json("/x", b"{}", bytes, 1)

  script = [OK, OK, OK, fault_server.status(500), OK]
  with FaultServer(script) as server:
    use(
      server.base_url,
      fake_time,
      run,
      requests_per_minute=1,
      retry_budget_seconds=1.5,
    )
  assert fake_time.now >= 180


def _find_closed_port():
  with socket.socket() as opened:
    opened.bind(("127.0.0.1", 0))
    return opened.getsockname()[1]


@pytest.mark.parametrize(("max_attempts", "num_sleeps"), [(8, 2), (1, 0)])
def test_no_server_is_the_users_and_soon(fake_time, max_attempts, num_sleeps):
  base_url = f"http://127.0.0.1:{_find_closed_port()}/v1"
  with pytest.raises(UserError, match=f"No server answers at {base_url}"):
    post(base_url, fake_time, max_attempts=max_attempts)
  assert len(fake_time.sleeps) == num_sleeps


def test_a_server_that_went_away_is_waited_for(fake_time):
  with FaultServer(answer=OK) as first:
    base_url = first.base_url

    async def run_on(made):
      await made.post_json("/x", b"{}", bytes)
      first.stop()
      with pytest.raises(TeacherError, match="Connect") as caught:
        await made.post_json("/x", b"{}", bytes)
      return caught.value

    error = use(base_url, fake_time, run_on, max_attempts=5)
  assert (error.kind, error.is_final, error.num_attempts) == (
    "connection",
    False,
    5,
  )


def test_a_key_over_http_is_warned_of(monkeypatch, caplog, fake_time):
  monkeypatch.setenv("OPENAI_API_KEY", "sk-0123456789abcdef")

  async def nothing(made):
    del made

  use("http://127.0.0.1:1/v1", fake_time, nothing)
  use("https://10.0.0.8:1/v1", fake_time, nothing)
  assert caplog.text == ""
  use("http://10.0.0.8:1/v1", fake_time, nothing)
  assert "10.0.0.8:1 is asked over http" in caplog.text


def test_a_reader_may_ask_for_another_attempt(fake_time):
  with FaultServer([Reply(200, b"not yet")], OK) as server:

    def read(content):
      if content == b"ok":
        return "read"
      return replies.Failure("bad_response", "not yet", False)

    success = use(server.base_url, fake_time, lambda made: made.get("/x", read))
  assert (success.value, success.num_attempts) == ("read", 2)
  assert server.received[0].method == "GET"


def test_a_file_is_uploaded_as_a_form(fake_time):
  content = '{"a": "日本\u2028"}\n'.encode() * 3
  with FaultServer([fault_server.status(500)], OK) as server:
    use(
      server.base_url,
      fake_time,
      lambda made: made.upload(
        "/files", "r.jsonl", content, {"purpose": "batch"}, bytes
      ),
    )
  for received in server.received:
    assert received.headers["content-type"].startswith("multipart/form-data; ")
    assert b'name="purpose"\r\n\r\nbatch\r\n' in received.body
    assert fault_server._read_upload(received) == content


def _download(server, fake_time, **settings):
  lines = []
  use(
    server.base_url,
    fake_time,
    lambda made: made.download_lines("/files/f/content", lines.append),
    **settings,
  )
  return lines


def test_a_file_of_any_size_comes_line_by_line(fake_time):
  content = b"".join(b"%d %s\n" % (i, b"x" * 1000) for i in range(3000))
  with FaultServer([Reply(200, content)]) as server:
    lines = _download(server, fake_time, max_response_bytes=2000)
  assert b"\n".join([*lines, b""]) == content


def test_only_a_newline_ends_a_line(fake_time):
  content = "a\u2028\x85b\r\n\n \nlast \u2028".encode()
  with FaultServer([Reply(200, content)]) as server:
    assert _download(server, fake_time) == [
      "a\u2028\x85b\r".encode(),
      "last \u2028".encode(),
    ]


def test_a_line_that_is_too_long_is_cut_off(fake_time):
  content = b"a" * 500_000 + b"\nb\n"
  with FaultServer([Reply(200, content)]) as server:
    assert _download(server, fake_time, max_response_bytes=10) == [
      b"a" * 10,
      b"b",
    ]


@pytest.mark.parametrize(
  "fault",
  [
    Reply(200, b"one\ntwo\n", num_sent_bytes=5),
    fault_server.status(500),
    fault_server.silent(),
    fault_server.dropped(),
  ],
)
def test_a_download_that_breaks_off_begins_again(fake_time, fault):
  with FaultServer([fault], Reply(200, b"one\ntwo\n")) as server:
    lines = _download(server, fake_time, timeout_seconds=0.3)
  assert lines[-2:] == [b"one", b"two"] and len(server.received) == 2


_UNPAID = (fault_server.status(500), fault_server.rate_limited(seconds=0))


@pytest.mark.parametrize("is_allowed", [True, False])
def test_a_further_attempt_behind_one_that_may_be_charged_is_asked_for(
  fake_time, is_allowed
):
  asked = []

  async def repeat():
    asked.append(len(server.received))
    return is_allowed

  run_fn = lambda made: made.post_json(
    "/chat/completions", b"{}", bytes, repeat_fn=repeat
  )
  broken = fault_server.dropped_within_body()
  with FaultServer([*_UNPAID, broken, _UNPAID[0], broken], OK) as server:
    if is_allowed:
      assert use(server.base_url, fake_time, run_fn).num_attempts == 6
      assert asked == [3, 5]
      return
    with pytest.raises(
      TeacherError, match="given up after 3 .*MAX_COST"
    ) as caught:
      use(server.base_url, fake_time, run_fn)
  assert asked == [3] and not caught.value.is_final
