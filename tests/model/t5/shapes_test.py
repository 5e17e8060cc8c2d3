"""Tests of shapes.py: what the shapes of a checkpoint tell."""

import dataclasses

import pytest
import stored_models

from distill_jax.errors import UserError
from distill_jax.model.t5.shapes import infer_config


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
