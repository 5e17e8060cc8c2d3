"""The Beam pipeline from end to end, beside the same work on one machine."""

import bz2
import collections
import json
import os
import pathlib
import signal
import subprocess
import sys
import threading
import time

import fault_server
import pytest

# So that no test waits for its import.
from distill_jax.answers import text_metrics  # noqa: F401
from distill_jax.data import records
from distill_jax.errors import UserError
from distill_jax.runs import label
from distill_jax.teacher.asking import journal
from distill_jax.teacher.filtering.filters import FilterConfig
from distill_jax.teacher.transports import client
from distill_jax.teacher.transports.config import TeacherConfig

beam = pytest.importorskip(
  "apache_beam", reason="apache_beam is not installed: pip install '.[beam]'"
)

import bucket  # noqa: E402
from apache_beam.options import pipeline_options  # noqa: E402

from distill_jax.runs import label_pipeline  # noqa: E402
from distill_jax.teacher.apache_beam_job import (  # noqa: E402
  asking as beam_asking,
)
from distill_jax.teacher.apache_beam_job import (  # noqa: E402
  pipeline as beam_pipeline,
)

_ROOT = pathlib.Path(__file__).parents[2]
_KEY = "sk-secret-0123456789abcdef"
# What DirectRunner comes to on a machine that cannot download Prism; named, so
# that no test tries to.
_RUNNER = "--runner=apache_beam.runners.portability.fn_api_runner.FnApiRunner"


@pytest.fixture(autouse=True)
def fixture_no_waits(monkeypatch):
  """Lets clients wait for nothing between attempts; sets the key."""

  async def sleep(seconds):
    del seconds

  def make_client(config):
    return client.TeacherClient(config, sleep=sleep)

  for module in (label, beam_asking):
    monkeypatch.setattr(module, "TeacherClient", make_client)
  monkeypatch.setenv("OPENAI_API_KEY", _KEY)


def _write_questions(path, numbers):
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_text(
    "".join(
      json.dumps(
        {
          "id": f"q{i}",
          "input": f"Ann has {i} and {i + 1}\nHow many?",
          "label": f"({i} + {i + 1})",
        }
      )
      + "\n"
      for i in numbers
    )
  )


def _get_number(received):
  return int(received.prompt.split("Ann has ")[-1].split(" and ")[0])


def _answer_sum(received):
  first = _get_number(received)
  text = f"Add both. The answer is ({first} + {first + 1})."
  return fault_server.answer(text)(received)


def _make_settings(server, folder, **fields):
  client_fields = {
    "base_url": server if isinstance(server, str) else server.base_url,
    "max_concurrency": 6,
    "timeout_seconds": 5.0,
    "max_attempts": 3,
  } | fields.pop("client", {})
  defaults = {
    "input_path": str(folder / "questions-*.jsonl"),
    "output_path": str(folder / "out"),
    "teacher_model": "m",
    "prompt": "svamp",
  }
  return label.LabelRun(
    client=TeacherConfig(**client_fields), **(defaults | fields)
  )


def _run(settings, num_shards=3, overwrite=False):
  return label_pipeline.run(
    settings, "PROMPT = 'svamp'\n", overwrite, num_shards, [_RUNNER]
  )


def _read_lines(folder):
  """Returns all lines of the sharded records, sorted."""
  paths = sorted(folder.glob("records-*.jsonl"))
  return sorted(line for p in paths for line in p.read_bytes().splitlines())


def _read_summary(folder):
  summary = json.loads((folder / "summary.json").read_text())
  for name in ("settings", "last_run"):
    summary.pop(name)
  for name in ("latency_seconds_p50", "latency_seconds_p95"):
    assert summary.pop(name) > 0
  return summary


def _write_various_questions(folder):
  """Writes three files of questions, and one with all of them.

  Few labels, so that there are classes; some inputs nearly the same.
  """
  long = "She keeps them in a large basket by the door of her house. " * 3
  lines = []
  for i in range(40):
    text = f"Ann has {i} and {i % 3}\n{long if i % 4 else ''}How many?"
    question = {"id": f"q{i}", "input": text, "label": f"({i % 5 % 3} + 1)"}
    lines.append(json.dumps(question) + "\n")
  for part, chosen in enumerate((lines[:9], lines[9:30], lines[30:])):
    (folder / f"questions-{part}.jsonl").write_text("".join(chosen))
  (folder / "whole.jsonl").write_text("".join(lines))


