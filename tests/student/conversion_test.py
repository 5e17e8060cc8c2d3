"""Tests of conversion.py: there and back, and nothing half-written."""

import dataclasses
import errno
import io
import json
import os
import pathlib
import shutil
from unittest import mock

import numpy as np
import pytest
import safetensors.numpy
import sentencepiece
import stored_models
import tqdm
from tiny_run import fixture_model_dir as fixture_model_dir

import gin
from distill_jax.checkpoint import formats, hf
from distill_jax.config import interrupts
from distill_jax.errors import UserError
from distill_jax.files import process_identity, unfinished
from distill_jax.student import conversion

WORD_PROBLEMS = (
  pathlib.Path(conversion.__file__).parents[1] / "data" / "word_problems.model"
)


@pytest.fixture(name="hf_folder")
def fixture_hf_folder(tmp_path):
  folder = tmp_path / "hf_folder"
  folder.mkdir()
  tensors = stored_models.make_tensors(stored_models.GATED)
  hf.write_hf(folder, stored_models.GATED, tensors, np.dtype(np.float32))
  return folder


@pytest.mark.parametrize("name", stored_models.CONFIGS)
@pytest.mark.parametrize("there", conversion.FORMATS)
def test_there_and_back_again_is_bitwise(tmp_path, there, name):
  config = stored_models.CONFIGS[name]
  source = tmp_path / "source"
  source.mkdir()
  tensors = stored_models.make_tensors(config)
  hf.write_hf(source, config, tensors, np.dtype(np.float32))
  conversion.convert(
    str(source), str(tmp_path / "there"), destination_format=there
  )
  conversion.convert(
    str(tmp_path / "there"), str(tmp_path / "back"), destination_format="hf"
  )
  before, after = (
    safetensors.numpy.load_file(folder / "model.safetensors")
    for folder in (source, tmp_path / "back")
  )
  assert before.keys() == after.keys()
  for key, array in before.items():
    assert array.tobytes() == after[key].tobytes()


def test_the_gin_file_beside_the_weights_fits(hf_folder, tmp_path):
  destination = tmp_path / "t5"
  conversion.convert(str(hf_folder), str(destination))
  gin.clear_config()
  gin.parse_config_file(str(destination / "model.gin"))
  config = gin.get_configurable("MODEL_CONFIG/gin.macro")()
  gin.clear_config()
  assert config == stored_models.GATED
  assert config == formats.open_checkpoint(destination).config


@pytest.mark.parametrize("destination_format", conversion.FORMATS)
def test_a_run_keeps_its_vocabulary(model_dir, tmp_path, destination_format):
  """Bytes, by way of another form, as far as Hugging Face's."""
  there, back = tmp_path / "there", tmp_path / "back"
  conversion.convert(
    str(model_dir), str(there), destination_format=destination_format
  )
  assert formats.open_checkpoint(there).uses_bytes
  conversion.convert(str(there), str(back), destination_format="hf")
  settings = json.loads((back / "tokenizer_config.json").read_text())
  assert settings["tokenizer_class"] == "ByT5Tokenizer"


@pytest.mark.parametrize("destination_format", conversion.FORMATS)
def test_a_sentencepiece_model_comes_along(tmp_path, destination_format):
  config = dataclasses.replace(stored_models.GATED, vocab_size=1024)
  source = tmp_path / "source"
  source.mkdir()
  tensors = stored_models.make_tensors(config)
  hf.write_hf(source, config, tensors, np.dtype(np.float32))
  shutil.copyfile(WORD_PROBLEMS, source / "spiece.model")
  there = tmp_path / "there"
  conversion.convert(
    str(source), str(there), destination_format=destination_format
  )
  stored = formats.open_checkpoint(there)
  assert stored.vocabulary_path is not None
  assert stored.vocabulary_path.read_bytes() == WORD_PROBLEMS.read_bytes()


@pytest.mark.parametrize("destination_format", conversion.FORMATS)
def test_files_are_readable_as_the_umask_says(
  model_dir, tmp_path, destination_format
):
  before = os.umask(0o027)
  try:
    conversion.convert(
      str(model_dir),
      str(tmp_path / "t5"),
      destination_format=destination_format,
    )
  finally:
    os.umask(before)
  modes = {
    path.relative_to(tmp_path).as_posix(): path.stat().st_mode & 0o777
    for path in (tmp_path / "t5").rglob("*")
    if path.is_file()
  }
  assert modes == dict.fromkeys(modes, 0o640)


def test_a_vocabulary_that_transformers_splits_otherwise_is_refused(
  tmp_path,
):
  model = io.BytesIO()
  sentencepiece.SentencePieceTrainer.train(
    sentence_iterator=iter(["a b c d", "a line\nand another"]),
    model_writer=model,
    model_type="bpe",
    vocab_size=24,
    pad_id=0,
    eos_id=1,
    unk_id=2,
    bos_id=-1,
    user_defined_symbols=["\n"],
    minloglevel=2,
  )
  source = tmp_path / "source"
  source.mkdir()
  tensors = stored_models.make_tensors(stored_models.GATED)
  hf.write_hf(source, stored_models.GATED, tensors, np.dtype(np.float32))
  (source / "spiece.model").write_bytes(model.getvalue())
  with pytest.raises(UserError, match="cannot be exported .* exactly"):
    conversion.convert(
      str(source), str(tmp_path / "t5"), destination_format="hf"
    )
  assert sorted(tmp_path.iterdir()) == [source]


