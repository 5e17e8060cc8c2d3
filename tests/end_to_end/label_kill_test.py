"""Labelling that is killed: nothing is lost and nothing is paid for twice."""

import collections
import dataclasses
import json
import os
import pathlib
import random
import signal
import subprocess
import sys
import threading
import time

import fault_server
import pytest

_ROOT = pathlib.Path(__file__).parents[2]
_NUM_QUESTIONS = 150
_NUM_KILLS = 10
_CONCURRENCY = 4


class _Program:
  """The program in a process of its own, started as often as wanted."""

  def __init__(self):
    self._process = subprocess.Popen(
      [sys.executable, _ROOT / "tests" / "support" / "label_forks.py"],
      env=os.environ | {"PYTHONPATH": str(_ROOT)},
      stdin=subprocess.PIPE,
      stdout=subprocess.PIPE,
      text=True,
    )
    assert self._process.stdout.readline() == "ready\n"

  def start(self, folder, base_url, *more):
    """Starts a run, with more arguments; returns its process id."""
    arguments = [
      "--run_mode=label",
      "--gin_file=gin/runs/label.gin",
      f"--gin_search_paths={_ROOT}",
      "--gin.INPUT_PATH='questions.jsonl'",
      "--gin.OUTPUT_PATH='out'",
      "--gin.TEACHER_MODEL='m'",
      "--gin.PROMPT='svamp'",
      f"--gin.MAX_CONCURRENCY={_CONCURRENCY}",
      f"--gin.TEACHER_BASE_URL='{base_url}'",
      *more,
    ]
    line = json.dumps([str(folder), *arguments])
    self._process.stdin.write(line + "\n")
    self._process.stdin.flush()
    return int(self._process.stdout.readline())

  def wait(self):
    """Returns the exit code of the run."""
    return int(self._process.stdout.readline())

  def end(self):
    self._process.stdin.close()
    self._process.wait()
    self._process.stdout.close()


@pytest.fixture(name="programs", scope="module")
def fixture_programs():
  programs = [_Program(), _Program()]
  yield programs
  for program in programs:
    program.end()


@pytest.fixture(name="folder")
def fixture_folder(tmp_path):
  _write_questions(tmp_path, _NUM_QUESTIONS)
  return tmp_path


def _write_questions(folder, num_questions):
  questions = [
    {"id": f"q{i}", "input": f"Ann has {i} and {i + 1}\nHow many?"}
    for i in range(num_questions)
  ]
  (folder / "questions.jsonl").write_text(
    "".join(json.dumps(question) + "\n" for question in questions)
  )


def _answer(received):
  """A right answer, after a moment."""
  first = int(received.prompt.split("Ann has ")[-1].split(" and ")[0])
  text = f"Add both. The answer is ({first} + {first + 1})."
  reply = fault_server.answer(text)(received)
  return fault_server.Reply(body=reply.body, delay_seconds=0.005)


def _wait_until(condition_fn):
  deadline = time.monotonic() + 60
  while not condition_fn():
    assert time.monotonic() < deadline
    time.sleep(0.001)


def _read_answered(path):
  """Returns the prompts that the journal has whole answers to."""
  prompts, answered = {}, set()
  if not path.exists():
    return answered
  for line in path.read_bytes().split(b"\n")[:-1]:
    event = json.loads(line)
    if event["event"] == "request":
      prompts[event["key"]] = event["prompt"][-1]["content"]
    elif event["event"] == "response":
      answered.add(prompts[event["key"]])
  return answered


def _read_records(folder):
  lines = (folder / "out" / "records.jsonl").read_text().splitlines()
  return [json.loads(line) for line in lines]


