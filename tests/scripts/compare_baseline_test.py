"""Tests of scripts/compare_baseline.py."""

import os
import sys

import pytest
from script_import import import_script

compare_baseline = import_script("compare_baseline")


def _make_commands(*arguments, baseline="torch"):
  options, others = compare_baseline.parse_options(
    [f"--baseline={baseline}", "--baseline_python=python", *arguments]
  )
  return compare_baseline.make_commands(options, others, "examples.jsonl")


def test_both_run_on_the_same_processors():
  program = (
    "import os; print(len(os.sched_getaffinity(0)), os.environ"
    "['OMP_NUM_THREADS'])"
  )
  printed = compare_baseline.run_pinned([sys.executable, "-c", program], 1)
  assert printed.split() == ["1", "1"]
  assert len(os.sched_getaffinity(0)) >= 1


def test_a_program_that_fails_ends_the_comparison(capsys):
  with pytest.raises(SystemExit) as raised:
    compare_baseline.run_pinned(
      [sys.executable, "-c", "raise SystemExit(3)"], 1
    )
  assert raised.value.code == 3
  assert "This failed" in capsys.readouterr().err


def test_ratios_are_of_medians():
  reports = {
    "distill_jax": [{"tokens_per_second": rate} for rate in (6.0, 8.0, 100.0)],
    "torch": [
      {"tokens_per_second": rate, "peak_bytes": 1} for rate in (2.0, 2.0, 9.0)
    ],
  }
  # Ours reports no peak here: nothing to compare.
  assert compare_baseline.compare(reports) == {
    "tokens_per_second": {"distill_jax": 8.0, "torch": 2.0, "ratio": 4.0}
  }


def test_training_is_by_the_same_optimizer_on_the_same_steps():
  commands = _make_commands("--gin.VOCAB_SIZE=64", "--steps=5", "--examples=4")
  ours, theirs, export = (
    commands[name] for name in ("distill_jax", "torch", "export")
  )
  assert "--run_gin_file=gin/runs/train_adamw.gin" in ours
  assert {"--layout=packed", "--examples=4", "--steps=5"} <= set(ours)
  assert "--steps=5" in theirs
  assert {"--steps=6", "--examples=4", "--gin.VOCAB_SIZE=64"} <= set(export)
  chosen = _make_commands(
    "--layout=padded", "--run_gin_file=gin/runs/train.gin"
  )["distill_jax"]
  assert "--layout=packed" not in chosen
  assert "--run_gin_file=gin/runs/train_adamw.gin" not in chosen


def test_decoding_is_of_the_same_rows():
  commands = _make_commands("--mode=decode", "--batch=3", "--row_inputs=40")
  for program in ("distill_jax", "torch"):
    assert {"--mode=decode", "--batch=3", "--row_inputs=40", "--tokens=32"} <= (
      set(commands[program])
    )


def test_t5x_pads_to_our_rows():
  row = {"--row_inputs=40", "--row_targets=24"}
  commands = _make_commands(*row, baseline="t5x")
  assert row <= set(commands["distill_jax"])
  assert row <= set(commands["t5x"])
  assert commands["t5x"][1].endswith("t5x_baseline.py")
  assert not any(word.startswith("--threads") for word in commands["t5x"])
