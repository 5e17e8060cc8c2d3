"""Tests of main.py: the program as users run it. Each test is a process."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import fault_server
import pytest

import distill_jax

_ROOT = pathlib.Path(__file__).parents[1]
_TRAIN = (
  "--run_mode=train",
  "--gin_file=gin/models/t5_1_1/tiny.gin",
  "--gin_file=gin/runs/train.gin",
)


_LABEL = (
  "--run_mode=label",
  "--gin_file=gin/runs/label.gin",
  "--gin.INPUT_PATH=questions.jsonl",
  "--gin.OUTPUT_PATH='out'",
  "--gin.TEACHER_MODEL=m",
  "--gin.PROMPT='svamp'",
)


def _run(
  *arguments,
  folder,
  command=("-m", "distill_jax.main"),
  stdin="",
  without=(),
):
  kept = {k: v for k, v in os.environ.items() if k not in without}
  return subprocess.run(
    [sys.executable, *command, *arguments],
    cwd=folder,
    env=kept | {"XDG_CACHE_HOME": str(folder), "HOME": str(folder)},
    input=stdin,
    capture_output=True,
    text=True,
    timeout=120,
  )


def _assert_mistake(process, *told, code=2):
  """Checks for one message, on one screen, and nothing else."""
  assert process.returncode == code, process.stderr
  assert process.stdout == ""
  assert process.stderr.startswith("distill-jax: ")
  assert "Traceback" not in process.stderr
  assert len(process.stderr.splitlines()) <= 4
  for part in told:
    assert part in process.stderr


@pytest.mark.parametrize(
  "arguments, told",
  [
    ([], "--run_mode is missing; it is one of label, prepare, train, eval, in"),
    (["--run_mode=trian"], "<label|prepare|train|eval|infer|sweep|precompile>"),
    (
      ["--run_mode=eval"],
      "--gin_file is missing, e.g. --gin_file=gin/runs/eva",
    ),
    (["--run_mode=eval", "a"], "Unexpected arguments ['a']"),
    (
      ["--run_mod=eval"],
      "Unknown command line flag 'run_mod'. Did you mean: r",
    ),
    (["--gin.SEED", "3"], "Unknown command line flag 'gin.SEED'"),
  ],
)
def test_mistaken_flags(tmp_path, arguments, told):
  _assert_mistake(_run(*arguments, folder=tmp_path), told)


@pytest.mark.parametrize(
  "arguments, code, told",
  [
    (["--process_count=2"], 2, "coordinator_address and process_index must be"),
    (
      [
        "--coordinator_address=127.0.0.1:1",
        "--process_count=2",
        "--process_index=1",
        "--join_seconds=1",
      ],
      75,
      "could not reach the coordinator, process 0 at 127.0.0.1:1, within 1 sec",
    ),
  ],
)
def test_processes_that_cannot_be_joined(tmp_path, arguments, code, told):
  process = _run(*_TRAIN, *arguments, folder=tmp_path)
  _assert_mistake(process, told, code=code)


def test_one_process_evaluates(tmp_path, monkeypatch):
  monkeypatch.setenv("JAX_COORDINATOR_ADDRESS", "127.0.0.1:1")
  monkeypatch.setenv("JAX_NUM_PROCESSES", "2")
  monkeypatch.setenv("JAX_PROCESS_ID", "0")
  process = _run(
    "--run_mode=eval", "--gin_file=gin/runs/eval.gin", folder=tmp_path
  )
  _assert_mistake(
    process, "--run_mode=eval runs in one process", "--run_mode=train in sev"
  )


@pytest.mark.parametrize("mode", ["label", "prepare", "eval", "precompile"])
def test_flags_of_several_processes(tmp_path, mode):
  process = _run(
    f"--run_mode={mode}",
    f"--gin_file=gin/runs/{mode}.gin",
    "--process_count=2",
    "--process_index=0",
    folder=tmp_path,
  )
  _assert_mistake(
    process,
    f"--run_mode={mode} does not read --process_count, --process_index;"
    " --run_mode=train does. Leave",
  )


def test_help_of_a_mode(tmp_path):
  program = (
    "import sys\n"
    "for name in ('jax', 'flax', 'orbax', 'tensorflow', 'seqio', 'numpy'):\n"
    "  sys.modules[name] = None\n"
    "from distill_jax import main\n"
    "main.run()\n"
  )
  process = _run(
    "--run_mode=train", "--help", folder=tmp_path, command=("-c", program)
  )
  assert process.returncode == 0, process.stderr
  for text in (
    "EVAL_PERIOD = 1000\n      A whole number >= 1. Steps between evaluations",
    "Required:\n  MIXTURE_OR_TASK_NAME\n",
    "--process_index",
  ):
    assert text in process.stdout
  for text in ("--shard", "TEACHER_MODEL", "EVAL_SPLITS"):
    assert text not in process.stdout


def test_help_of_a_file_that_is_not_there(tmp_path):
  process = _run(
    "--run_mode=eval", "--gin_file=a.gin", "--help", folder=tmp_path
  )
  _assert_mistake(process, "There is no gin file a.gin")


def test_version(tmp_path):
  process = _run("--version", folder=tmp_path)
  assert process.returncode == 0
  assert process.stdout == f"distill-jax {distill_jax.__version__}\n"


def test_help(tmp_path):
  process = _run("--help", folder=tmp_path)
  assert process.returncode == 0
  for text in ("A first run", "--run_mode", "--process_index", "--shard"):
    assert text in process.stdout


_COMPILE = """
import sys, jax
from distill_jax import main
main._use_compilation_cache()
counts = {}
def count(name, **_):
  counts[name] = counts.get(name, 0) + 1