def _answer_variously(received):
  """By number and seed: right, unread, wrong, refused, a bare answer."""
  number = _get_number(received)
  right = f"The answer is ({number % 5 % 3} + 1)."
  replies = [
    fault_server.answer(f"Take one more of them. {right}"),
    fault_server.answer(f"One more. {right}"),
    fault_server.answer("No idea."),
    fault_server.answer("That is one more. The answer is (9 - 1)."),
    lambda _: fault_server.context_error(),
    fault_server.answer(right),
  ]
  return replies[(number + 2 * received.json["seed"]) % len(replies)](received)


_FILTERS = {
  "none": FilterConfig(),
  "of one": FilterConfig(
    drop_label_not_parsed=True,
    drop_label_disagrees_with_gold=True,
    min_rationale_words=3,
    drop_contradictions=True,
  ),
  "of all": FilterConfig(
    near_duplicate_threshold=0.6, class_balance="over", balance_by="label"
  ),
  "both": FilterConfig(
    drop_empty_rationale=True,
    near_duplicate_threshold=0.7,
    class_balance="weights",
    balance_by="label",
    seed=3,
  ),
}


_CHANGING = {
  "none": set(),
  "of one": {
    "label_not_parsed",
    "label_disagrees_with_gold",
    "rationale_too_short",
  },
  "of all": {"near_duplicates", "class_balance"},
  "both": {"rationale_empty", "near_duplicates"},
}


@pytest.mark.parametrize("name", _FILTERS)
def test_the_same_records_as_on_one_machine(tmp_path, name):
  """Whatever becomes of the questions, and in whatever order they come."""
  _write_various_questions(tmp_path)
  (tmp_path / "prices.toml").write_text(
    'currency = "EUR"\n[models.m]\nprompt = 3\ncompletion = 7\n'
  )
  fields = {
    "num_samples": 2,
    "temperature": 0.5,
    "filters": _FILTERS[name],
    "price_table": str(tmp_path / "prices.toml"),
  }
  with fault_server.FaultServer(answer=_answer_variously) as server:
    alone = _make_settings(
      server,
      tmp_path,
      input_path=str(tmp_path / "whole.jsonl"),
      output_path=str(tmp_path / "alone"),
      **fields,
    )
    assert label.run(alone) == 0
    num_received = len(server.received)
    assert _run(_make_settings(server, tmp_path, **fields)) == 0
    assert len(server.received) == 2 * num_received
  expected = (tmp_path / "alone" / "records.jsonl").read_bytes().splitlines()
  assert len(expected) > 5
  assert _read_lines(tmp_path / "out") == sorted(expected)
  summary = _read_summary(tmp_path / "out")
  assert summary == _read_summary(tmp_path / "alone")
  assert summary["num_records"] == len(expected)
  assert summary["failures"]["too_large"] > 0
  changed = {c["name"] for c in summary["filters"] if c["before"] != c["after"]}
  assert changed == _CHANGING[name]
  names = [path.name for path in sorted((tmp_path / "out").iterdir())]
  assert names == [
    "config.gin",
    "journal.lock",
    *(f"records-0000{i}-of-00003.jsonl" for i in range(3)),
    *(f"shard-{i}-of-3" for i in range(3)),
    "summary.json",
  ]


def test_nothing_is_asked_again(tmp_path):
  """Not by the same command, and not by one that divides the work anew."""
  _write_questions(tmp_path / "questions-0.jsonl", range(20))
  with fault_server.FaultServer(answer=_answer_sum) as server:
    settings = _make_settings(server, tmp_path)
    assert _run(settings) == 0
    out = tmp_path / "out"
    before = {p: p.read_bytes() for p in out.rglob("*") if p.is_file()}
    lines = _read_lines(out)
    assert _run(settings) == 0
    after = {p: p.read_bytes() for p in out.rglob("*") if p.is_file()}
    assert after == before

    with pytest.raises(UserError, match=r"other settings \(num_shards\)"):
      _run(settings, num_shards=2)
    assert _run(settings, num_shards=2, overwrite=True) == 0
    assert _read_lines(out) == lines
    assert len(list(out.glob("records-*"))) == 2

    _write_questions(tmp_path / "questions-1.jsonl", range(20, 25))
    assert _run(settings, num_shards=2) == 0
    assert len(server.received) == 25
  assert len(_read_lines(out)) == 25


