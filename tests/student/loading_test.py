"""Tests of student/loading.py: a checkpoint opens, whole, whoever wrote it."""

import dataclasses
import json
import logging
import shutil

import hf_golden
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import t5x_fixtures
import tiny_run
from tiny_run import fixture_model_dir as fixture_model_dir
from tiny_run import fixture_own_model_dir as fixture_own_model_dir

from distill_jax.data import vocab
from distill_jax.errors import UserError
from distill_jax.runs import convert
from distill_jax.student import loading
from distill_jax.student.loading import ModelChoice

_LENGTHS = {"inputs": 16, "targets": 8}


def _open(model_dir=None, checkpoint=None, needed=None, **changes):
  choice = ModelChoice(
    model_dir and str(model_dir),
    checkpoint and str(checkpoint),
    mesh=changes.pop("mesh", tiny_run.MESH),
    **changes,
  )
  return loading.open_model(choice, needed)


def _load(opened):
  return opened.load_params(opened.checkpoints[0])


def _list_names(opened):
  return list(map(loading.name_checkpoint, opened.checkpoints))


def test_a_run_opens_as_it_was(model_dir):
  opened = _open(model_dir)
  assert opened.checkpoints[0].path == str(model_dir / "checkpoints" / "2")
  assert opened.model_dir == model_dir
  assert _list_names(opened) == [str(tiny_run.TRAIN_STEPS)]
  assert opened.model.config == tiny_run.CONFIG
  assert opened.feature_lengths == {"inputs": 32, "targets": 12}
  assert opened.vocabulary.path is None  # Bytes.
  assert opened.changes == {}
  assert opened.origin == f"the run in {model_dir}"
  kernel = _load(opened)["decoder"]["logits_dense"]["kernel"]
  assert kernel.shape == (16, 384)
  assert float(np.std(kernel)) > 0


def test_parameters_are_the_same_on_another_mesh(model_dir):
  there = _open(model_dir, mesh={"model": 2, "fsdp": 4})
  here = _open(model_dir)
  assert there.mesh.shape != here.mesh.shape
  jax.tree.map(np.testing.assert_array_equal, _load(there), _load(here))


@pytest.mark.parametrize("name", ["model_dir", "checkpoint"])
def test_a_run_may_move(model_dir, tmp_path, name):
  moved = shutil.copytree(model_dir, tmp_path / "moved")
  opened = _open(**{name: moved / "checkpoints" / "2"})
  assert opened.model_dir == moved
  assert opened.vocabulary.size == 384


def test_another_model_is_refused(model_dir):
  config = dataclasses.replace(tiny_run.CONFIG, mlp_dim=24)
  opened = _open(model_dir, model_config=config)
  with pytest.raises(
    UserError, match=r"does not fit the model: 6 tensors of another shape"
  ):
    _load(opened)


def test_what_was_given_and_changes_the_numbers_is_named(model_dir):
  config = dataclasses.replace(
    tiny_run.CONFIG, dtype="bfloat16", scan_layers=True, dropout_rate=0.5
  )
  lengths = {"inputs": 32, "targets": 20}
  opened = _open(model_dir, model_config=config, feature_lengths=lengths)
  assert opened.changes == {"dtype": "bfloat16", **lengths}
  assert opened.feature_lengths == lengths


@pytest.fixture(name="kept")
def fixture_kept(own_model_dir):
  """A run with checkpoints of the steps 1, 2 and 3."""
  folder = own_model_dir / "checkpoints"
  for step in (1, 3):
    shutil.copytree(folder / "2", folder / str(step))
    (folder / str(step) / "checksums.json").unlink()
  return own_model_dir


@pytest.mark.parametrize(
  "checkpoints, names",
  [
    ("last", ["3"]),
    ("all", ["1", "2", "3"]),
    (1, ["1"]),
    ((3, 1, 3), ["3", "1"]),
  ],
)
def test_checkpoints_of_a_run_are_chosen(kept, checkpoints, names):
  assert _list_names(_open(kept, checkpoints=checkpoints)) == names
  by_path = _open(checkpoint=kept / "checkpoints", checkpoints=checkpoints)
  assert _list_names(by_path) == names