def test_the_wrong_vocabulary_is_refused(hf_folder, tmp_path):
  shutil.copyfile(WORD_PROBLEMS, hf_folder / "spiece.model")
  with pytest.raises(UserError, match=r"has \d+ ids, but the embedding .* 40"):
    conversion.convert(str(hf_folder), str(tmp_path / "t5"))
  assert not (tmp_path / "t5").exists()


def test_the_form_given_must_be_the_form_found(hf_folder, tmp_path):
  with pytest.raises(UserError, match="is a Hugging Face folder .*, not a T5X"):
    conversion.convert(
      str(hf_folder), str(tmp_path / "t5"), source_format="t5x"
    )


@pytest.mark.parametrize("destination_format", conversion.FORMATS)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_weights_that_are_no_numbers_are_refused(
  hf_folder, tmp_path, destination_format, value
):
  path = hf_folder / "model.safetensors"
  arrays = safetensors.numpy.load_file(path)
  arrays["shared.weight"][3, 5] = value
  safetensors.numpy.save_file(arrays, path)
  with pytest.raises(UserError, match=r"shared.weight holds 1 numbers of 640"):
    conversion.convert(
      str(hf_folder),
      str(tmp_path / "t5"),
      destination_format=destination_format,
    )
  assert list(tmp_path.iterdir()) == [hf_folder]


def test_nothing_is_overwritten_unasked(hf_folder, tmp_path):
  destination = tmp_path / "t5"
  destination.mkdir()
  (destination / "thesis.tex").write_text("mine")
  for overwrite, message in (
    (False, "Add --overwrite"),
    (True, "is no earlier conversion"),
  ):
    with pytest.raises(UserError, match=message):
      conversion.convert(str(hf_folder), str(destination), overwrite=overwrite)
  assert (destination / "thesis.tex").read_text() == "mine"


def test_an_earlier_conversion_is_replaced_when_asked(hf_folder, tmp_path):
  destination = str(tmp_path / "t5")
  conversion.convert(str(hf_folder), destination)
  conversion.convert(
    str(hf_folder), destination, destination_format="t5x", overwrite=True
  )
  assert formats.open_checkpoint(destination).file_format == "t5x"


def test_what_conversions_do_not_write_is_not_deleted(hf_folder, tmp_path):
  destination = tmp_path / "t5"
  conversion.convert(str(hf_folder), str(destination))
  (destination / "thesis.tex").write_text("mine")
  with pytest.raises(UserError, match=r"holds more than .* thesis.tex"):
    conversion.convert(str(hf_folder), str(destination), overwrite=True)
  assert (destination / "thesis.tex").read_text() == "mine"


def make_conversion_with_source(tmp_path, hf_folder):
  """A conversion's folder, and in it, under a name of its own, a source."""
  destination = tmp_path / "t5"
  conversion.convert(str(hf_folder), str(destination), destination_format="t5x")
  return destination, destination / "checkpoint_0"


@pytest.mark.parametrize("way", ["plain", "dots", "link"])
def test_a_source_inside_the_destination_is_refused(hf_folder, tmp_path, way):
  destination, source = make_conversion_with_source(tmp_path, hf_folder)
  if way == "dots":
    source = hf_folder / ".." / "t5" / "checkpoint_0"
  if way == "link":
    source = tmp_path / "link"
    source.symlink_to(destination / "checkpoint_0")
  with pytest.raises(UserError, match=r"SRC .* lies in DST"):
    conversion.convert(str(source), str(destination), overwrite=True)
  assert (destination / "checkpoint_0" / "checkpoint").is_file()


def test_a_failed_replacement_leaves_the_old_one(
  hf_folder, tmp_path, monkeypatch
):
  destination = tmp_path / "t5"
  conversion.convert(str(hf_folder), str(destination))
  rename = os.rename

  def fail(source, target):
    if pathlib.Path(source).name == "content":
      raise OSError(errno.EIO, "gone")
    rename(source, target)

  monkeypatch.setattr(os, "rename", fail)
  with pytest.raises(UserError, match="cannot be written"):
    conversion.convert(
      str(hf_folder), str(destination), destination_format="t5x", overwrite=True
    )
  assert formats.open_checkpoint(destination).file_format == "orbax"
  assert sorted(tmp_path.iterdir()) == sorted([destination, hf_folder])


def test_a_link_is_not_replaced(hf_folder, tmp_path):
  real = tmp_path / "real"
  conversion.convert(str(hf_folder), str(real))
  (tmp_path / "link").symlink_to(real)
  with pytest.raises(UserError, match="or is a link"):
    conversion.convert(str(hf_folder), str(tmp_path / "link"), overwrite=True)


