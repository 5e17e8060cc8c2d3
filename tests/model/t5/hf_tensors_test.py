"""Tests of hf_tensors.py: which tensors count."""

import pathlib

import pytest
import stored_models

from distill_jax.errors import UserError
from distill_jax.model.t5 import hf_config, hf_names, hf_tensors

PATH = pathlib.Path("/some/folder/config.json")


def make_tensors(config):
  ours = stored_models.make_tensors(config)
  return {
    name: ours[path] for path, (name, _) in hf_names.make_names(config).items()
  }


def test_a_copy_stands_for_the_embedding():
  config = stored_models.GATED
  content = hf_config.make_config(config, "float32")
  tensors = make_tensors(config)
  whole = hf_tensors.read_model(content, tensors, PATH)
  assert whole.config == config
  copy = tensors.pop(hf_names.EMBEDDING)
  with pytest.raises(UserError, match="/some/folder is no T5"):
    hf_tensors.read_model(content, tensors, PATH)
  read = hf_tensors.read_model(
    content, tensors | {hf_names.IGNORED[0]: copy}, PATH
  )
  assert read.tensors[hf_names.EMBEDDING] is copy
  assert read.ignored == {hf_names.IGNORED[0]}