def test_checkpoints_that_are_not_there(kept):
  with pytest.raises(UserError, match=r"keeps the ch.* the steps \[1, 2, 3\]"):
    _open(kept, checkpoints=[1, 4])
  with pytest.raises(UserError, match="CHECKPOINTS is 'all', and .*/2 is one"):
    _open(checkpoint=kept / "checkpoints" / "2", checkpoints="all")
  for wrong in ("newest", [], [1.5], True, None, ["best"]):
    with pytest.raises(UserError, match="CHECKPOINTS is .*; it must be 'best'"):
      ModelChoice(checkpoints=wrong)


def _damage(checkpoint):
  file = min(checkpoint.joinpath("data_iterator").iterdir())
  file.write_bytes(file.read_bytes() + b" ")


def test_a_damaged_one_among_several_is_found_at_once(kept):
  _damage(kept / "checkpoints" / "2")
  with pytest.raises(UserError, match="checkpoints/2 "):
    _open(kept, checkpoints="all")


def test_a_folder_without_checkpoints_is_refused(tmp_path):
  with pytest.raises(UserError, match=f"no checkpoint at {tmp_path}"):
    _open(tmp_path)


def test_a_checkpoint_as_model_dir_is_refused():
  with pytest.raises(UserError, match="no run: it has no run.json.*CHECKPOINT"):
    _open(hf_golden.FOLDER / "t5_1_1")


def test_neither_run_nor_checkpoint():
  with pytest.raises(UserError, match="Neither CHECKPOINT_PATH nor MODEL_DIR"):
    _open()


@pytest.mark.parametrize("variant", hf_golden.VARIANTS)
def test_a_hugging_face_folder_opens(variant, tmp_path, caplog):
  opened = _open(
    checkpoint=hf_golden.FOLDER / variant,
    feature_lengths=_LENGTHS,
    vocab_path=_make_vocabulary(variant, tmp_path),
  )
  golden = hf_golden.load(variant)
  assert (opened.model_dir, opened.record) == (None, None)
  assert opened.model.config == golden.config
  assert opened.changes == _LENGTHS
  assert opened.origin.endswith(f"hf/{variant}")
  assert "is for you to know" in caplog.text
  # Twice, so that the rows divide among the devices.
  batch = {key: jnp.tile(value, (2, 1)) for key, value in golden.batch.items()}
  found = opened.model.apply(
    {"params": _load(opened)}, batch, enable_dropout=False
  )
  is_target = golden.batch["decoder_segment_ids"] > 0
  np.testing.assert_allclose(
    np.asarray(found)[: len(is_target)][is_target],
    golden.arrays["logits"][is_target],
    atol=1e-4,
  )


def _make_vocabulary(variant, folder):
  """Trains pieces that are fewer than the model's rows."""
  import sentencepiece

  text = folder / "text"
  text.write_text("a b c d\n" * 9)
  sentencepiece.SentencePieceTrainer.train(
    input=str(text), model_prefix=f"{folder}/{variant}", vocab_size=12,
    pad_id=0, eos_id=1, unk_id=2, bos_id=-1, hard_vocab_limit=False,
    minloglevel=2,
  )  # fmt: skip
  return f"{folder}/{variant}.model"


@pytest.fixture(name="converted")
def fixture_converted(model_dir, tmp_path):
  """The run's checkpoint as a folder that the converter wrote."""
  convert.convert(str(model_dir), str(tmp_path / "student"))
  return tmp_path / "student"


def test_a_converted_folder_opens_with_its_vocabulary(
  converted, model_dir, caplog
):
  opened = _open(checkpoint=converted, feature_lengths=_LENGTHS)
  assert opened.vocabulary.path is None
  assert opened.model_dir is None
  assert _list_names(opened) == ["student"]
  assert "is for you to know" not in caplog.text
  jax.tree.map(
    np.testing.assert_array_equal, _load(opened), _load(_open(model_dir))
  )


