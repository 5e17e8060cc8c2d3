"""Tests of runs/convert.py: the command line of conversions."""

import os
import signal
import sys

import numpy as np
import pytest
import stored_models

from distill_jax.checkpoint import formats, hf
from distill_jax.config import console_logging
from distill_jax.runs import convert


@pytest.fixture(name="hf_folder")
def fixture_hf_folder(tmp_path):
  folder = tmp_path / "hf_folder"
  folder.mkdir()
  tensors = stored_models.make_tensors(stored_models.GATED)
  hf.write_hf(folder, stored_models.GATED, tensors, np.dtype(np.float32))
  return folder


def test_the_command_line(hf_folder, tmp_path):
  destination = tmp_path / "made" / "t5"
  convert.main(
    ["--from=hf", "--to=t5x", "--dtype=bfloat16", str(hf_folder),
     str(destination)]
  )  # fmt: skip
  stored = formats.open_checkpoint(destination)
  assert stored.file_format == "t5x"
  assert str(stored.tensors["token_embedder/embedding"].dtype) == "bfloat16"


def test_stopped_by_a_signal(hf_folder, tmp_path, monkeypatch, capsys):
  def stop(*arguments):
    os.kill(os.getpid(), signal.SIGTERM)

  monkeypatch.setattr(hf, "write_hf", stop)
  monkeypatch.setattr(
    sys, "argv", ["x", "--to=hf", str(hf_folder), str(tmp_path / "t5")]
  )
  # It would keep this process's later messages from pytest.
  monkeypatch.setattr(console_logging, "set_up", lambda: None)
  before = signal.getsignal(signal.SIGTERM)
  try:
    with pytest.raises(SystemExit) as ended:
      convert.run()
  finally:
    signal.signal(signal.SIGTERM, before)
  assert ended.value.code == 143
  assert "nothing was written" in capsys.readouterr().err
  assert sorted(tmp_path.iterdir()) == [hf_folder]


@pytest.mark.parametrize("arguments", [[], ["only"], ["a", "b", "--to=tf"]])
def test_a_wrong_command_line_ends_with_2(arguments, capsys):
  with pytest.raises(SystemExit) as ended:
    convert.main(arguments)
  assert ended.value.code == 2
  assert "usage: distill-jax-convert" in capsys.readouterr().err
