"""Tests of scripts/benchmarks/compare_baseline.py."""

import dataclasses
import os
import sys

import pytest
from script_import import import_script

from distill_jax.model.t5 import flops
from distill_jax.model.t5.config import T5Config

compare_baseline = import_script("compare_baseline")


def _make_commands(*arguments, baseline="torch"):
  options, others = compare_baseline.parse_options(
    [f"--baseline={baseline}", "--baseline_python=python", *arguments]
  )
  commands = compare_baseline.make_commands(
    options, others, "examples.jsonl", "float32"
  )
  export = compare_baseline.make_export(options, others, "examples.jsonl")
  return commands | {"export": export}


def test_both_run_on_the_same_processors():
  program = (
    "import os; print(len(os.sched_getaffinity(0)), os.environ"
    "['OMP_NUM_THREADS'])"
  )
  processors = os.sched_getaffinity(0)
  printed = compare_baseline.run_pinned([sys.executable, "-c", program], 1)
  assert printed.split() == ["1", "1"]
  assert os.sched_getaffinity(0) == processors


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
  assert {
    "--steps=6",
    "--examples=4",
    "--gin.VOCAB_SIZE=64",
    "--run_gin_file=gin/runs/train_adamw.gin",
  } <= set(export)
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


def test_training_does_not_know_how_to_decode():
  commands = _make_commands(
    "--mode=decode", "--gin.NUM_BEAMS=2", "--gin.VOCAB_SIZE=64"
  )
  assert "--gin.NUM_BEAMS=2" in commands["distill_jax"]
  assert "--gin.NUM_BEAMS=2" not in commands["export"]
  assert "--gin.VOCAB_SIZE=64" in commands["export"]


def test_t5x_has_an_example_a_row():
  commands = _make_commands(baseline="t5x")
  assert "--full_rows" in commands["distill_jax"]
  assert "--full_rows" in commands["export"]
  assert commands["t5x"][1].endswith("t5x_baseline.py")
  assert not any(word.startswith("--threads") for word in commands["t5x"])
  with pytest.raises(SystemExit, match="one example a row"):
    _make_commands("--layout=packed", baseline="t5x")


@pytest.mark.parametrize("key", ["num_params", "dtype", "examples_per_step"])
def test_what_differs_is_not_compared(key):
  same = {"num_params": 3, "dtype": "float32", "examples_per_step": 4}
  reports = {"distill_jax": [same], "torch": [same]}
  compare_baseline.check_comparable(reports)
  reports["torch"] = [same | {key: "other"}]
  with pytest.raises(SystemExit, match=f"Not comparable: {key}"):
    compare_baseline.check_comparable(reports)


def test_flops_of_a_baseline():
  config = T5Config(
    vocab_size=48,
    embed_dim=16,
    num_heads=2,
    head_dim=8,
    mlp_dim=24,
    num_encoder_layers=2,
    num_decoder_layers=2,
  )
  sizes = dataclasses.asdict(config)
  report = {"seconds_per_step": 2.0, "passes": [[[3, 5, 4], [3, 7, 6]]]}
  compare_baseline.add_flop_rates([report], sizes)
  expected = sum(
    flops.count_train_flops(config, *shape) for shape in ((3, 5, 4), (3, 7, 6))
  )
  assert report["model_flops_per_second"] == expected / 2
