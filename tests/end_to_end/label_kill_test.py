"""Labelling that is killed: nothing is lost and nothing is paid for twice."""

import json
import os
import pathlib
import random
import signal
import subprocess
import sys
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
      [sys.executable, _ROOT / "tests" / "label_forks.py"],
      env=os.environ | {"PYTHONPATH": str(_ROOT)},
      stdin=subprocess.PIPE,
      stdout=subprocess.PIPE,
      text=True,
    )
    assert self._process.stdout.readline() == "ready\n"

  def start(self, folder, base_url):
    """Starts a run; returns its process id."""
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
  questions = [
    {"id": f"q{i}", "input": f"Ann has {i} and {i + 1}\nHow many?"}
    for i in range(_NUM_QUESTIONS)
  ]
  (tmp_path / "questions.jsonl").write_text(
    "".join(json.dumps(question) + "\n" for question in questions)
  )
  return tmp_path


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
