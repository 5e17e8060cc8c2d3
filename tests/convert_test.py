"""Tests of convert.py: every way there and back, and nothing half-written."""

import errno
import json
import os
import pathlib
import shutil

import numpy as np
import pytest
import safetensors.numpy
import stored_models
from tiny_run import fixture_model_dir as fixture_model_dir

import gin
from distill_jax import convert
from distill_jax.checkpoint import formats, hf
from distill_jax.errors import UserError

WORD_PROBLEMS = (
  pathlib.Path(convert.__file__).parent / "data" / "word_problems.model"
)


@pytest.fixture(name="hf_folder")
def fixture_hf_folder(tmp_path):
  folder = tmp_path / "hf_folder"
  folder.mkdir()
  tensors = stored_models.make_tensors(stored_models.GATED)
  hf.write_hf(folder, stored_models.GATED, tensors, np.dtype(np.float32))
  return folder


@pytest.mark.parametrize("name", stored_models.CONFIGS)
@pytest.mark.parametrize("there", convert.FORMATS)
def test_there_and_back_again_is_bitwise(tmp_path, there, name):
  config = stored_models.CONFIGS[name]
  source = tmp_path / "source"
  source.mkdir()
  tensors = stored_models.make_tensors(config)
  hf.write_hf(source, config, tensors, np.dtype(np.float32))
  convert.convert(
    str(source), str(tmp_path / "there"), destination_format=there
  )
  convert.convert(
    str(tmp_path / "there"), str(tmp_path / "back"), destination_format="hf"
  )
  before, after = (
    safetensors.numpy.load_file(folder / "model.safetensors")
    for folder in (source, tmp_path / "back")
  )
  assert before.keys() == after.keys()
  for key, array in before.items():
    assert array.tobytes() == after[key].tobytes()


def test_the_command_line(hf_folder, tmp_path):
  destination = tmp_path / "made" / "t5"
  convert.main(
    ["--from=hf", "--to=t5x", "--dtype=bfloat16", str(hf_folder),
     str(destination)]
  )  # fmt: skip
  stored = formats.open_checkpoint(destination)
  assert stored.file_format == "t5x"
  assert str(stored.tensors["token_embedder/embedding"].dtype) == "bfloat16"


def test_the_gin_file_beside_the_weights_fits(hf_folder, tmp_path):
  destination = tmp_path / "t5"
  convert.convert(str(hf_folder), str(destination))
  gin.clear_config()
  gin.parse_config_file(str(destination / "model.gin"))
  config = gin.get_configurable("MODEL_CONFIG/gin.macro")()
  gin.clear_config()
  assert config == stored_models.GATED
  assert config == formats.open_checkpoint(destination).config


@pytest.mark.parametrize("destination_format", convert.FORMATS)
def test_a_run_keeps_its_vocabulary(model_dir, tmp_path, destination_format):
  destination = tmp_path / "student"
  convert.convert(
    str(model_dir), str(destination), destination_format=destination_format
  )
  if destination_format == "hf":
    settings = json.loads((destination / "tokenizer_config.json").read_text())
    assert settings["tokenizer_class"] == "ByT5Tokenizer"
    assert formats.open_checkpoint(destination).uses_bytes


def test_the_wrong_vocabulary_is_refused(hf_folder, tmp_path):
  shutil.copyfile(WORD_PROBLEMS, hf_folder / "spiece.model")
  with pytest.raises(UserError, match=r"has \d+ ids, but the embedding .* 40"):
    convert.convert(str(hf_folder), str(tmp_path / "t5"))
  assert not (tmp_path / "t5").exists()


def test_the_form_given_must_be_the_form_found(hf_folder, tmp_path):
  with pytest.raises(UserError, match="--from=t5x, but .* form 'hf'"):
    convert.convert(str(hf_folder), str(tmp_path / "t5"), source_format="t5x")


def test_nothing_is_overwritten_unasked(hf_folder, tmp_path):
  destination = tmp_path / "t5"
  destination.mkdir()
  (destination / "thesis.tex").write_text("mine")
  for overwrite, message in (
    (False, "Add --overwrite"),
    (True, "is no earlier conversion"),
  ):
    with pytest.raises(UserError, match=message):
      convert.convert(str(hf_folder), str(destination), overwrite=overwrite)
  assert (destination / "thesis.tex").read_text() == "mine"


def test_an_earlier_conversion_is_replaced_when_asked(hf_folder, tmp_path):
  destination = str(tmp_path / "t5")
  convert.convert(str(hf_folder), destination)
  convert.convert(
    str(hf_folder), destination, destination_format="t5x", overwrite=True
  )
  assert formats.open_checkpoint(destination).file_format == "t5x"


def test_a_source_inside_the_destination_is_refused(hf_folder):
  (hf_folder.parent / "model.gin").write_text("")
  with pytest.raises(UserError, match=r"SRC .* lies in DST"):
    convert.convert(str(hf_folder), str(hf_folder.parent), overwrite=True)
  assert (hf_folder / "config.json").is_file()


@pytest.mark.parametrize("destination_format", convert.FORMATS)
def test_a_damaged_source_leaves_nothing(
  hf_folder, tmp_path, destination_format
):
  # The header is whole and promises more than there is: found on opening.
  path = hf_folder / "model.safetensors"
  path.write_bytes(path.read_bytes()[:-8])
  with pytest.raises(UserError, match="is damaged"):
    convert.convert(
      str(hf_folder),
      str(tmp_path / "t5"),
      destination_format=destination_format,
    )
  assert sorted(tmp_path.iterdir()) == [hf_folder]


@pytest.mark.parametrize("destination_format", convert.FORMATS)
def test_a_full_disk_leaves_nothing(
  hf_folder, tmp_path, monkeypatch, destination_format
):
  def fail(*arguments):
    raise OSError(errno.ENOSPC, "No space left on device")

  monkeypatch.setattr(os, "replace", fail)
  with pytest.raises(UserError, match=r"t5 cannot be written: .*No space"):
    convert.convert(
      str(hf_folder),
      str(tmp_path / "t5"),
      destination_format=destination_format,
    )
  assert sorted(tmp_path.iterdir()) == [hf_folder]


def test_a_remote_destination_is_refused(hf_folder):
  with pytest.raises(UserError, match="DST is gs://bucket/t5; it must be a"):
    convert.convert(str(hf_folder), "gs://bucket/t5")


@pytest.mark.parametrize("arguments", [[], ["only"], ["a", "b", "--to=tf"]])
def test_a_wrong_command_line_ends_with_2(arguments, capsys):
  with pytest.raises(SystemExit) as ended:
    convert.main(arguments)
  assert ended.value.code == 2
  assert "usage: distill-jax-convert" in capsys.readouterr().err
