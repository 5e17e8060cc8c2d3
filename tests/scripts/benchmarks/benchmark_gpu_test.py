"""Tests of scripts/benchmarks/benchmark_gpu.py.

The programs it runs are stand-ins.
"""

import json
import pathlib

import pytest
from script_import import import_script

benchmark_gpu = import_script("benchmark_gpu")

_CASE = benchmark_gpu.Case("tiny", "full")


@pytest.fixture(name="start")
def fixture_start(monkeypatch, tmp_path):
  """(what stands in for `run`, seconds) -> a session, a reader of its file."""

  def start(run, seconds=60, arguments=()):
    def run_or_export(command, seconds, env):
      for argument in command:
        name, _, path = argument.partition("=")
        if name == "--export_examples":
          start.exports.append(command)
          pathlib.Path(path).touch()
          return ""
      return run(command, seconds, env)

    monkeypatch.setattr(benchmark_gpu, "run", run_or_export)
    monkeypatch.setenv("OUT", str(tmp_path / "out"))
    monkeypatch.setattr(
      "sys.argv", ["benchmark_gpu", f"--max_seconds={seconds}", *arguments]
    )
    options, others = benchmark_gpu.parse_options()
    session = benchmark_gpu.Session(options, others, str(tmp_path))

    def read():
      path = tmp_path / "out" / "benchmark_gpu.jsonl"
      return [json.loads(line) for line in path.read_text().splitlines()]

    return session, read

  start.exports = []
  return start


def _report(rate, examples=2):
  return json.dumps(
    {
      "examples_per_second": rate,
      "sequences_per_second": 1,
      "peak_bytes": 2,
      "examples_per_step": examples,
    }
  )


def test_ours_and_torch_are_compared(start):
  commands = []

  def run(command, seconds, env):
    commands.append(list(map(str, command)))
    return _report(1.0 if "torch" in str(command[1]) else 3.0)

  session, read = start(run, arguments=["--gin.SEED=1"])
  session.measure(_CASE)
  _, ours, _ = commands  # after looking for torch
  # What is given last holds.
  assert ours[-1] == "--gin.SEED=1"
  ours, theirs, ratios = read()
  assert (ours["program"], theirs["program"]) == ("distill_jax", "torch")
  assert ratios["examples_per_second_ratio"] == 3.0
  assert ratios["case"] == {"size": "tiny", "rows": "full"}


def test_memory_of_other_batches_is_not_compared(start):
  def run(command, seconds, env):
    if "torch_baseline" in str(command[1]):
      return _report(1.0, examples=1)
    return _report(3.0)

  session, read = start(run)
  session.measure(_CASE)
  assert set(read()[-1]) == {
    "case",
    "examples_per_second_ratio",
    "sequences_per_second_ratio",
  }


@pytest.mark.parametrize("fastest", ["cudnn", "tokamax"])
def test_attention_is_the_fastest_or_what_the_case_names(
  start, monkeypatch, fastest
):
  monkeypatch.setattr(benchmark_gpu, "_FASTEST_ATTENTION", fastest)
  commands = []

  def run(command, seconds, env):
    commands.append(command)
    return _report(1.0)

  session, _ = start(run)
  session.measure(benchmark_gpu.Case("tiny", "full_xla"))
  _, ours = commands
  assert {"--gin.ATTENTION_IMPLEMENTATION='xla'", "--full_rows"} <= set(ours)
  session.measure(benchmark_gpu.Case("tiny", "packed"))
  ours = commands[2]
  assert f"--gin.ATTENTION_IMPLEMENTATION={fastest!r}" in ours
  assert "--examples=4" in ours


@pytest.mark.parametrize("rows,examples", [("full", 18), ("packed", 64)])
def test_torch_gets_examples_of_its_own(start, rows, examples):
  session, _ = start(lambda *_: _report(1.0))
  session.measure(benchmark_gpu.Case("large", rows))
  assert f"--examples={examples}" in start.exports[-1]


@pytest.mark.parametrize("fastest,count", [("cudnn", 3), ("tokamax", 4)])
def test_no_attention_is_measured_twice(start, monkeypatch, fastest, count):
  monkeypatch.setattr(benchmark_gpu, "_FASTEST_ATTENTION", fastest)
  cases = []
  monkeypatch.setattr(
    benchmark_gpu.Session, "measure", lambda self, case: cases.append(case.rows)
  )
  start(lambda *_: _report(1.0), arguments=["--sizes=tiny"])
  benchmark_gpu.main()
  assert len(cases) == count
  assert ("full_cudnn" in cases) == (fastest == "tokamax")