def test_one_machine_and_many_share_their_journals(tmp_path):
  _write_questions(tmp_path / "questions-0.jsonl", range(12))
  with fault_server.FaultServer(answer=_answer_sum) as server:
    settings = _make_settings(
      server, tmp_path, input_path=str(tmp_path / "questions-0.jsonl")
    )
    assert label.run(settings, shard="0/2") == 0
    assert len(server.received) == 6
    assert _run(settings) == 0
    assert len(server.received) == 12
    assert label.run(settings, shard="1/2") == 0
    assert len(server.received) == 12


def test_equal_questions_are_asked_once(tmp_path):
  _write_questions(tmp_path / "questions-0.jsonl", [3])
  line = json.loads((tmp_path / "questions-0.jsonl").read_text())
  for number in range(1, 5):
    path = tmp_path / f"questions-{number}.jsonl"
    path.write_text(json.dumps(line | {"id": f"other {number}"}))
  with fault_server.FaultServer(answer=_answer_sum) as server:
    assert _run(_make_settings(server, tmp_path)) == 0
    assert len(server.received) == 1
  assert len(_read_lines(tmp_path / "out")) == 5


def test_what_failed_for_now_is_asked_again(tmp_path, capsys):
  _write_questions(tmp_path / "questions-0.jsonl", range(8))
  broken = {2, 5}

  def reply(received):
    number = _get_number(received)
    if number == 7:
      return fault_server.status(400)
    return (
      fault_server.status(500) if number in broken else _answer_sum(received)
    )

  with fault_server.FaultServer(answer=reply) as server:
    settings = _make_settings(server, tmp_path)
    assert _run(settings) == 1
    said = capsys.readouterr()
    assert "2 questions are without an outcome" in said.err
    assert "HTTP 500" in said.err
    assert "no records are written" in said.out
    out = tmp_path / "out"
    assert not list(out.glob("records*"))
    summary = json.loads((out / "summary.json").read_text())
    assert (summary["num_open"], summary["num_records"]) == (2, None)
    assert summary["failures"] == {"rejected": 1}
    assert summary["last_run"]["num_open"] == 2
    assert summary["last_run"]["num_failed"] == 1

    broken.clear()
    num_received = len(server.received)
    assert _run(settings) == 0
    assert len(server.received) == num_received + 2
    # A final failure is an outcome, until it is to be asked again.
    assert len(_read_lines(out)) == 8
    again = _make_settings(server, tmp_path, retry_failures=True)
    assert _run(again) == 0
    assert len(server.received) == num_received + 3
  assert _read_summary(out)["num_without_answer"] == 1


def test_all_together_stay_within_the_limits(tmp_path):
  _write_questions(tmp_path / "questions-0.jsonl", range(60))

  def reply(received):
    body = _answer_sum(received).body
    return fault_server.Reply(body=body, delay_seconds=0.05)

  with fault_server.FaultServer(answer=reply) as server:
    settings = _make_settings(server, tmp_path, client={"max_concurrency": 4})
    code = label_pipeline.run(
      settings,
      num_shards=2,
      beam_arguments=[
        _RUNNER,
        "--direct_num_workers=2",
        "--direct_running_mode=multi_threading",
      ],
    )
    assert code == 0
    # Two workers, each with half of it.
    assert 2 < server.max_concurrent <= 4


# --- Ends that nobody planned -----------------------------------------------


def _start(folder, base_url):
  arguments = [
    _RUNNER,
    "--gin_file=gin/runs/label.gin",
    "--gin.INPUT_PATH='questions-*.jsonl'",
    "--gin.OUTPUT_PATH='out'",
    "--gin.TEACHER_MODEL='m'",
    "--gin.PROMPT='svamp'",
    f"--gin.TEACHER_BASE_URL='{base_url}'",
    "--num_shards=3",
  ]
  return subprocess.Popen(
    [sys.executable, "-m", "distill_jax.runs.label_beam", *arguments],
    cwd=folder,
    env=os.environ | {"PYTHONPATH": str(_ROOT)},
    stdout=subprocess.PIPE,
    stderr=subprocess.STDOUT,
    text=True,
  )


