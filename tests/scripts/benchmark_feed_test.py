"""Tests of scripts/benchmark_feed.py."""

import json
import subprocess
import sys

from script_import import SCRIPTS


def test_both_layouts_hold_the_same_examples():
  finished = subprocess.run(
    [
      sys.executable,
      str(SCRIPTS / "benchmark_feed.py"),
      "--examples=8",
      "--batches=2",
      "--turns=3",
    ],
    capture_output=True,
    text=True,
    check=True,
    timeout=300,
  )
  packed, padded = map(json.loads, finished.stdout.splitlines())
  assert (packed["layout"], padded["layout"]) == ("packed", "padded")
  assert padded["rows"] == 16
  assert packed["rows"] < padded["rows"]
  # Six batches of eight pairs each.
  assert packed["sequences"] == padded["sequences"] == 96
  assert packed["sequences_per_second"] > 0
