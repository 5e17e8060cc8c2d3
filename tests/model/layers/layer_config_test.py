"""Tests of layer_config.py."""

import tiny_student

from distill_jax.model.layers.layer_config import LayerConfig


def test_a_family_that_uses_all_layers_has_all_their_fields():
  fields = tiny_student.CONFIG.list_fields()
  assert LayerConfig.__annotations__.keys() <= fields.keys()