def _read_answered(folder):
  answered = set()
  for path in folder.glob("out/shard-*/journal.jsonl"):
    prompts = {}
    for line in path.read_bytes().split(b"\n")[:-1]:
      event = json.loads(line)
      if event["event"] == "request":
        prompts[event["key"]] = event["prompt"][-1]["content"]
      else:
        answered.add(prompts[event["key"]])
  return answered


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_ended_in_the_middle(tmp_path, number):
  _write_questions(tmp_path / "questions-0.jsonl", range(40))
  is_slow = threading.Event()

  def reply(received):
    # After some answers none comes, so that the end comes before the rest.
    is_held = is_slow.is_set() and len(server.received) > 25
    body = _answer_sum(received).body
    return fault_server.Reply(body=body, delay_seconds=60 if is_held else 0)

  is_slow.set()
  with fault_server.FaultServer(answer=reply) as server:
    process = _start(tmp_path, server.base_url)
    deadline = time.monotonic() + 120
    while len(server.received) <= 25:
      assert process.poll() is None and time.monotonic() < deadline
      time.sleep(0.01)
    time.sleep(0.2)
    process.send_signal(number)
    said, _ = process.communicate(timeout=60)
    if number == signal.SIGINT:
      assert process.returncode == 130
      # Behind what Beam itself says.
      assert said.splitlines()[-1].startswith("distill-jax: interrupted.")
    else:
      assert process.returncode == -number
    answered = _read_answered(tmp_path)
    assert len(answered) >= 20
    assert not list((tmp_path / "out").glob("records*"))

    is_slow.clear()
    num_before = len(server.received)
    # gin names the model, prompt and parameters as the process did.
    assert _run(_make_settings(server, tmp_path)) == 0
    sent = [received.prompt for received in server.received[num_before:]]
  assert not answered & set(sent)
  assert len(sent) == len(set(sent)) == 40 - len(answered)
  labels = [
    json.loads(line)["teacher_label"] for line in _read_lines(tmp_path / "out")
  ]
  assert sorted(labels) == sorted(f"({i} + {i + 1})" for i in range(40))


def test_two_runs_in_one_folder(tmp_path):
  _write_questions(tmp_path / "questions-0.jsonl", range(3))
  settings = _make_settings("http://127.0.0.1:9/v1", tmp_path)
  (tmp_path / "out").mkdir()
  with journal.Journal(tmp_path / "out" / "journal.jsonl"):
    with pytest.raises(UserError, match="OUTPUT_PATH .* is in use by process"):
      _run(settings)


# --- Where files are and what is in them ------------------------------------


def test_an_object_store(tmp_path, monkeypatch):
  monkeypatch.setattr(bucket.BucketFileSystem, "root", tmp_path)
  monkeypatch.setattr(bucket.BucketFileSystem, "created", [])
  _write_questions(tmp_path / "in" / "questions-0.jsonl", range(11))
  _write_questions(tmp_path / "in" / "questions-1.jsonl", range(11, 20))
  with fault_server.FaultServer(answer=_answer_sum) as server:
    settings = _make_settings(
      server,
      tmp_path,
      input_path="bucket://in/questions-*.jsonl",
      output_path="bucket://out/labelled",
    )
    assert _run(settings) == 0
    assert _run(settings) == 0
    assert len(server.received) == 20
    (tmp_path / "in" / "questions-1.jsonl").write_text('{"id": 7}\n')
    with pytest.raises(
      UserError, match=r"^bucket://in/questions-1.jsonl:1:input: missing"
    ):
      _run(settings)
  out = tmp_path / "out" / "labelled"
  assert len(_read_lines(out)) == 20
  assert sorted(path.name for path in out.iterdir() if path.is_file()) == [
    "config.gin",
    *(f"records-0000{i}-of-00003.jsonl" for i in range(3)),
    "summary.json",
  ]
  # Nothing but whole objects: no lock, no unfinished file.
  journals = [path.name for path in out.glob("shard-*/*")]
  assert len(journals) == 3
  assert all(name.startswith("journal-") for name in journals)


def test_the_key_travels_in_nothing(tmp_path, monkeypatch):
  pickles = []
  compress = bz2.compress

  def keep(pickled, *args, **kwargs):
    pickles.append(pickled)
    return compress(pickled, *args, **kwargs)

  # What Beam does last with what it has pickled.
  monkeypatch.setattr(bz2, "compress", keep)
  _write_questions(tmp_path / "questions-0.jsonl", range(3))
  with fault_server.FaultServer(answer=_answer_sum) as server:
    settings = _make_settings(server, tmp_path)
    folder = label_pipeline._Folder(settings.output_path, 2)
    job = label_pipeline._make_job(settings, folder)
    pipeline = beam.Pipeline(
      options=pipeline_options.PipelineOptions([_RUNNER])
    )
    beam_pipeline.build(pipeline, job)
    travelling = pipeline.to_runner_api().SerializeToString()
    # A setting that must be in them shows that these are the pickles.
    assert any(settings.client.base_url.encode() in p for p in pickles)
    for content in (*pickles, travelling):
      assert _KEY.encode() not in content
    assert _run(settings) == 0
    assert all(
      received.headers["authorization"] == f"Bearer {_KEY}"
      for received in server.received
    )
  for path in tmp_path.rglob("*"):
    assert not path.is_file() or _KEY not in path.read_text()


