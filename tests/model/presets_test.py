"""Tests of model/presets.py."""

import pytest

from distill_jax.model import presets, registry


def test_presets_are_those_of_all_families():
  names = [
    name for family in registry.list_families() for name in family.presets
  ]
  assert {"t5_1_1", "umt5"} <= set(names)
  assert dir(presets) == sorted(set(names))
  assert presets.t5_1_1("small").embed_dim == 512


def test_an_unknown_preset_names_those_there_are():
  with pytest.raises(AttributeError, match="no preset 't5_2_0', only .*t5_1_1"):
    getattr(presets, "t5_2_0")  # noqa: B009
