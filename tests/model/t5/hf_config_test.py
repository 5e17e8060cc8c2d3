"""Tests of hf_config.py: a field counts, is refused, or changes nothing."""

import json
import logging

import hf_golden
import pytest

from distill_jax.errors import UserError
from distill_jax.model.t5 import hf_config

GATED = {
  "model_type": "t5",
  "vocab_size": 40,
  "d_model": 16,
  "d_kv": 2,
  "d_ff": 20,
  "num_heads": 6,
  "num_layers": 2,
  "feed_forward_proj": "gated-gelu",
}


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"decoder_start_token_id": 2}, "decoder_start_token_id is 2; T5's is 0"),
    ({"eos_token_id": 2}, "eos_token_id is 2; T5's is 1"),
    ({"eos_token_id": [1, 5]}, r"eos_token_id is \[1, 5\]; T5's is 1"),
    ({"pad_token_id": 3}, "pad_token_id is 3; T5's is 0"),
    ({"bos_token_id": 2}, "bos_token_id is 2 and there is no decoder_start"),
    ({"dense_act_fn": "silu"}, "dense_act_fn is 'silu'; with .* 'gelu_new'"),
    ({"dense_act_fn": "gelu"}, "dense_act_fn is 'gelu'; with .* 'gelu_new'"),
    ({"is_gated_act": False}, "is_gated_act is False; with .* it is True"),
    ({"feed_forward_proj": "relu", "is_gated_act": True}, "is_gated_act is T"),
    ({"feed_forward_proj": "gated-relu"}, "feed_forward_proj is 'gated-relu'"),
    ({"is_encoder_decoder": False}, "is_encoder_decoder is False"),
    ({"is_decoder": True}, "is_decoder is True; only False"),
    ({"tie_encoder_decoder": True}, "tie_encoder_decoder is True"),
    ({"pruned_heads": {"0": [1]}}, "pruned_heads is"),
    ({"quantization_config": {"bits": 4}}, "quantization_config is"),
    ({"auto_map": {"AutoModel": "m.T5"}}, "auto_map is"),
    ({"architectures": ["T5EncoderModel"]}, "architectures is"),
    ({"architectures": ["T5ForTokenClassification"]}, "architectures is"),
  ],
)
def test_what_we_do_not_compute_is_refused_by_name(changes, message):
  with pytest.raises(UserError, match=message):
    hf_config.check_fields(GATED | changes, "config.json")


def test_what_t5_states_is_accepted(caplog):
  hf_config.check_fields(
    GATED
    | {
      "decoder_start_token_id": 0,
      "bos_token_id": 2,
      "eos_token_id": [1],
      "pad_token_id": None,
      "dense_act_fn": "gelu_new",
      "is_gated_act": True,
      "is_encoder_decoder": True,
      "pruned_heads": {},
      "task_specific_params": {"summarization": {"num_beams": 4}},
    },
    "config.json",
  )
  assert not caplog.records


@pytest.mark.parametrize("variant", hf_golden.VARIANTS)
def test_all_that_transformers_writes_is_known(variant, caplog):
  path = hf_golden.FOLDER / variant / "config.json"
  hf_config.check_fields(json.loads(path.read_text()), path)
  assert not caplog.records


def test_an_unknown_field_is_named(caplog):
  with caplog.at_level(logging.WARNING):
    hf_config.check_fields(GATED | {"rotary_base": 1e4}, "config.json")
  assert "1 fields that are not known" in caplog.text
  assert "'rotary_base'" in caplog.text


def read(**changes):
  return hf_config.read_config("t5", GATED | changes, False, "config.json")


def test_another_name_of_a_field_counts():
  assert read(d_model=None, hidden_size=24).embed_dim == 24
  assert read(hidden_size=16).embed_dim == 16
  with pytest.raises(UserError, match="d_model is 16 and hidden_size, its"):
    read(hidden_size=24)


def test_the_activations_type():
  assert read().dtype == "float32"
  assert read(dtype="bfloat16").dtype == "float32"
  assert read(activation_dtype="bfloat16").dtype == "bfloat16"
  with pytest.raises(UserError, match="ACTIVATION_DTYPE is 'int8'"):
    read(activation_dtype="int8")


def test_a_flag_is_true_or_false():
  assert hf_config.read_flag({}, "tie_word_embeddings", "x") is None
  assert hf_config.read_flag({"tie": False}, "tie", "x") is False
  with pytest.raises(UserError, match="x: tie is 'no'; true or false"):
    hf_config.read_flag({"tie": "no"}, "tie", "x")
