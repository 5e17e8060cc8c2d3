"""Tests of scripts/benchmarks/benchmark.py, as a program without TensorFlow."""

import json
import os
import subprocess
import sys

import pytest
from script_import import SCRIPTS, import_script
from without_tensorflow import BLOCKED

_SCRIPT = SCRIPTS / "benchmarks" / "benchmark.py"
benchmark_data = import_script("benchmark_data")

_MODEL = """
from __gin__ import dynamic_registration
from distill_jax.model.t5 import config
include 'gin/models/t5_1_1/tiny.gin'
config.T5Config:
  num_encoder_layers = 1
  num_decoder_layers = 1
"""
# The import system finds nothing of what the machine shall not have, and at
# the end nobody has found it in another way.
_PROGRAM = f"""
import runpy, sys
class Blocker:
  def find_spec(name, path=None, target=None):
    if name.partition(".")[0] in {BLOCKED}:
      raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Blocker)
try:
  runpy.run_path({str(_SCRIPT)!r}, run_name="__main__")
finally:
  assert not {{name.partition(".")[0] for name in sys.modules}} & set({BLOCKED})
"""


@pytest.fixture(name="run", scope="module")
def fixture_run(tmp_path_factory):
  """(arguments) -> the finished process, of a model smaller than tiny."""
  folder = tmp_path_factory.mktemp("benchmark")
  (folder / "model.gin").write_text(_MODEL)

  def run(*arguments):
    return subprocess.run(
      [
        sys.executable,
        "-c",
        _PROGRAM,
        f"--gin_file={folder}/model.gin",
        *arguments,
      ],
      cwd=folder,
      env=os.environ | {"PYTHONPATH": str(_SCRIPT.parent)},
      capture_output=True,
      text=True,
      timeout=300,
    )

  return run


def _read_lines(process):
  assert process.returncode == 0, process.stderr
  return [json.loads(line) for line in process.stdout.splitlines()]


def test_training(run, tmp_path):
  padded, packed, ratio = _read_lines(
    run(
      "--steps=2",
      "--turn_steps=2",
      "--examples=4",
      "--peak_flops=1e12",
      f"--profile_dir={tmp_path}",
      "--gin.LOSS_CHUNK_TOKENS=64",
    )
  )
  # The same examples, in whatever rows: the same losses, step after step.
  assert padded["loss"] == pytest.approx(packed["loss"], rel=1e-5)
  assert padded["padding_share"] > packed["padding_share"] > 0
  for report in (padded, packed):
    seconds = report["seconds_per_step"]
    assert report["examples_per_second"] * seconds == pytest.approx(4)
    assert report["sequences_per_second"] * seconds == pytest.approx(8)
    assert report["mfu"] == report["model_flops_per_second"] / 1e12
    # Padding, and attention between packed examples, are left out.
    assert 0 < report["example_mfu"] < report["mfu"]
    assert report["settings"] == ["LOSS_CHUNK_TOKENS = 64"]
    # The state alone: parameters twice, as Adafactor factors its moments not
    # in so narrow a model.
    assert report["step_bytes"] > 8 * report["num_params"]
    assert report["peak_bytes"] is None
  assert ratio["packed_over_padded_examples_per_second"] == pytest.approx(
    padded["seconds_per_step"] / packed["seconds_per_step"]
  )
  assert list(tmp_path.rglob("*.xplane.pb"))


def test_decoding(run):
  (report,) = _read_lines(
    run(
      "--mode=decode",
      "--steps=2",
      "--batch=3",
      "--row_inputs=16",
      "--tokens=5",
      "--gin.DECODING='beam'",
      "--gin.NUM_BEAMS=2",
    )
  )
  seconds = report["seconds_per_step"]
  assert report["tokens_per_second"] * seconds == pytest.approx(15)
  assert report["decoding"]["num_beams"] == 2
  # The chip is not known, and no figure is made up for it.
  assert report["mfu"] is None
  assert report["peak_bytes"] > report["step_bytes"] > 0