jax.monitoring.register_event_listener(count)
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
jax.jit(lambda x: x * 3 + 1)(2.0).block_until_ready()
print(counts.get("/jax/compilation_cache/cache_hits", 0))
"""


@pytest.mark.parametrize("variable", [None, "JAX_COMPILATION_CACHE_DIR"])
def test_programs_are_compiled_once(tmp_path, monkeypatch, variable):
  monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
  cache = tmp_path / ".cache/distill_jax/xla"
  if variable is not None:
    cache = tmp_path / "elsewhere"
    monkeypatch.setenv(variable, str(cache))
  hits = [
    int(_run(folder=tmp_path, command=("-c", _COMPILE)).stdout)
    for _ in range(2)
  ]
  assert hits[0] == 0 < hits[1]
  assert any(cache.iterdir())
  assert (tmp_path / ".cache/distill_jax/xla").exists() == (variable is None)


def test_a_misspelled_macro(tmp_path):
  process = _run(*_TRAIN, "--gin.TRAIN_STEPZ=3", folder=tmp_path)
  _assert_mistake(process, "Did you mean TRAIN_STEPS?")


def test_missing_settings_away_from_the_repository(tmp_path):
  process = _run(*_TRAIN, "--gin.TRAIN_STEPS=3", folder=tmp_path)
  _assert_mistake(
    process, "Missing: --gin.MIXTURE_OR_TASK_NAME=VALUE --gin.MODEL_DIR=VALUE"
  )
  # gin reports each folder it searches in vain, unless it is told not to.
  assert "not found" not in process.stderr


def test_a_folder_without_a_run(tmp_path):
  process = _run(
    "--run_mode=infer",
    "--gin_file=gin/runs/infer.gin",
    "--gin.MODEL_DIR='absent'",
    "--gin.INPUT_PATH='-'",
    "--gin.OUTPUT_PATH='-'",
    folder=tmp_path,
    stdin="one\n",
  )
  _assert_mistake(process, f"There is no checkpoint at {tmp_path}/absent")


@pytest.mark.parametrize(
  "arguments, told",
  [
    (["--dry_run"], "--run_mode=infer does not read --dry_run; --run_mode=lab"),
    (["--evaluate", "--shard=0/2"], "does not read --evaluate, --shard"),
    (["--rebuild"], "does not read --rebuild"),
  ],
)
def test_flags_of_another_mode(tmp_path, arguments, told):
  process = _run(
    "--run_mode=infer",
    "--gin_file=gin/runs/infer.gin",
    "--gin.INPUT_PATH='-'",
    "--gin.OUTPUT_PATH='-'",
    *arguments,
    folder=tmp_path,
  )
  _assert_mistake(process, told)


@pytest.mark.parametrize(
  "arguments, told",
  [
    (["--dry_run", "--rebuild"], "--dry_run and --rebuild exclude each other"),
    (["--evaluate", "--shard=0/2"], "--evaluate compares on few questions"),
    (["--shard=2/2"], "--shard is '2/2'; it is i/n"),
    (["--gin.MESH=1"], "no gin file given knows MESH"),
    (["--gin.TEACHER_BASE_URL='ftp://a'"], "TEACHER_BASE_URL is not an addre"),
    (["--gin.TEACHER_BASE_URL='http://me:pw@a/v1'"], "holds a user name or a"),
  ],
)
def test_mistakes_of_labelling(tmp_path, arguments, told):
  process = _run(*_LABEL, *arguments, folder=tmp_path)
  _assert_mistake(process, told)
  assert "me:pw" not in process.stderr


def test_labelling_needs_neither_jax_nor_tensorflow(tmp_path):
  (tmp_path / "questions.jsonl").write_text('{"id": "a", "input": "1 + 1?"}\n')
  program = (
    "import sys\n"
    "for name in ('jax', 'flax', 'orbax', 'tensorflow', 'seqio'):\n"
    "  sys.modules[name] = None\n"
    "from distill_jax import main\n"
    "main.run()\n"
  )
  with fault_server.FaultServer(
    answer=fault_server.answer("Add. The answer is (1 + 1).")
  ) as server:
    process = _run(
      *_LABEL,
      f"--gin.TEACHER_BASE_URL='{server.base_url}'",
      folder=tmp_path,
      command=("-c", program),
    )
  assert process.returncode == 0, process.stderr
  assert "1 questions: 1 ok" in process.stdout
  (line,) = (tmp_path / "out" / "records.jsonl").read_text().splitlines()
  assert json.loads(line)["teacher_label"] == "(1 + 1)"
  # The settings beside the records are those of the run.
  written = (tmp_path / "out" / "config.gin").read_text()
  assert "PROMPT = 'svamp'" in written
  process = _run(
    "--run_mode=label",
    f"--gin_file={tmp_path}/out/config.gin",
    "--rebuild",
    folder=tmp_path,
  )
  assert process.returncode == 0, process.stderr


@pytest.mark.parametrize(
  "given", ["'api-key: sk-12'", "{'a': 1, 'b': 'sk-12'}"]
)
def test_headers_of_a_wrong_type_are_not_repeated(tmp_path, given):
  (tmp_path / "questions.jsonl").write_text('{"id": "a", "input": "1 + 1?"}\n')
  process = _run(*_LABEL, f"--gin.EXTRA_HEADERS={given}", folder=tmp_path)
  _assert_mistake(process, "EXTRA_HEADERS")
  assert "sk-12" not in process.stderr


def test_a_questions_file_without_a_server(tmp_path):
  (tmp_path / "questions.jsonl").write_text('{"id": "a", "input": "1 + 1?"}\n')
  process = _run(
    *_LABEL,
    "--gin.TEACHER_BASE_URL='https://example.invalid/v1'",
    folder=tmp_path,
    without=("OPENAI_API_KEY",),
  )
  _assert_mistake(process, "variable OPENAI_API_KEY is not set")


def test_own_gin_file_and_own_tasks_in_this_folder(tmp_path):
  (tmp_path / "my_tasks.py").write_text(
    "from distill_jax.errors import UserError\n"
    "raise UserError('my_tasks was imported')\n"
  )
  (tmp_path / "more").mkdir()
  (tmp_path / "more" / "mine.gin").write_text(
    "include 'gin/runs/prepare.gin'\nMIXTURE_OR_TASK_MODULE = 'my_tasks'\n"
  )
  # As the installed program does it: `-P` keeps this folder off Python's path.
  process = _run(
    "--run_mode=prepare",
    "--gin_file=mine.gin",
    "--gin_search_paths=more",
    "--gin.MIXTURE_OR_TASK_NAME='my_set_label'",
    f"--gin.CACHE_DIR='{tmp_path}'",
    folder=tmp_path,
    command=("-P", "-c", "from distill_jax import main; main.run()"),
  )
  _assert_mistake(process, "my_tasks was imported")


@pytest.mark.tf
@pytest.mark.parametrize("seconds", [0.7, 2.0, 4.0, 7.0])
def test_ctrl_c_while_preparing_leaves_nothing_half_built(tmp_path, seconds):
  """While it imports TensorFlow, and while it tokenizes."""
  process = subprocess.Popen(
    [
      sys.executable,
      "-m",
      "distill_jax.main",
      "--run_mode=prepare",
      "--gin_file=gin/runs/prepare.gin",
      "--gin.MIXTURE_OR_TASK_NAME='word_problems_distill'",
      "--gin.WORD_PROBLEMS={'num_train_examples': 100000}",
      f"--gin.CACHE_DIR='{tmp_path}/caches'",
    ],
    cwd=tmp_path,
    stderr=subprocess.PIPE,
    text=True,
  )
  with process:
    time.sleep(seconds)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=60)
  assert process.returncode == 130, stderr
  assert "Traceback" not in stderr
  assert stderr.endswith("distill-jax: stopped.\n")
  assert not list(tmp_path.glob("caches/.*"))
  assert not list(tmp_path.glob("caches/*"))
