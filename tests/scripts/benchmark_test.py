"""Tests of scripts/benchmark.py, as a program without TensorFlow."""

import json
import os
import subprocess
import sys

import pytest
from script_import import SCRIPTS
from without_tensorflow import BLOCKED

_MODEL = """
from __gin__ import dynamic_registration
from distill_jax.model import config
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
  runpy.run_path({str(SCRIPTS / "benchmark.py")!r}, run_name="__main__")
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
      env=os.environ | {"PYTHONPATH": str(SCRIPTS)},
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


def test_mistakes_are_explained(run):
  process = run("--gin.BATCH_SIZE=8")
  assert process.returncode == 2
  assert (
    process.stderr.strip() == "--gin.BATCH_SIZE: give --examples here instead."
  )