def test_decoding_the_examples_of_a_cache(run, tmp_path):
  cache = benchmark_data.draw_cache(str(tmp_path), 1024, None)
  (report,) = _read_lines(
    run(
      "--mode=decode",
      "--steps=1",
      "--batch=4",
      "--batches=2",
      "--row_inputs=128",
      "--tokens=64",
      f"--token_cache={cache.path}",
    )
  )
  seconds = report["seconds_per_step"]
  assert report["sequences_per_second"] * seconds == pytest.approx(8)
  # No label is longer.
  longest = max(
    info.find_longest("targets")
    for info in cache.tasks.values()
    if info.kind == "label"
  )
  assert longest <= report["row_lengths"]["targets"] < min(longest + 8, 64)
  assert report["tokens_per_second"] is None
  assert report["step_bytes"] is None


def test_training_without_prefetch_is_the_same(run):
  losses = [
    _read_lines(run("--steps=2", "--examples=4", "--layout=packed", *flags))[0][
      "loss"
    ]
    for flags in ((), ("--noprefetch",))
  ]
  assert losses[0] == losses[1]


@pytest.mark.parametrize(
  "arguments, told",
  [
    (["--gin.BATCH_SIZE=8"], "--gin.BATCH_SIZE: give --examples here instead."),
    (["--gin.PAIRING='mixed'"], "--gin.PAIRING: it is not measured."),
    (["--mode=decode", "--layout=packed"], "--layout: --mode=decode does not"),
    (["--tokens=8"], "--tokens: --mode=train does not read it."),
    (["--exmaples=8"], "Unknown command line flag 'exmaples'"),
    (["--examples=many"], "flag --examples=many: invalid literal"),
    (
      ["--gin.ATTENTION_IMPLEMENTATION='pallas_tpu'"],
      "ATTENTION_IMPLEMENTATION is 'pallas_tpu'",
    ),
  ],
)
def test_mistakes_are_explained(run, arguments, told):
  process = run(*arguments)
  assert process.returncode == 2
  assert process.stderr.strip().startswith(f"benchmark.py: {told}")


def test_help_teaches(run):
  process = run("--help")
  assert process.returncode == 0
  assert "model_flops_per_second" in process.stdout
  assert "--measure_peak" in process.stdout.replace("[no]", "")


def test_padded_rows_divide_among_micro_batches(run):
  (report,) = _read_lines(
    run(
      "--steps=1",
      "--examples=4",
      "--layout=padded",
      "--gin.NUM_MICROBATCHES=3",
    )
  )
  assert report["rows"] == 9


def test_nothing_is_compiled_for_no_cache(run, monkeypatch):
  monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
  finished = run("--compile_only")
  assert finished.returncode == 2
  assert "JAX_COMPILATION_CACHE_DIR" in finished.stderr


def test_what_is_compiled_alone_is_not_compiled_again(tmp_path):
  environment = os.environ | {
    "JAX_COMPILATION_CACHE_DIR": str(tmp_path),
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
  }

  # As on a machine with TensorFlow: JAX's cache cannot do with the blocker,
  # which raises where others do not find.
  def run(*arguments):
    finished = subprocess.run(
      [
        sys.executable,
        str(SCRIPTS / "benchmarks" / "benchmark.py"),
        *("--examples=2", "--steps=1", "--full_rows", *arguments),
      ],
      env=environment,
      capture_output=True,
      text=True,
      check=True,
      timeout=300,
    )
    kept = {file.name for file in tmp_path.iterdir()}
    return json.loads(finished.stdout), {
      name for name in kept if name.startswith(("jit_train_step", "jit_init"))
    }

  report, kept = run("--compile_only")
  assert set(report) == {"layout", "compile_seconds"}
  assert len(kept) == 2
  report, kept_then = run()
  assert report["steps"] == 1
  assert kept_then == kept
