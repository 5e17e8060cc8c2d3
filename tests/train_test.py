"""Tests of train.py: what a run refuses, and where its parameters come from."""

import dataclasses
import logging
import pathlib
import shutil
from unittest import mock

import jax
import numpy as np
import pytest
from synthetic_cache import VOCABULARY, make_cache
from tiny_run import (
  CONFIG,
  fixture_model_dir,  # noqa: F401
  fixture_own_model_dir,  # noqa: F401
)

from distill_jax import convert, prepare, train
from distill_jax.checkpoint import formats, manager
from distill_jax.checkpoint.stored_model import flatten_params
from distill_jax.data.pipeline import FeedConfig
from distill_jax.data.settings import DataSettings
from distill_jax.distill import Objective
from distill_jax.errors import UserError
from distill_jax.optim import factory, schedules

WORD_PROBLEMS = pathlib.Path(prepare.__file__).parent.joinpath(
  "data", "word_problems.model"
)


def make_run(model_dir, **changes):
  rate = schedules.constant(1e-2)
  settings = {
    "model_config": CONFIG,
    "mixture_or_task_name": "toy_distill",
    "model_dir": str(model_dir),
    "train_steps": 1,
    "data": DataSettings(vocab_path="bytes"),
    "feed": FeedConfig({"inputs": 32, "targets": 12}, 8),
    "objective": Objective(),
    "learning_rate": rate,
    "optimizer": factory.adamw(rate),
  }
  return train.TrainRun(**(settings | changes))


@pytest.fixture(name="cache", autouse=True)
def fixture_cache(tmp_path):
  cache = make_cache(tmp_path / "cache", 5)
  with mock.patch.object(prepare, "find_or_prepare", lambda *_: cache):
    yield cache


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"train_steps": 0}, "TRAIN_STEPS is 0"),
    ({"eval_period": 1.5}, "EVAL_PERIOD is 1.5"),
    ({"num_microbatches": 3}, "BATCH_SIZE is 8; it must divide"),
    ({"mesh": {"data": 3}}, "MESH is"),
    (
      {"model_config": dataclasses.replace(CONFIG, vocab_size=300)},
      "The vocabulary has 384 ids, but the model embeds only 300",
    ),
  ],
)
def test_settings_that_do_not_fit_are_named(tmp_path, changes, message):
  with pytest.raises(UserError, match=message):
    train.run(make_run(tmp_path / "run", **changes))
  assert not (tmp_path / "run").exists()


def test_a_folder_of_other_files_is_left_alone(tmp_path):
  (tmp_path / "run").mkdir()
  (tmp_path / "run" / "thesis.tex").write_text("mine")
  with pytest.raises(UserError, match="has files but no run"):
    train.run(make_run(tmp_path / "run"), overwrite=True)
  assert (tmp_path / "run" / "thesis.tex").read_text() == "mine"


def test_another_run_in_the_folder_is_refused(own_model_dir):
  with pytest.raises(UserError, match="other settings") as raised:
    train.run(make_run(own_model_dir, seed=7))
  assert "seed" in str(raised.value)
  assert manager.find_checkpoint(own_model_dir).name == "2"


def test_another_optimizer_or_rate_is_refused(own_model_dir):
  before = (own_model_dir / "config.gin").read_text()
  rate = schedules.constant(0.5)
  with pytest.raises(UserError, match="learning_rates.*0.01.* before.*0.5"):
    train.run(
      make_run(own_model_dir, learning_rate=rate, optimizer=factory.adamw(rate))
    )
  optimizer = factory.adafactor(schedules.constant(1e-2))
  with pytest.raises(UserError, match="optimizer_updates"):
    train.run(make_run(own_model_dir, optimizer=optimizer))
  assert (own_model_dir / "config.gin").read_text() == before


@pytest.mark.parametrize(
  ("path", "message"),
  [("/no/such/run", "no checkpoint"), (".", "lies in the MODEL_DIR")],
)
def test_overwrite_removes_nothing_before_the_new_run_can_start(
  own_model_dir, path, message
):
  initial = own_model_dir / path
  with pytest.raises(UserError, match=message):
    train.run(
      make_run(own_model_dir, seed=7, initial_checkpoint_path=str(initial)),
      overwrite=True,
    )
  assert manager.find_checkpoint(own_model_dir).name == "2"


def test_too_many_bad_teacher_labels_are_refused(tmp_path, cache):
  cache.tasks["toy_label"] = dataclasses.replace(
    cache.tasks["toy_label"],
    uses_teacher_labels=True,
    teacher_counts={"train": {"ok": 1, "truncated": 1}},
  )
  with pytest.raises(UserError, match="50.0% of its 2 training rows"):
    train.run(make_run(tmp_path / "run"))


def test_parameters_start_from_a_checkpoint(model_dir, tmp_path):
  # A rate of nothing leaves the parameters as they were loaded.
  rate = schedules.constant(0.0)
  state = train.run(
    make_run(
      tmp_path / "run",
      initial_checkpoint_path=str(model_dir),
      learning_rate=rate,
      optimizer=factory.adamw(rate),
    )
  )
  loaded = formats.load_params(
    formats.open_checkpoint(model_dir),
    jax.tree.map(
      lambda leaf: jax.ShapeDtypeStruct(
        leaf.shape, leaf.dtype, sharding=leaf.sharding
      ),
      state.params,
    ),
  )
  jax.tree.map(np.testing.assert_array_equal, state.params, loaded)


@pytest.mark.parametrize("file_format", ["hf", "t5x", "orbax"])
def test_parameters_start_from_any_form(
  model_dir, tmp_path, file_format, caplog
):
  source = tmp_path / "initial"
  convert.convert(str(model_dir), str(source), destination_format=file_format)
  rate = schedules.constant(0.0)
  caplog.set_level("INFO", "distill_jax.train")
  with mock.patch.object(logging.getLogger("distill_jax"), "propagate", True):
    state = train.run(
      make_run(
        tmp_path / "run",
        initial_checkpoint_path=str(source),
        learning_rate=rate,
        optimizer=factory.adamw(rate),
      )
    )
  expected = formats.open_checkpoint(model_dir).tensors
  for name, leaf in flatten_params(state.params).items():
    np.testing.assert_array_equal(leaf, expected[name].read())
  assert (
    f"Starting from the {file_format} checkpoint {source}: {len(expected)}"
    " tensors" in caplog.text
  )
  assert "0 missing, 0 unexpected" in caplog.text


def test_another_vocabulary_than_the_checkpoints_is_refused(
  model_dir, tmp_path
):
  source = tmp_path / "initial"
  convert.convert(str(model_dir), str(source), destination_format="hf")
  shutil.copyfile(WORD_PROBLEMS, source / "spiece.model")
  (source / "tokenizer_config.json").unlink()
  with pytest.raises(UserError, match=r"was trained with .*spiece.model, the"):
    train.run(make_run(tmp_path / "run", initial_checkpoint_path=str(source)))
  assert not (tmp_path / "run").exists()


def test_vocabularies_up_to_the_embedding_fit():
  train.check_vocabulary(VOCABULARY, CONFIG)
