"""Tests of benchmark_teacher.py: what its arguments may be."""

import subprocess
import sys

import pytest
from script_import import SCRIPTS


@pytest.mark.parametrize(
  "argument, code, told",
  [("--help", 0, "--concurrency"), ("--request=1", 2, "'request'")],
)
def test_arguments(argument, code, told):
  process = subprocess.run(
    [
      sys.executable,
      str(SCRIPTS / "benchmarks" / "benchmark_teacher.py"),
      argument,
    ],
    capture_output=True,
    text=True,
    timeout=120,
  )
  assert process.returncode == code
  assert told in (process.stderr if code else process.stdout)
