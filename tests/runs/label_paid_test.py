"""What a labelling run says it paid, beside what the server billed."""

import dataclasses
import os
import pathlib
import signal
import subprocess
import sys
import threading
import time

import billing_teacher
import fault_server
import pytest

from distill_jax.data import records
from distill_jax.errors import UserError
from distill_jax.runs import label
from distill_jax.teacher.filtering.filters import FilterConfig
from distill_jax.teacher.transports import client
from distill_jax.teacher.transports.batch_api import BatchConfig

_ROOT = pathlib.Path(__file__).parents[2]
_BATCH = BatchConfig("", poll_seconds=0.01, idle_seconds=0.05)


@pytest.fixture(autouse=True)
def fixture_no_waits(monkeypatch):
  """Lets clients wait for nothing between attempts; sets the key."""

  async def sleep(seconds):
    del seconds

  monkeypatch.setattr(
    label,
    "TeacherClient",
    lambda config: client.TeacherClient(config, sleep=sleep),
  )
  monkeypatch.setenv("OPENAI_API_KEY", "sk-secret-0123456789abcdef")


def write_prices(folder, models=("m",)):
  path = folder / "prices.toml"
  lines = ['currency = "EUR"\n']
  lines += [
    f"[models.{m}]\nprompt = 1000000\ncompletion = 2000000\n" for m in models
  ]
  path.write_text("".join(lines))
  return str(path)


def count_tokens(paid):
  return paid["prompt_tokens"] + paid["completion_tokens"]


# --- What is counted --------------------------------------------------------


def test_equal_questions_are_paid_once(tmp_path, capsys):
  bill = billing_teacher.Bill()
  billing_teacher.write_sums(tmp_path, [7] * 10)
  with fault_server.FaultServer(answer=bill.answer) as server:
    settings = billing_teacher.make_settings(
      server, tmp_path, price_table=write_prices(tmp_path)
    )
    assert label.run(settings) == 0
    assert len(server.received) == 1
  paid = billing_teacher.read_paid(tmp_path)
  assert (paid["num_responses"], count_tokens(paid)) == (1, bill.total)
  assert paid["cost"] == 50 + 2 * 31
  assert paid["cost_per_record"] == paid["cost"] / 10
  said = capsys.readouterr().out
  assert "paid in this folder so far: 1 answers, tokens: 50 in, 31 out" in said


def test_what_filters_drop_was_paid_as_well(tmp_path):
  bill = billing_teacher.Bill()

  def reply(received):
    if billing_teacher.get_number(received) < 5:
      return bill.answer(received)
    answered = bill.answer(received).body.replace(b"The answer is", b"Perhaps")
    return fault_server.Reply(body=answered)

  billing_teacher.write_sums(tmp_path, range(8))
  with fault_server.FaultServer(answer=reply) as server:
    settings = billing_teacher.make_settings(
      server,
      tmp_path,
      price_table=write_prices(tmp_path),
      filters=FilterConfig(drop_label_not_parsed=True),
    )
    assert label.run(settings) == 0
  paid = billing_teacher.read_paid(tmp_path)
  assert (paid["num_responses"], paid["num_records"]) == (8, 5)
  assert count_tokens(paid) == bill.total
  assert paid["cost_per_record"] == paid["cost"] / 5


def test_other_settings_of_the_folder_count(tmp_path, capsys):
  bill = billing_teacher.Bill()
  billing_teacher.write_sums(tmp_path, range(3))
  with fault_server.FaultServer(answer=bill.answer) as server:
    label.run(billing_teacher.make_settings(server, tmp_path, temperature=0.5))
    label.run(billing_teacher.make_settings(server, tmp_path), overwrite=True)
  paid = billing_teacher.read_paid(tmp_path)
  assert count_tokens(paid) == bill.total
  assert [
    (row["parameters"]["temperature"], row["num_responses"], row["prompt"])
    for row in paid["settings"]
  ] == [(0.5, 3, "svamp"), (0.0, 3, "svamp")]
  assert "temperature 0.5" in capsys.readouterr().out