def test_killed_at_ten_random_moments(folder, programs):
  rng = random.Random(0)
  path = folder / "out" / "journal.jsonl"
  sent_twice = 0
  with fault_server.FaultServer(answer=_answer) as server:
    for _ in range(_NUM_KILLS):
      answered = _read_answered(path)
      num_before = len(server.received)
      child = programs[0].start(folder, server.base_url)
      # From before the first request to somewhere among the next dozen.
      num_more = rng.randrange(13)
      _wait_until(lambda n=num_before + num_more: len(server.received) >= n)
      time.sleep(rng.random() * 0.02)
      os.kill(child, signal.SIGKILL)
      assert programs[0].wait() == -signal.SIGKILL
      # Those that were on their way when their sender died arrive as well.
      time.sleep(0.02)
      sent = [received.prompt for received in server.received[num_before:]]
      assert not answered & set(sent)
      assert len(sent) == len(set(sent))
      assert answered <= _read_answered(path)
      assert not (folder / "out" / "records.jsonl").exists()
      sent_twice += len(set(sent) - _read_answered(path))
    answered = _read_answered(path)
    assert 0 < len(answered) < _NUM_QUESTIONS

    num_before = len(server.received)
    programs[0].start(folder, server.base_url)
    assert programs[0].wait() == 0
    sent = [received.prompt for received in server.received[num_before:]]
    assert not answered & set(sent)
    assert len(sent) == _NUM_QUESTIONS - len(answered)
    # What was paid for without a trace is at most what each kill caught.
    assert len(server.received) == _NUM_QUESTIONS + sent_twice
    assert sent_twice <= _NUM_KILLS * _CONCURRENCY

  written = _read_records(folder)
  assert [record["id"] for record in written] == [
    f"q{i}" for i in range(_NUM_QUESTIONS)
  ]
  assert [record["teacher_label"] for record in written] == [
    f"({i} + {i + 1})" for i in range(_NUM_QUESTIONS)
  ]
  summary = json.loads((folder / "out" / "summary.json").read_text())
  assert summary["statuses"] == {"ok": _NUM_QUESTIONS}


# --- What was paid ----------------------------------------------------------

_NUM_PAID_QUESTIONS = 200
_TEXTLESS = {
  "reasoning_only": {"reasoning_content": "hm " * 40},
  "refused": {"refusal": "no"},
  "tool_calls": {"tool_calls": [{"id": "1"}]},
  "filtered": {"finish_reason": "content_filter"},
  "empty": {},
}


class _PaidTeacher:
  """Replies of every kind, each of a size of its own, and kills on the way.

  A kill comes at a random request, when what was delivered is in the journal:
  what a process has received and not yet written down is lost with it, and no
  server can tell. Other replies are on their way then, some half sent.
  """

  def __init__(self, journal_path, kills):
    self._path = journal_path
    self._kills = list(kills)
    self._num_asked = collections.Counter()
    self.server = fault_server.FaultServer(answer=self._reply)
    self.child = None
    # Requests come on several threads, and a process is killed once.
    self._lock = threading.Lock()
    self._dying = None

  def _reply(self, received):
    with self._lock:
      is_due = (
        self._kills
        and len(self.server.received) >= self._kills[0]
        and self.child != self._dying
      )
      if is_due:
        del self._kills[0]
        self._dying = self.child
    if is_due:
      _wait_until(
        lambda: len(_read_paid(self._path)) == len(self.server.billed)
      )
      os.kill(self.child, signal.SIGKILL)
      self.server.break_connections()
      return fault_server.dropped()
    number = int(received.prompt.split("Ann has ")[-1].split(" and ")[0])
    self._num_asked[number] += 1
    return self._make_reply(received, number, self._num_asked[number] == 1)

  def _make_reply(self, received, number, is_first):
    kind = number % 20
    if is_first and kind in (1, 2, 3):
      return [
        fault_server.rate_limited(),
        fault_server.status(500),
        fault_server.dropped_within_body()(received),
      ][kind - 1]
    if number in (47, 87):
      return fault_server.status(403 if number == 47 else 400)
    num_tokens = (100 + number, 7 * number % 90)
    usage = dict(
      zip(("prompt_tokens", "completion_tokens"), num_tokens, strict=True)
    )
    if 4 <= kind < 9:
      fields = list(_TEXTLESS.values())[kind - 4]
      body = fault_server.make_answer(received, None, **fields)
    else:
      text = f"Add both. The answer is ({number} + {number + 1})."
      body = fault_server.make_answer(received, text)
    reply = fault_server.json_body(body | {"usage": usage})
    wrap_fn = {
      10: fault_server.as_events,
      11: fault_server.as_compressed,
      12: lambda reply: fault_server.prefixed(reply, b"\xef\xbb\xbf\n"),
    }.get(kind, lambda reply: reply)
    reply = wrap_fn(reply)
    if number == 153:  # Delivered, and no one can read how much it was.
      reply = dataclasses.replace(reply, body=b'{"usage": {"prompt_tok')
      num_tokens = (0, 0)
    return dataclasses.replace(
      reply,
      num_tokens=num_tokens,
      delay_seconds=0.001 * (number % 7),
      seconds_a_byte=0.00005 if kind == 13 else 0.0,
    )


