"""Tests of run_loading.py: a run opens again, whole, wherever it lies."""

import dataclasses
import shutil

import jax
import numpy as np
import pytest
import tiny_run
from tiny_run import fixture_model_dir as fixture_model_dir

from distill_jax import run_loading
from distill_jax.errors import UserError


def test_a_run_opens_as_it_was(model_dir):
  loaded = run_loading.load_run(str(model_dir), tiny_run.MESH, None)
  assert loaded.checkpoint == model_dir / "checkpoints" / "2"
  assert loaded.model_dir == model_dir
  assert loaded.step == tiny_run.TRAIN_STEPS
  assert loaded.model.config == tiny_run.CONFIG
  assert loaded.feature_lengths == {"inputs": 32, "targets": 12}
  assert loaded.vocabulary.path is None  # Bytes.
  assert (
    loaded.open_cache().fingerprint == (loaded.record.identity["token_cache"])
  )
  kernel = loaded.params["decoder"]["logits_dense"]["kernel"]
  assert kernel.shape == (16, 384)
  assert float(np.std(kernel)) > 0


def test_parameters_are_the_same_on_another_mesh(model_dir):
  mesh = {"model": 2, "fsdp": 4}
  there = run_loading.load_run(str(model_dir), mesh, None)
  here = run_loading.load_run(str(model_dir), tiny_run.MESH, None)
  assert there.mesh.shape != here.mesh.shape
  jax.tree.map(np.testing.assert_array_equal, there.params, here.params)


def test_a_run_may_move(model_dir, tmp_path):
  moved = shutil.copytree(model_dir, tmp_path / "moved")
  loaded = run_loading.load_run(
    str(moved / "checkpoints" / "2"), tiny_run.MESH, None
  )
  assert loaded.model_dir == moved
  assert loaded.vocabulary.size == 384


def test_another_model_is_refused(model_dir):
  config = dataclasses.replace(tiny_run.CONFIG, mlp_dim=24)
  with pytest.raises(
    UserError, match=r"does not fit the model: 6 tensors of another shape"
  ):
    run_loading.load_run(str(model_dir), tiny_run.MESH, config)


def test_a_checkpoint_without_its_run_is_refused(model_dir, tmp_path):
  shutil.copytree(model_dir / "checkpoints", tmp_path / "checkpoints")
  with pytest.raises(UserError, match="has no run.json"):
    run_loading.load_run(str(tmp_path), tiny_run.MESH, None)


def test_a_folder_without_checkpoints_is_refused(tmp_path):
  with pytest.raises(UserError, match=f"no checkpoint at {tmp_path}"):
    run_loading.load_run(str(tmp_path), tiny_run.MESH, None)


def test_a_cache_that_is_gone_is_named(own_cache_run):
  loaded, cache = own_cache_run
  with pytest.raises(UserError, match=f"{cache} is not a readable token cache"):
    loaded.open_cache()


@pytest.fixture(name="own_cache_run")
def fixture_own_cache_run(model_dir, tmp_path):
  loaded = run_loading.load_run(str(model_dir), tiny_run.MESH, None)
  gone = tmp_path / "gone"
  record = dataclasses.replace(loaded.record, token_cache_path=str(gone))
  return dataclasses.replace(loaded, record=record), gone


def test_choose_path():
  assert run_loading.choose_path("run", None) == "run"
  assert run_loading.choose_path("run", "run/checkpoints/3").endswith("3")
  with pytest.raises(UserError, match="Neither CHECKPOINT_PATH nor MODEL_DIR"):
    run_loading.choose_path(None, None)