def test_answers_without_usage_are_named(tmp_path, capsys):
  bill = billing_teacher.Bill()

  def reply(received):
    is_odd = billing_teacher.get_number(received) % 2
    return bill.answer(received, **({"usage": None} if is_odd else {}))

  billing_teacher.write_sums(tmp_path, range(4))
  with fault_server.FaultServer(answer=reply) as server:
    assert label.run(billing_teacher.make_settings(server, tmp_path)) == 0
  assert billing_teacher.read_paid(tmp_path)["num_uncounted_responses"] == 2
  assert "2 answers whose tokens the server did not" in capsys.readouterr().out


def test_what_was_paid_is_said_before_an_error(tmp_path, capsys):
  bill = billing_teacher.Bill()
  billing_teacher.write_sums(tmp_path, range(20))
  with fault_server.FaultServer(
    [bill.answer] * 4, fault_server.status(401)
  ) as server:
    settings = billing_teacher.make_settings(
      server, tmp_path, client={"max_concurrency": 1}
    )
    with pytest.raises(UserError, match="does not take the key"):
      label.run(settings)
  assert "paid in this folder so far: 4 answers" in capsys.readouterr().out
  paid = billing_teacher.read_paid(tmp_path)
  assert count_tokens(paid) == bill.total
  # The request that ended the run was refused, and not lost.
  assert paid["num_unknown"] == 0


def test_an_evaluation_says_what_was_paid(tmp_path, capsys):
  bill = billing_teacher.Bill()
  (tmp_path / "questions.jsonl").write_text(
    '{"id": "a", "input": "Ann has 1 and 2\\n?", "label": "(1 + 2)"}\n'
  )
  with fault_server.FaultServer(answer=bill.answer) as server:
    assert (
      label.run(
        billing_teacher.make_settings(server, tmp_path), action="evaluate"
      )
      == 0
    )
  assert "paid in this folder so far: 1 answers" in capsys.readouterr().out


def test_details_of_usage(tmp_path):
  usage = {
    "prompt_tokens": 100,
    "completion_tokens": 50,
    "prompt_tokens_details": {"cached_tokens": 64},
    "completion_tokens_details": {"reasoning_tokens": 40},
  }
  billing_teacher.write_sums(tmp_path, range(2))
  with fault_server.FaultServer(
    answer=lambda received: billing_teacher.Bill().answer(received, usage=usage)
  ) as server:
    assert label.run(billing_teacher.make_settings(server, tmp_path)) == 0
  paid = billing_teacher.read_paid(tmp_path)
  assert (paid["cached_tokens"], paid["reasoning_tokens"]) == (128, 80)


def test_a_model_other_than_the_one_asked(tmp_path, capsys):
  bill = billing_teacher.Bill()
  billing_teacher.write_sums(tmp_path, range(5))
  with fault_server.FaultServer(
    answer=lambda received: bill.answer(
      received,
      model="m-mini" if billing_teacher.get_number(received) < 2 else "m",
    )
  ) as server:
    assert label.run(billing_teacher.make_settings(server, tmp_path)) == 0
  assert billing_teacher.read_paid(tmp_path)["served_models"] == {
    "m": {"m": 3, "m-mini": 2}
  }
  said = capsys.readouterr().out
  assert "model 'm' was asked, and the server says: 'm-mini' 2 times" in said


# --- Budgets ----------------------------------------------------------------


def test_tokens_are_never_exceeded_and_the_run_goes_on(tmp_path, capsys):
  bill = billing_teacher.Bill(600, 60)
  billing_teacher.write_sums(tmp_path, range(30))
  with fault_server.FaultServer(answer=bill.answer) as server:
    settings = billing_teacher.make_settings(
      server, tmp_path, max_total_tokens=12_000
    )
    assert label.run(settings) == 1
    said = capsys.readouterr()
    assert bill.total <= 12_000
    # Not far below: what is under way counts for less once it has come.
    assert bill.total > 12_000 - 3_000
    assert "might exceed MAX_TOTAL_TOKENS (12000). To go on, raise it" in (
      said.err
    )
    assert "paid in this folder so far" in said.out
    num_received = len(server.received)
    # The same budget sends nothing more.
    assert label.run(settings) == 1
    assert len(server.received) == num_received
    more = billing_teacher.make_settings(
      server, tmp_path, max_total_tokens=1_000_000
    )
    assert label.run(more) == 0
    assert len(server.received) == 30
  assert count_tokens(billing_teacher.read_paid(tmp_path)) == bill.total


