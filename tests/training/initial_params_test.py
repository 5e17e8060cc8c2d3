"""Tests of training/initial_params.py: where a run's parameters come from.

Other forms and vocabularies are tested with `train`.
"""

import dataclasses

import jax
import numpy as np
import pytest
import tiny_run
from tiny_run import (
  fixture_model_dir,  # noqa: F401
)

from distill_jax.checkpoint import formats
from distill_jax.checkpoint.stored_model import flatten_params
from distill_jax.data import vocab
from distill_jax.errors import UserError
from distill_jax.model.t5.t5 import T5
from distill_jax.partitioning import mesh as mesh_lib
from distill_jax.partitioning import sharding
from distill_jax.training import initial_params
from distill_jax.training import state as state_lib

BYTES = vocab.load_vocabulary(vocab.BYTES)


def load(path, vocabulary=BYTES, overwritten=None, config=tiny_run.CONFIG):
  mesh = mesh_lib.make_mesh({"fsdp": 8})
  abstract, logical_axes = state_lib.abstract_params(T5(config))
  return initial_params.load_initial_params(
    path,
    config,
    abstract,
    sharding.shard_params(logical_axes, abstract, mesh),
    vocabulary,
    overwritten,
  )


def test_no_path_is_no_parameters():
  assert load(None) is None


def test_parameters_are_those_of_the_checkpoint_on_the_mesh(model_dir):
  found = flatten_params(load(str(model_dir)))
  stored = formats.open_checkpoint(model_dir).tensors
  assert found.keys() == stored.keys()
  for name, leaf in found.items():
    np.testing.assert_array_equal(leaf, stored[name].read())
    assert len(leaf.sharding.device_set) == jax.device_count()


def test_what_is_about_to_be_replaced_is_no_start(model_dir):
  with pytest.raises(UserError, match="lies in the MODEL_DIR that --overwrite"):
    load(str(model_dir), overwritten=model_dir)
  assert load(str(model_dir), overwritten=model_dir / "other") is not None


def test_a_model_that_computes_otherwise_is_warned_of(
  model_dir, caplog, monkeypatch
):
  monkeypatch.setattr(initial_params._log.parent, "propagate", True)
  load(str(model_dir))
  assert "another computation" not in caplog.text
  config = dataclasses.replace(
    tiny_run.CONFIG, relative_attention_max_distance=20, dropout_rate=0.3
  )
  load(str(model_dir), config=config)
  assert (
    "computation: relative_attention_max_distance is 128 in the checkpoint and"
    " 20 in the model." in caplog.text
  )
