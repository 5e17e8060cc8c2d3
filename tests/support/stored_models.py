"""Small stored models to write and read back; for tests of every format."""

import dataclasses

import numpy as np
import tiny_student

from distill_jax.checkpoint.stored_model import LazyTensor, flatten_params
from distill_jax.model.t5.config import T5Config

# No two sizes are equal, so that a transposed tensor cannot pass for another.
GATED = T5Config(
  vocab_size=40,
  embed_dim=16,
  num_heads=6,
  head_dim=2,
  mlp_dim=20,
  num_encoder_layers=2,
  num_decoder_layers=3,
  dropout_rate=0.0,
)
TIED = dataclasses.replace(
  GATED, mlp_activations=("relu",), tie_embeddings=True
)
PER_LAYER = dataclasses.replace(GATED, per_layer_relative_bias=True)
CONFIGS = {"gated": GATED, "tied": TIED, "per_layer": PER_LAYER}


def make_tensors(config, seed=0):
  """Draws every parameter; returns lazy tensors by path."""
  arrays = flatten_params(tiny_student.make_params(config, seed))
  return {name: wrap(name, array) for name, array in arrays.items()}


def wrap(name, array):
  return LazyTensor(name, array.shape, array.dtype, lambda index: array[index])


def assert_same_tensors(found, expected):
  assert found.keys() == expected.keys()
  for name, tensor in found.items():
    assert tensor.shape == expected[name].shape, name
    np.testing.assert_array_equal(
      tensor.read(), expected[name].read(), err_msg=name
    )
    index = tuple(slice(1, size, 2) for size in tensor.shape)
    np.testing.assert_array_equal(
      tensor.read(index), expected[name].read(index), err_msg=name
    )