def test_costs_are_never_exceeded(tmp_path, capsys):
  bill = billing_teacher.Bill(600, 60)
  billing_teacher.write_sums(tmp_path, range(30))
  with fault_server.FaultServer(answer=bill.answer) as server:
    settings = billing_teacher.make_settings(
      server,
      tmp_path,
      price_table=write_prices(tmp_path),
      max_cost=9_000.0,
      client={"max_concurrency": 8},
    )
    assert label.run(settings) == 1
  paid = billing_teacher.read_paid(tmp_path)
  assert 6_000 < paid["cost"] <= 9_000
  assert "might exceed MAX_COST (9000.0)" in capsys.readouterr().err


def test_a_budget_below_one_request_sends_nothing(tmp_path):
  billing_teacher.write_sums(tmp_path, range(3))
  with fault_server.FaultServer(answer=billing_teacher.Bill().answer) as server:
    assert (
      label.run(
        billing_teacher.make_settings(server, tmp_path, max_total_tokens=9)
      )
      == 1
    )
    assert server.received == []


def test_answers_without_usage_count_in_a_budget(tmp_path):
  billing_teacher.write_sums(tmp_path, range(30))
  with fault_server.FaultServer(
    answer=lambda received: billing_teacher.Bill().answer(received, usage=None)
  ) as server:
    settings = billing_teacher.make_settings(
      server, tmp_path, max_total_tokens=12_000
    )
    assert label.run(settings) == 1
    assert 0 < len(server.received) < 10


def test_batches_stay_within_a_budget(tmp_path, capsys):
  bill = billing_teacher.Bill(600, 60)
  billing_teacher.write_sums(tmp_path, range(30))
  with fault_server.BatchServer(answer=bill.answer) as server:
    batch = dataclasses.replace(_BATCH, max_requests=40)
    settings = billing_teacher.make_settings(
      server, tmp_path, transport="batch", batch=batch, max_total_tokens=12_000
    )
    assert label.run(settings) == 1
    assert 0 < len(server.custom_ids) < 30
    assert bill.total <= 12_000
  assert count_tokens(billing_teacher.read_paid(tmp_path)) == bill.total
  assert "MAX_TOTAL_TOKENS (12000)" in capsys.readouterr().err


@pytest.mark.parametrize(
  "fields, told",
  [
    ({"max_cost": 0}, "max_cost is 0"),
    ({"max_cost": "3"}, "max_cost is '3'"),
    ({"max_cost": True}, "max_cost is True"),
    ({"max_cost": float("nan")}, "max_cost is nan"),
    ({"max_total_tokens": -1}, "max_total_tokens is -1"),
    ({"max_total_tokens": 1.5}, "max_total_tokens is 1.5"),
    ({"accept_addresses": 3}, "ACCEPT_ADDRESSES is 3"),
  ],
)
def test_settings_that_cannot_be(tmp_path, fields, told):
  with pytest.raises(UserError, match=told):
    billing_teacher.make_settings("http://127.0.0.1:9/v1", tmp_path, **fields)


def test_a_cost_without_prices(tmp_path):
  billing_teacher.write_sums(tmp_path, range(3))
  settings = billing_teacher.make_settings(
    "http://127.0.0.1:9/v1", tmp_path, max_cost=3.0
  )
  with pytest.raises(UserError, match="MAX_COST is 3, and no prices are known"):
    label.run(settings)


# --- Attempts that broke off ------------------------------------------------


def _break_off(reply):
  """Returns a reply whose connection breaks just before its end."""
  return dataclasses.replace(reply, num_sent_bytes=len(reply.body) - 3)


