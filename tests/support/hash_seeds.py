"""What a program prints under different hash seeds."""

import os
import subprocess
import sys


def print_under_two(code):
  """Returns the lines that a program prints, once for each of two seeds.

  Another hash seed shows a dependence on the order of sets.
  """
  return [
    subprocess.run(
      [sys.executable, "-c", code],
      env={**os.environ, "PYTHONHASHSEED": hash_seed},
      capture_output=True,
      text=True,
      check=True,
    ).stdout.splitlines()
    for hash_seed in ("1", "2")
  ]
