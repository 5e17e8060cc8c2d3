"""Tests of family.py: which parameters decoding reads how often."""

import dataclasses

import jax
import pytest
import tiny_student

from distill_jax.model import registry
from distill_jax.model.t5 import family


@pytest.mark.parametrize("is_tied", [False, True])
def test_every_parameter_is_read_once_or_for_every_token(is_tied):
  config = dataclasses.replace(tiny_student.CONFIG, tie_embeddings=is_tied)
  params = tiny_student.make_params(config)
  decoding = {
    name: params[name] for name in registry.find(config).decoding_modules
  }
  once, for_every_token = family.split_decoding(config, params, decoding)
  read = {id(leaf) for leaf in (*once, *for_every_token)}
  assert len(read) == len(once) + len(for_every_token)
  left_out = {id(leaf) for leaf in jax.tree.leaves(params)} - read
  # Rows of a table that is not the logits' are looked up.
  table = id(params["token_embedder"]["embedding"])
  assert left_out == (set() if is_tied else {table})
  assert id(params["encoder"]["encoder_norm"]["scale"]) in map(id, once)