@pytest.mark.parametrize("max_concurrency", [1, 8])
def test_attempts_that_broke_off_are_counted(tmp_path, max_concurrency):
  bill, seen = billing_teacher.Bill(), set()

  def reply(received):
    answer = bill.answer(received)
    if (number := billing_teacher.get_number(received)) in seen:
      return answer
    seen.add(number)
    return _break_off(answer)

  billing_teacher.write_sums(tmp_path, range(10))
  with fault_server.FaultServer(answer=reply) as server:
    client = {"max_concurrency": max_concurrency}
    assert (
      label.run(billing_teacher.make_settings(server, tmp_path, client=client))
      == 0
    )
  paid = billing_teacher.read_paid(tmp_path)
  assert (paid["num_responses"], paid["num_unknown"]) == (10, 10)
  assert paid["num_requests"] == len(server.received) == 20


@pytest.mark.parametrize("max_concurrency", [1, 8])
@pytest.mark.parametrize("num_whole", [0, 5])
def test_attempts_that_break_off_keep_to_the_budget(
  tmp_path, max_concurrency, num_whole
):
  bill = billing_teacher.Bill(prompt_tokens=600, completion_tokens=500)

  def reply(received):
    answer = bill.answer(received)
    is_whole = billing_teacher.get_number(received) < num_whole
    return answer if is_whole else _break_off(answer)

  billing_teacher.write_sums(tmp_path, range(60))
  with fault_server.FaultServer(answer=reply) as server:
    settings = billing_teacher.make_settings(
      server,
      tmp_path,
      max_total_tokens=20_000,
      client={"max_attempts": 8, "max_concurrency": max_concurrency},
    )
    assert label.run(settings) == 1
    assert 5_000 < bill.total <= 20_000
    num_received = len(server.received)
    assert label.run(settings) == 1
    assert len(server.received) == num_received
  paid = billing_teacher.read_paid(tmp_path)
  assert paid["num_responses"] + paid["num_unknown"] == num_received


@pytest.mark.parametrize("transport", ["direct", "batch"])
def test_what_did_not_reach_the_server_costs_nothing(tmp_path, transport):
  bill = billing_teacher.Bill()
  billing_teacher.write_sums(tmp_path, range(30))
  server = fault_server.BatchServer(answer=bill.answer)

  def reply(received):
    if billing_teacher.get_number(received) == 5:
      server._loop.call_soon(server._stop.set)
    return bill.answer(received)

  server._answer_one = reply
  fields = {"client": {"max_concurrency": 1}, "transport": transport}
  if transport == "batch":
    # The connection is made, and the upload breaks off.
    server._script = iter([fault_server.dropped()] * 3)
    fields["batch"] = _BATCH
  with server:
    settings = billing_teacher.make_settings(server, tmp_path, **fields)
    assert label.run(settings) == 1
  paid = billing_teacher.read_paid(tmp_path)
  assert paid["num_responses"] == (0 if transport == "batch" else 6)
  assert paid["num_failures"] == 30 - paid["num_responses"]
  assert paid["num_unknown"] == 0


# --- Kills ------------------------------------------------------------------


@pytest.mark.parametrize("step", ["POST /v1/batches", "GET /v1/batches/"])
def test_a_batch_that_is_lost_sight_of_is_counted_once(tmp_path, step):
  bill = billing_teacher.Bill()
  billing_teacher.write_sums(tmp_path, range(30))
  with fault_server.BatchServer(answer=bill.answer) as server:
    answer_fn, num_left = server._answer, [3]

    def reply(received):
      reply = answer_fn(received)
      if f"{received.method} {received.path}".startswith(step) and num_left[0]:
        num_left[0] -= 1
        return dataclasses.replace(reply, num_sent_bytes=9)
      # Nor is it found.
      if "?" in received.path and step.startswith("POST") and num_left[0]:
        return fault_server.json_body({"data": []})
      return reply

    server._answer = reply
    settings = billing_teacher.make_settings(
      server, tmp_path, transport="batch", batch=_BATCH
    )
    assert label.run(settings) == 1
    paid = billing_teacher.read_paid(tmp_path)
    assert (paid["num_failures"], paid["num_unknown"]) == (30, 30)
    assert label.run(settings) == 0
  paid = billing_teacher.read_paid(tmp_path)
  assert (paid["num_requests"], paid["num_responses"]) == (30, 30)
  assert paid["num_unknown"] == 0
  assert count_tokens(paid) == bill.total