def test_a_converted_folder_within_a_run_is_none_of_its_checkpoints(
  converted, own_model_dir
):
  within = shutil.copytree(converted, own_model_dir / "exported" / "student")
  opened = _open(checkpoint=within, feature_lengths=_LENGTHS)
  assert opened.record is None


@pytest.mark.parametrize(
  "name", [t5x_fixtures.LEGACY, t5x_fixtures.ORBAX, t5x_fixtures.LEGACY_1_0]
)
@pytest.mark.shared
@pytest.mark.skipif(
  not t5x_fixtures.FOLDER.exists(), reason="no T5X fixtures beside this"
)
def test_a_checkpoint_of_t5x_opens(name):
  opened = _open(
    checkpoint=t5x_fixtures.FOLDER / name,
    feature_lengths=_LENGTHS,
    vocab_path="bytes",
  )
  config, params = t5x_fixtures.open_checkpoint(name)
  assert dataclasses.replace(opened.model.config, dropout_rate=0.0) == config
  jax.tree.map(np.testing.assert_array_equal, _load(opened), params)


def test_what_must_be_given_is_named_at_once(model_dir, tmp_path):
  shutil.copytree(model_dir / "checkpoints", tmp_path / "checkpoints")
  path = tmp_path / "checkpoints" / "2"
  with pytest.raises(UserError) as error:
    _open(checkpoint=path, needed={"MODEL_DIR": None, "OTHER": 1})
  told = str(error.value)
  assert f"{path} lies in no run (no run.json was found)" in told
  assert "MODEL_DIR, TASK_FEATURE_LENGTHS, VOCAB_PATH must be given" in told
  assert "--gin.TASK_FEATURE_LENGTHS=\"{'inputs': 256, 'targets': 64}\"" in told
  with pytest.raises(
    UserError, match="CHECKPOINTS is 'all', and .* is of no r"
  ):
    _open(checkpoint=path, checkpoints="all")


def test_a_checkpoint_of_no_run_is_compared_with_its_checksums(
  model_dir, tmp_path
):
  path = tmp_path / "2"
  shutil.copytree(model_dir / "checkpoints" / "2", path)
  _damage(path)
  with pytest.raises(UserError, match=f"{path} "):
    _open(checkpoint=path, feature_lengths=_LENGTHS, vocab_path="bytes")


def test_another_vocabulary_is_refused(model_dir, converted):
  shipped = vocab.load_vocabulary(None).path
  with pytest.raises(UserError, match="not trained with VOCAB_PATH = .*bytes"):
    _open(model_dir, vocab_path=shipped)
  with pytest.raises(UserError, match="vocabulary bytes, and VOCAB_PATH is"):
    _open(checkpoint=converted, vocab_path=shipped, feature_lengths=_LENGTHS)
  _open(model_dir, vocab_path="bytes")


def test_a_vocabulary_that_the_model_cannot_embed_is_refused(model_dir):
  config = dataclasses.replace(tiny_run.CONFIG, vocab_size=300)
  with pytest.raises(UserError, match="vocabulary has 384 ids, but the model"):
    _open(model_dir, model_config=config)


def test_a_vocabulary_that_was_changed_is_refused(own_model_dir):
  record = json.loads((own_model_dir / "run.json").read_text())
  record["identity"]["vocabulary_sha256"] = "0"
  (own_model_dir / "run.json").write_text(json.dumps(record))
  with pytest.raises(UserError, match="vocabulary.model is missing or was cha"):
    _open(own_model_dir)


@pytest.mark.parametrize(
  "lengths", [{"inputs": 3}, {"inputs": 3, "targets": 0}, 5, "long"]
)
def test_lengths_that_cannot_be(lengths):
  with pytest.raises(UserError, match="feature_lengths|TASK_FEATURE_LENGTHS"):
    ModelChoice(feature_lengths=lengths)


def test_what_was_loaded_is_in_the_log(model_dir, caplog):
  caplog.set_level(logging.INFO)
  _load(_open(model_dir))
  assert "Loaded " in caplog.text and "checkpoints/2" in caplog.text