def test_numbers_too_large_for_the_type_are_refused(tmp_path):
  tensors = stored_models.make_tensors(stored_models.GATED)
  name = "decoder/decoder_norm/scale"
  tensors[name] = stored_models.wrap(name, np.full(16, 1e6, np.float32))
  source = tmp_path / "source"
  source.mkdir()
  hf.write_hf(source, stored_models.GATED, tensors, np.dtype(np.float32))
  with pytest.raises(UserError, match="too large for float16; the largest"):
    conversion.convert(str(source), str(tmp_path / "t5"), dtype="float16")
  assert sorted(tmp_path.iterdir()) == [source]


def test_an_odd_path_ends_up_as_a_comment(hf_folder, tmp_path):
  odd = tmp_path / os.fsdecode(b"caf\xe9\nimport os")
  hf_folder.rename(odd)
  conversion.convert(str(odd), str(tmp_path / "t5"))
  text = (tmp_path / "t5" / "model.gin").read_text(encoding="utf-8")
  assert "import os" in text.splitlines()[0]


@pytest.mark.parametrize("name", ["x" * 300, "a\0b"])
def test_a_name_that_cannot_be_is_refused(hf_folder, tmp_path, name):
  with pytest.raises(UserError, match="cannot be"):
    conversion.convert(str(hf_folder), f"{tmp_path}/{name}")
  with pytest.raises(UserError, match=r"cannot be|no checkpoint at"):
    conversion.convert(f"{tmp_path}/{name}", str(tmp_path / "t5"))


@pytest.mark.parametrize("destination_format", conversion.FORMATS)
def test_stopped_while_it_writes(hf_folder, tmp_path, destination_format):
  """A signal in the thread that writes leaves no folder."""

  class Stopping(tqdm.tqdm):
    def update(self, n=1):
      raise interrupts.Terminated

  with (
    mock.patch.object(tqdm, "tqdm", Stopping),
    pytest.raises(KeyboardInterrupt, match=r"^nothing was written\.$"),
  ):
    conversion.convert(
      str(hf_folder),
      str(tmp_path / "t5"),
      destination_format=destination_format,
    )
  assert sorted(tmp_path.iterdir()) == [hf_folder]


def test_stopped_when_all_is_written(hf_folder, tmp_path, monkeypatch):
  def put_and_stop(work):
    put(work)
    raise KeyboardInterrupt

  put = unfinished.UnfinishedFolder.put_in_place
  monkeypatch.setattr(unfinished.UnfinishedFolder, "put_in_place", put_and_stop)
  with pytest.raises(KeyboardInterrupt, match=r"t5 is complete\.$"):
    conversion.convert(str(hf_folder), str(tmp_path / "t5"))
  assert formats.open_checkpoint(tmp_path / "t5").file_format == "orbax"


def test_what_a_kill_took_away_is_not_replaced_unasked(hf_folder, tmp_path):
  """The kill came between the old folder's move and the new one's."""
  destination = tmp_path / "t5"
  conversion.convert(str(hf_folder), str(destination))
  outer = tmp_path / ".writing-t5-1"
  outer.mkdir()
  owner = process_identity.describe() | {"pid": 2**22 + 1, "folder": "t5"}
  (outer / "owner.json").write_text(json.dumps(owner))
  destination.rename(outer / "replaced")
  with pytest.raises(UserError, match="Add --overwrite"):
    conversion.convert(str(hf_folder), str(destination))
  assert sorted(tmp_path.iterdir()) == sorted([destination, hf_folder])


@pytest.mark.parametrize("destination_format", conversion.FORMATS)
def test_a_damaged_source_leaves_nothing(
  hf_folder, tmp_path, destination_format
):
  # The header is whole and promises more than there is: found on opening.
  path = hf_folder / "model.safetensors"
  path.write_bytes(path.read_bytes()[:-8])
  with pytest.raises(UserError, match="is damaged"):
    conversion.convert(
      str(hf_folder),
      str(tmp_path / "t5"),
      destination_format=destination_format,
    )
  assert sorted(tmp_path.iterdir()) == [hf_folder]


@pytest.mark.parametrize("destination_format", conversion.FORMATS)
def test_a_full_disk_leaves_nothing(
  hf_folder, tmp_path, monkeypatch, destination_format
):
  def fail(*arguments):
    raise OSError(errno.ENOSPC, "No space left on device")

  monkeypatch.setattr(os, "rename", fail)
  with pytest.raises(UserError, match=r"t5 cannot be written: .*No space"):
    conversion.convert(
      str(hf_folder),
      str(tmp_path / "t5"),
      destination_format=destination_format,
    )
  assert sorted(tmp_path.iterdir()) == [hf_folder]


def test_a_remote_destination_is_refused(hf_folder):
  with pytest.raises(UserError, match="DST is gs://bucket/t5; it must be a"):
    conversion.convert(str(hf_folder), "gs://bucket/t5")
