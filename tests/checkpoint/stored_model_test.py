"""Tests of stored_model.py: what fits, and what the shapes tell."""

import dataclasses

import pytest
import stored_models

from distill_jax.checkpoint.stored_model import (
  StoredModel,
  check_tensors,
  flatten_params,
  infer_config,
)
from distill_jax.errors import UserError


def make_shapes(config):
  return {
    name: tensor.shape
    for name, tensor in stored_models.make_tensors(config).items()
  }


@pytest.mark.parametrize("name", stored_models.CONFIGS)
def test_the_architecture_follows_from_the_shapes(name):
  config = stored_models.CONFIGS[name]
  inferred = infer_config(make_shapes(config), "somewhere")
  # A checkpoint does not say how much was dropped in training.
  assert dataclasses.replace(inferred, dropout_rate=0.0) == config


@pytest.mark.parametrize(
  "lost", ["token_embedder/embedding", "encoder/layers_0/mlp/wi_0/kernel"]
)
def test_something_else_is_no_t5(lost):
  shapes = make_shapes(stored_models.GATED)
  del shapes[lost]
  with pytest.raises(UserError, match="somewhere is no T5 encoder-decoder"):
    infer_config(shapes, "somewhere")


def test_a_vector_where_a_matrix_belongs_is_no_t5():
  shapes = make_shapes(stored_models.GATED) | {"token_embedder/embedding": (3,)}
  with pytest.raises(UserError, match="not two dimensions"):
    infer_config(shapes, "somewhere")


def make_stored(config):
  tensors = stored_models.make_tensors(config)
  return StoredModel("hf", "/some/folder", config, tensors)


def test_a_model_that_fits_is_described():
  stored = make_stored(stored_models.GATED)
  check_tensors(stored, make_shapes(stored_models.GATED))
  num_tensors = len(stored.tensors)
  assert f"hf checkpoint /some/folder: {num_tensors} tensors" in (
    stored.describe()
  )


@pytest.mark.parametrize(
  ("changes", "lines"),
  [
    (
      {"vocab_size": 64},
      [
        "2 tensors of another shape, 0 missing, 0 unexpected",
        "token_embedder/embedding (token_embedder/embedding): shape found"
        " (40, 16), expected (64, 16)",
        "vocab_size 40",
      ],
    ),
    (
      {"num_encoder_layers": 4},
      [
        "0 tensors of another shape, 18 missing, 0 unexpected",
        "encoder/layers_2/attention/key/kernel: missing, expected (16, 12)",
        "... and 10 more",
      ],
    ),
    (
      {"num_decoder_layers": 2},
      ["0 missing, 14 unexpected", "decoder/layers_2/mlp/wi_0/kernel"],
    ),
  ],
)
def test_what_does_not_fit_is_counted_and_named(changes, lines):
  wanted = make_shapes(dataclasses.replace(stored_models.GATED, **changes))
  with pytest.raises(UserError) as error:
    check_tensors(make_stored(stored_models.GATED), wanted)
  for line in lines:
    assert line in str(error.value)


def test_flatten_params():
  assert flatten_params({"a": {"b": 1}, "c": 2}) == {"a/b": 1, "c": 2}
