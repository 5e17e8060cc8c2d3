"""Tests of hf_names.py; hf_golden_test.py compares with transformers' files."""

import pytest
import stored_models

from distill_jax.model.hf_form import HFName
from distill_jax.model.t5.hf_names import make_names


@pytest.mark.parametrize("name", stored_models.CONFIGS)
def test_every_parameter_has_one_name(name):
  config = stored_models.CONFIGS[name]
  names = make_names(config)
  assert names.keys() == stored_models.make_tensors(config).keys()
  assert len({hf_name for hf_name, _ in names.values()}) == len(names)


def test_kernels_are_transposed_and_tables_are_not():
  names = make_names(stored_models.GATED)
  assert names["token_embedder/embedding"] == HFName("shared.weight", False)
  assert names["decoder/layers_2/encoder_decoder_attention/out/kernel"] == (
    HFName("decoder.block.2.layer.1.EncDecAttention.o.weight", True)
  )