def _read_paid(path):
  """Returns the response lines that the journal has whole."""
  lines = path.read_bytes().split(b"\n")[:-1] if path.exists() else []
  return [
    event for event in map(json.loads, lines) if event["event"] == "response"
  ]


def test_the_journal_has_what_the_server_billed(folder, programs):
  rng = random.Random(1)
  _write_questions(folder, _NUM_PAID_QUESTIONS)
  path = folder / "out" / "journal.jsonl"
  teacher = _PaidTeacher(path, sorted(rng.sample(range(5, 190), _NUM_KILLS)))
  num_killed = 0
  with teacher.server as server:
    while True:
      teacher.child = programs[0].start(
        folder, server.base_url, "--gin.TeacherConfig.first_delay_seconds=0.01"
      )
      code = programs[0].wait()
      if code != -signal.SIGKILL:
        break
      num_killed += 1
    assert code == 0 and num_killed == _NUM_KILLS
  paid = _read_paid(path)
  tokens = [
    (line["prompt_tokens"] or 0, line["completion_tokens"] or 0)
    for line in paid
  ]
  assert sorted(tokens) == sorted(server.billed)
  summary = json.loads((folder / "out" / "summary.json").read_text())
  billed = [sum(kind) for kind in zip(*server.billed, strict=True)]
  counted = summary["paid"]
  assert [counted["prompt_tokens"], counted["completion_tokens"]] == billed
  assert counted["num_responses"] == len(server.billed)
  # The one that could not be read, twice.
  assert counted["num_uncounted_responses"] == 2
  assert len(counted["settings"]) == 1
  # Nothing is paid for twice but the one that could not be read.
  num_failed = 2
  assert len(paid) == _NUM_PAID_QUESTIONS - num_failed + 1
  assert len({line["key"] for line in paid}) == _NUM_PAID_QUESTIONS - num_failed
  statuses = collections.Counter(line["status"] for line in paid)
  assert statuses == {
    **dict.fromkeys(_TEXTLESS, 10),
    "filtered": 8,  # 47 and 87 would have been.
    "unreadable": 2,
    "answered": 149,
  }
  assert len(_read_records(folder)) == _NUM_PAID_QUESTIONS


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_asked_to_end(folder, programs, number):
  with fault_server.FaultServer(answer=_answer) as server:
    child = programs[0].start(folder, server.base_url)
    _wait_until(lambda: len(server.received) >= 20)
    os.kill(child, number)
    assert programs[0].wait() == 128 + number
    # What was under way was waited for.
    answered = _read_answered(folder / "out" / "journal.jsonl")
    assert answered == {received.prompt for received in server.received}
    said = (folder / "printed").read_text()
    assert f"{number.name}: nothing more is sent" in said
    assert "Give the same command again to go on" in said
    assert "Traceback" not in said

    programs[0].start(folder, server.base_url)
    assert programs[0].wait() == 0
    assert len(server.received) == _NUM_QUESTIONS
  assert len(_read_records(folder)) == _NUM_QUESTIONS


def test_two_runs_on_one_journal(folder, programs):
  script = [fault_server.silent()] * _CONCURRENCY
  with fault_server.FaultServer(script, _answer) as server:
    child = programs[0].start(folder, server.base_url)
    _wait_until(lambda: len(server.received) == _CONCURRENCY)
    programs[1].start(folder, server.base_url)
    assert programs[1].wait() == 2
    said = (folder / "printed").read_text()
    assert f"is in use by process {child}. Wait for it" in said
    assert len(server.received) == _CONCURRENCY
    os.kill(child, signal.SIGKILL)
    assert programs[0].wait() == -signal.SIGKILL

    # A lock does not outlive its owner.
    programs[1].start(folder, server.base_url)
    assert programs[1].wait() == 0
  assert len(_read_records(folder)) == _NUM_QUESTIONS