# --- Mistakes ---------------------------------------------------------------


_LINE = '{"id": "a", "input": "x"}\n'


@pytest.mark.parametrize(
  "contents, fields, told",
  [
    ([], {}, "INPUT_PATH .* matches no file"),
    ([""], {}, "questions-0.jsonl has no questions"),
    ([_LINE, "{]\n"], {}, "questions-1.jsonl:1: not JSON"),
    (
      [_LINE, '{"id": "b", "input": "x"}\n' + _LINE],
      {},
      r"questions-1.jsonl: 'a' is already an id in .*questions-0.jsonl",
    ),
    ([_LINE], {"prompt": "cqa"}, "'a' has no options"),
    ([_LINE], {"prompt": "nope"}, "PROMPT is 'nope'"),
    ([_LINE], {"transport": "batch"}, "TRANSPORT is 'batch'"),
    ([_LINE], {"price_table": "absent.toml"}, "absent.toml cannot be read"),
    (
      [_LINE],
      {"client": {"max_concurrency": 2}},
      "--num_shards is 3, and MAX_CONCURRENCY",
    ),
    ([_LINE], {"input_path": "gopher://x/*"}, "gopher://x/.* cannot be read"),
  ],
)
def test_mistakes_are_found_before_anything_is_asked(
  tmp_path, monkeypatch, contents, fields, told
):
  monkeypatch.chdir(tmp_path)
  for number, content in enumerate(contents):
    (tmp_path / f"questions-{number}.jsonl").write_text(content)
  with fault_server.FaultServer() as server:
    with pytest.raises(UserError, match=told):
      _run(_make_settings(server, tmp_path, **fields))
    assert server.received == []
  assert not list(tmp_path.glob("out/report*"))


def test_a_flag_that_beam_does_not_know(tmp_path):
  settings = _make_settings("http://127.0.0.1:9/v1", tmp_path)
  with pytest.raises(UserError, match="--overwite: no flag of this command"):
    label_pipeline.run(settings, beam_arguments=[_RUNNER, "--overwite"])
  with pytest.raises(UserError, match="--num_shard: no flag"):
    label_pipeline.run(settings, beam_arguments=["--num_shard=3", _RUNNER])


def test_a_filter_that_cannot_be(tmp_path):
  _write_questions(tmp_path / "questions-0.jsonl", range(60))
  filters = FilterConfig(class_balance="over")
  with fault_server.FaultServer(answer=_answer_sum) as server:
    with pytest.raises(UserError, match="60 different values, too many"):
      _run(_make_settings(server, tmp_path, filters=filters))
  assert not list(tmp_path.glob("out/records*"))


def test_records_of_another_kind(tmp_path):
  settings = _make_settings("http://127.0.0.1:9/v1", tmp_path)
  _write_questions(tmp_path / "questions-0.jsonl", range(2))
  records_path = tmp_path / "out" / "records.jsonl"
  records_path.parent.mkdir()
  records_path.write_text("")
  with pytest.raises(UserError, match="records.jsonl is of --run_mode=label"):
    _run(settings)
  records_path.rename(tmp_path / "out" / "records-00000-of-00009.jsonl")
  again = _make_settings(
    "http://127.0.0.1:9/v1",
    tmp_path,
    input_path=str(tmp_path / "out" / "*.jsonl"),
  )
  with pytest.raises(UserError, match="which the records are written to"):
    _run(again)


@pytest.mark.parametrize(
  "key, reply, told",
  [
    (_KEY, fault_server.status(401), "does not take the key"),
    ("two words", _answer_sum, "holds blanks"),
  ],
)
def test_no_request_can_succeed(tmp_path, monkeypatch, key, reply, told):
  monkeypatch.setenv("OPENAI_API_KEY", key)
  _write_questions(tmp_path / "questions-0.jsonl", range(20))
  with fault_server.FaultServer(answer=reply) as server:
    with pytest.raises(UserError, match=told) as error:
      _run(_make_settings(server, tmp_path))
    assert len(server.received) <= 6
  # Said by three shards, told once.
  assert "\n" not in str(error.value)
  assert collections.Counter(str(error.value).split())["key"] < 5
  assert list(records.read_records(tmp_path / "questions-0.jsonl"))