def test_without_memory_it_tries_half_the_examples(start):
  commands = []

  def run(command, seconds, env):
    commands.append(command)
    if "import torch, transformers" in command:
      raise benchmark_gpu.CaseError("no torch")
    if "--examples=2" in command:
      raise benchmark_gpu.CaseError("RESOURCE_EXHAUSTED: Out of memory")
    return _report(3.0)

  session, read = start(run)
  session.measure(_CASE)
  no_torch, failed, measured = read()
  assert "no comparison" in no_torch["torch"]
  assert failed["examples"] == 2
  assert "RESOURCE_EXHAUSTED" in failed["failed"]
  assert measured["examples_per_second"] == 3.0
  assert "--examples=1" in commands[-1]


def test_other_failures_are_recorded_once(start):
  def run(command, seconds, env):
    if "import torch, transformers" not in command:
      raise benchmark_gpu.CaseError("ValueError")
    return _report(1.0)

  session, read = start(run)
  session.measure(_CASE)
  assert [line["failed"] for line in read()] == ["ValueError", "ValueError"]


def test_what_the_time_leaves_out_is_named(start):
  session, read = start(lambda *_: _report(1.0), seconds=0)
  session.measure(_CASE)
  assert [line["left_out"] for line in read()] == ["the time was over"] * 2


def test_all_is_compiled_before_anything_is_measured(start, monkeypatch):
  commands = []

  def run(command, seconds, env):
    commands.append((command, env))
    return _report(1.0)

  monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "cache")
  arguments = ["--compile_first=2", "--sizes=tiny,small", "--rows=full,packed"]
  _, read = start(run, arguments=arguments)
  del commands[:]
  benchmark_gpu.main()
  # After looking for torch: each case of ours, and torch's packed ones.
  first = commands[1:7]
  assert all("--compile_only" in command for command, _ in first)
  compiled = [call for call in first if "torch_baseline" not in call[0][1]]
  assert len(compiled) == 4
  # None takes the others' memory.
  assert {env["XLA_PYTHON_CLIENT_PREALLOCATE"] for _, env in compiled} == {
    "false"
  }
  assert "benchmark_feed" in commands[7][0][1]
  measured = [command for command, _ in commands[8::2]]
  for (command, _), ours in zip(
    sorted(compiled, key=str), sorted(measured, key=str), strict=True
  ):
    assert set(command) ^ set(ours) == {"--compile_only"}
  assert len(start.exports) == 4  # not written again to be measured
  first, feed, *others = read()
  assert set(first) == {"compiled_first_seconds"}
  assert feed["program"] == "benchmark_feed"
  assert len(others) == 12


def test_what_cannot_be_compiled_is_recorded_and_tried_again(
  start, monkeypatch
):
  def run(command, seconds, env):
    if "import torch, transformers" in command:
      return ""
    raise benchmark_gpu.CaseError("ValueError")

  monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "cache")
  arguments = ["--compile_first=1", "--sizes=tiny", "--rows=full"]
  _, read = start(run, arguments=arguments)
  benchmark_gpu.main()
  first, _, *others = read()
  assert first["case"] == {"size": "tiny", "rows": "full"}
  assert first["program"] == "distill_jax"
  assert first["not_compiled_first"] == "ValueError"
  assert [line["failed"] for line in others] == ["ValueError"] * 2


def test_a_fault_of_the_script_is_not_taken_for_the_programs(
  start, monkeypatch
):
  def run(command, seconds, env):
    if "--compile_only" in command:
      raise RuntimeError("a bug")
    return _report(1.0)

  monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "cache")
  start(run, arguments=["--compile_first=1", "--sizes=tiny", "--rows=full"])
  with pytest.raises(RuntimeError, match="a bug"):
    benchmark_gpu.main()


def test_nothing_is_compiled_first_for_no_cache(start, monkeypatch, capsys):
  monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
  with pytest.raises(SystemExit):
    start(lambda *_: "", arguments=["--compile_first=2"])
  assert "JAX_COMPILATION_CACHE_DIR" in capsys.readouterr().err


def test_an_unknown_size_is_refused(start, capsys):
  with pytest.raises(SystemExit):
    start(lambda *_: "", arguments=["--sizes=small,huge"])
  assert "['huge']" in capsys.readouterr().err
