"""Tests of scripts/benchmarks/benchmark_feed.py."""

import json
import subprocess
import sys

import pytest
from script_import import SCRIPTS


def test_both_layouts_hold_the_same_examples():
  finished = subprocess.run(
    [
      sys.executable,
      str(SCRIPTS / "benchmarks" / "benchmark_feed.py"),
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


def run_sharded(*flags):
  finished = subprocess.run(
    [
      sys.executable,
      str(SCRIPTS / "benchmarks" / "benchmark_feed.py"),
      "--rows=8",
      "--batches=2",
      "--turns=1",
      *flags,
    ],
    capture_output=True,
    text=True,
    timeout=300,
  )
  return finished.returncode, finished.stdout, finished.stderr


def test_hosts_make_all_of_a_batch_between_them():
  of_all = json.loads(run_sharded("--data_shards=2")[1])
  of_hosts = [
    json.loads(run_sharded("--data_shards=2", "--hosts=2", f"--host={host}")[1])
    for host in (0, 1)
  ]
  assert of_all["sequences"] == sum(host["sequences"] for host in of_hosts)
  assert all(host["sequences"] for host in of_hosts)
  for measured in of_hosts:
    assert measured["all_hosts_sequences_per_second"] == pytest.approx(
      2 * measured["sequences_per_second"]
    )


@pytest.mark.parametrize(
  "flags,message",
  [
    (["--data_shards=2", "--hosts=3"], "must divide by --hosts"),
    (["--host=1"], "--host must be from 0"),
    (["--data_shards=3"], "batch_rows is 8 and num_shards 3"),
    (["--token_cache=/nowhere"], "/nowhere"),
  ],
)
def test_hosts_that_do_not_fit(flags, message):
  code, _, told = run_sharded(*flags)
  assert code == 2
  assert message in told
  assert "Traceback" not in told
