"""Tests of command_line.py: how commands end, and what they say."""

import os
import signal
import subprocess
import sys

import pytest

_PROGRAM = '''"""What it is for."""

import sys
from absl import flags
from distill_jax.config import command_line
from distill_jax.errors import LostProcessError

_NUM_ROWS = flags.DEFINE_integer("num_rows", 1, "Rows.")


def main(arguments):
  if not _NUM_ROWS.value:
    raise LostProcessError("No rows came.")
  print(_NUM_ROWS.value, arguments[1:])


command_line.run("program", main, sys.argv)
'''


@pytest.fixture(name="run")
def fixture_run(tmp_path):
  """(arguments) -> the finished process."""
  program = tmp_path / "program.py"
  program.write_text(_PROGRAM)

  def run(*arguments):
    return subprocess.run(
      [sys.executable, str(program), *arguments],
      capture_output=True,
      text=True,
      timeout=60,
    )

  return run


@pytest.mark.parametrize("argument", ["--help", "-h", "-help"])
def test_help_teaches(run, argument):
  process = run("--num_rows=2", argument)
  assert process.returncode == 0
  assert "What it is for." in process.stdout
  assert "--num_rows: Rows." in process.stdout
  assert not process.stderr


def test_help_may_be_read_in_part(tmp_path):
  """As `head` does, which then closes the pipe."""
  program = tmp_path / "program.py"
  program.write_text(_PROGRAM)
  read, write = os.pipe()
  os.close(read)
  process = subprocess.run(
    [sys.executable, str(program), "--help"],
    stdout=write,
    stderr=subprocess.PIPE,
    text=True,
    timeout=60,
  )
  os.close(write)
  assert (process.returncode, process.stderr) == (0, "")


def test_flags_get_their_values(run):
  process = run("--num_rows=2", "help")
  assert (process.returncode, process.stdout) == (0, "2 ['help']\n")


@pytest.mark.parametrize(
  "argument, code, told",
  [
    ("--num_row=2", 2, "Unknown command line flag 'num_row'. Did you mean:"),
    ("--num_rows=two", 2, "flag --num_rows=two: invalid literal"),
    ("--num_rows=0", 75, "No rows came."),
  ],
)
def test_mistakes_are_told(run, argument, code, told):
  process = run(argument)
  assert process.returncode == code
  assert process.stderr.startswith(f"program: {told}")
  assert "Traceback" not in process.stderr
  if code == 2:
    assert process.stderr.endswith("See --help.\n")


@pytest.mark.parametrize(
  "number, code", [(signal.SIGINT, 130), (signal.SIGTERM, 143)]
)
def test_an_interrupt_ends_in_one_line(tmp_path, number, code):
  program = tmp_path / "program.py"
  program.write_text(
    _PROGRAM.replace(
      "  print(_NUM_ROWS.value, arguments[1:])",
      "  try:\n"
      "    print('at work', flush=True)\n"
      "    import time; time.sleep(60)\n"
      "  finally:\n"
      "    print('removed')",
    )
  )
  with subprocess.Popen(
    [sys.executable, str(program)],
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  ) as process:
    assert process.stdout.readline() == "at work\n"
    process.send_signal(number)
    stdout, stderr = process.communicate(timeout=30)
  assert (process.returncode, stdout) == (code, "removed\n")
  assert stderr.strip() == "program: stopped."