def test_a_batch_that_outlives_a_run_is_counted_once(tmp_path):
  bill = billing_teacher.Bill()
  billing_teacher.write_sums(tmp_path, range(30))
  with fault_server.BatchServer(
    answer=bill.answer, polls_until_done=10**9
  ) as server:
    settings = billing_teacher.make_settings(
      server,
      tmp_path,
      transport="batch",
      batch=_BATCH,
      max_total_tokens=70_000,
      drain_seconds=0.0,
    )

    def interrupt():
      while not server.batches:
        time.sleep(0.01)
      time.sleep(0.1)
      os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    assert label.run(settings) == 130
    thread.join()
    assert billing_teacher.read_paid(tmp_path)["num_unknown"] == 30
    server._polls_until_done = 0
    assert label.run(settings) == 0
    assert len(server.custom_ids) == 30
  paid = billing_teacher.read_paid(tmp_path)
  assert (paid["num_requests"], paid["num_responses"]) == (30, 30)
  assert paid["num_unknown"] == 0
  assert count_tokens(paid) == bill.total


def _start(folder, base_url):
  arguments = [
    "--run_mode=label",
    "--gin_file=gin/runs/label.gin",
    "--gin.INPUT_PATH='questions.jsonl'",
    "--gin.OUTPUT_PATH='out'",
    "--gin.TEACHER_MODEL='m'",
    "--gin.PROMPT='svamp'",
    f"--gin.TEACHER_BASE_URL='{base_url}'",
  ]
  return subprocess.Popen(
    [sys.executable, "-m", "distill_jax.main", *arguments],
    cwd=folder,
    env=os.environ | {"PYTHONPATH": str(_ROOT)},
    stdout=subprocess.PIPE,
    stderr=subprocess.STDOUT,
    text=True,
  )


def test_the_ledger_is_what_the_server_billed(tmp_path):
  """To the token: 200 questions, faults, two kills and equal questions."""
  bill, num_held = billing_teacher.Bill(), [70, 140, 10**9]
  faults = {
    3: fault_server.status(500),
    5: fault_server.rate_limited(seconds=0),
  }

  def reply(received):
    number = billing_teacher.get_number(received)
    if (fault := faults.pop(number, None)) is not None:
      return fault
    if number % 50 == 11:
      return fault_server.context_error()
    # What is under way at a kill is held back, and not billed.
    if len(bill_keys) >= num_held[0]:
      return fault_server.silent()
    bill_keys.add(number)
    return bill.answer(received)

  bill_keys = set()
  billing_teacher.write_sums(tmp_path, [number % 180 for number in range(200)])
  with fault_server.FaultServer(answer=reply) as server:
    for _ in range(2):
      process = _start(tmp_path, server.base_url)
      journal_path = tmp_path / "out" / "journal.jsonl"
      deadline = time.monotonic() + 120
      while (
        not journal_path.exists()
        or journal_path.read_bytes().count(b'"event": "response"') < num_held[0]
      ):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
      process.send_signal(signal.SIGKILL)
      process.communicate(timeout=60)
      num_held.pop(0)
    assert label.run(billing_teacher.make_settings(server, tmp_path)) == 0
  paid = billing_teacher.read_paid(tmp_path)
  assert paid["prompt_tokens"] == bill.tokens["prompt_tokens"]
  assert paid["completion_tokens"] == bill.tokens["completion_tokens"]
  assert paid["num_responses"] == len(bill_keys) == 176
  assert paid["num_failures"] == 4
  assert 2 <= paid["num_unknown"] <= 16
  written = list(records.read_records(tmp_path / "out" / "records.jsonl"))
  assert len(written) == 200
