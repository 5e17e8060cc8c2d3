"""Tests of hf.py: folders come and go; damaged or hostile ones are refused."""

import dataclasses
import json
import struct

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
import stored_models

from distill_jax.checkpoint import hf
from distill_jax.errors import UserError

FLOAT32 = np.dtype(np.float32)


@pytest.fixture(name="folder")
def fixture_folder(tmp_path):
  tensors = stored_models.make_tensors(stored_models.GATED)
  hf.write_hf(tmp_path, stored_models.GATED, tensors, FLOAT32)
  return tmp_path


def edit_json(path, **changes):
  path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize("name", stored_models.CONFIGS)
@pytest.mark.parametrize("shard_bytes", [2**30, 3000])
def test_what_is_written_is_read(tmp_path, name, shard_bytes):
  config = stored_models.CONFIGS[name]
  tensors = stored_models.make_tensors(config)
  hf.write_hf(tmp_path, config, tensors, FLOAT32, shard_bytes)
  stored = hf.open_hf(tmp_path)
  assert stored.config == config
  assert stored.ignored == ()
  stored_models.assert_same_tensors(stored.tensors, tensors)
  shards = list(tmp_path.glob("*.safetensors"))
  assert (len(shards) > 3) == (shard_bytes == 3000)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
def test_other_float_types_are_read_as_they_are(folder, dtype):
  dtype = np.dtype(getattr(ml_dtypes, dtype, dtype))
  path = folder / "model.safetensors"
  arrays = safetensors.numpy.load_file(path)
  safetensors.numpy.save_file(
    {name: array.astype(dtype) for name, array in arrays.items()}, path
  )
  tensor = hf.open_hf(folder).tensors["decoder/logits_dense/kernel"]
  assert tensor.dtype == dtype
  np.testing.assert_array_equal(
    tensor.read(), arrays["lm_head.weight"].T.astype(dtype)
  )


def test_copies_of_the_embedding_are_ignored(folder):
  path = folder / "model.safetensors"
  arrays = safetensors.numpy.load_file(path)
  arrays["encoder.embed_tokens.weight"] = arrays.pop("shared.weight")
  copied = arrays["encoder.embed_tokens.weight"].copy()
  arrays["decoder.embed_tokens.weight"] = copied
  safetensors.numpy.save_file(arrays, path)
  stored = hf.open_hf(folder)
  assert stored.ignored == (
    "decoder.embed_tokens.weight",
    "encoder.embed_tokens.weight",
  )
  assert stored.tensors["token_embedder/embedding"].shape == (40, 16)


@pytest.mark.parametrize("stack", ["encoder", "decoder"])
@pytest.mark.parametrize("shape", [(40, 16), (2, 2)])
def test_an_embedding_of_one_stack_alone_is_refused(folder, stack, shape):
  path = folder / "model.safetensors"
  arrays = safetensors.numpy.load_file(path)
  arrays[f"{stack}.embed_tokens.weight"] = np.zeros(shape, np.float32)
  safetensors.numpy.save_file(arrays, path)
  with pytest.raises(UserError, match=f"{stack}.embed_tokens.weight and sha"):
    hf.open_hf(folder)


def test_a_model_without_an_embedding_is_refused(folder):
  path = folder / "model.safetensors"
  arrays = safetensors.numpy.load_file(path)
  del arrays["shared.weight"]
  safetensors.numpy.save_file(arrays, path)
  with pytest.raises(UserError, match=r"has no tensor shared.weight"):
    hf.open_hf(folder)


def test_the_ids_of_the_generation_configuration_count(folder):
  edit_json(folder / "generation_config.json", decoder_start_token_id=5)
  with pytest.raises(
    UserError, match=r"generation_config.json: decoder_start_token_id is 5"
  ):
    hf.open_hf(folder)


def test_tensors_of_another_model_are_not_dropped(folder):
  edit_json(folder / "config.json", num_decoder_layers=2)
  tensors = hf.open_hf(folder).tensors
  assert "decoder.block.2.layer.0.layer_norm.weight" in tensors


def test_what_ties_the_embeddings(folder):
  path = folder / "model.safetensors"
  arrays = safetensors.numpy.load_file(path)

  def is_tied(**changes):
    edit_json(folder / "config.json", **changes)
    return hf.open_hf(folder).config.tie_embeddings

  # transformers 5 writes true for every T5, and what decides elsewhere.
  assert not is_tied(tie_word_embeddings=True, scale_decoder_outputs=False)
  assert not is_tied(tie_word_embeddings=True, model_type="mt5")
  contradictory = {
    "model_type": "t5",
    "tie_word_embeddings": True,
    "scale_decoder_outputs": True,
  }
  with pytest.raises(UserError, match=r"lm_head.weight and shared.weight"):
    is_tied(**contradictory)
  # A pickled T5 1.0 holds the embedding twice.
  safetensors.numpy.save_file(
    arrays | {"lm_head.weight": arrays["shared.weight"]}, path
  )
  assert is_tied(**contradictory)
  assert hf.open_hf(folder).ignored == ("lm_head.weight",)
  arrays.pop("lm_head.weight")
  safetensors.numpy.save_file(arrays, path)
  assert is_tied(**contradictory)
  with pytest.raises(UserError, match="no tensor lm_head"):
    is_tied(tie_word_embeddings=False)


def test_defaults_of_the_configuration(folder):
  path = folder / "config.json"
  config = json.loads(path.read_text())
  config = {
    key: value
    for key, value in config.items()
    if not key.startswith(("relative", "layer_norm", "dropout"))
  }
  config["num_decoder_layers"] = None
  path.write_text(json.dumps(config))
  found = hf.open_hf(folder).config
  assert (found.dropout_rate, found.layer_norm_epsilon) == (0.1, 1e-6)
  assert found.num_decoder_layers == 2


@pytest.mark.parametrize(
  ("name", "config"),
  [("UMT5", stored_models.PER_LAYER), ("MT5", stored_models.GATED)],
)
def test_an_architecture_is_a_model_type_too(tmp_path, name, config):
  """The published umT5 folders hold no model_type."""
  tensors = stored_models.make_tensors(config)
  hf.write_hf(tmp_path, config, tensors, FLOAT32)
  path = tmp_path / "config.json"
  content = json.loads(path.read_text())
  del content["model_type"], content["feed_forward_proj"]
  content["architectures"] = [f"{name}ForConditionalGeneration"]
  path.write_text(json.dumps(content))
  assert hf.open_hf(tmp_path).config == config


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    (
      {"model_type": None, "architectures": ["LongT5Model"]},
      "is None; known are .*t5",
    ),
    ({"model_type": "bert"}, "model_type is 'bert'"),
    ({"feed_forward_proj": "gated-silu"}, "feed_forward_proj is 'gated-silu'"),
    ({"feed_forward_proj": ["relu"]}, "feed_forward_proj is"),
    ({"d_model": "16"}, "d_model is '16'; a number"),
    ({"num_layers": None}, "num_layers is None"),
    ({"num_heads": 0}, "num_heads is 0"),
  ],
)
def test_what_is_no_t5_of_ours_is_refused(folder, changes, message):
  edit_json(folder / "config.json", **changes)
  with pytest.raises(UserError, match=message):
    hf.open_hf(folder)


@pytest.mark.parametrize(
  ("content", "message"),
  [("{", "cannot be read"), ("[]", "holds no JSON object")],
)
def test_a_configuration_that_is_none(folder, content, message):
  (folder / "config.json").write_text(content)
  with pytest.raises(UserError, match=message):
    hf.open_hf(folder)


@pytest.mark.parametrize("num_bytes", [0, 5, 200, -1])
def test_truncated_weights_are_refused(folder, num_bytes):
  path = folder / "model.safetensors"
  path.write_bytes(path.read_bytes()[:num_bytes])
  with pytest.raises(UserError, match="is damaged or no safetensors file"):
    hf.open_hf(folder)


def test_an_enormous_header_is_refused(folder):
  path = folder / "model.safetensors"
  path.write_bytes(struct.pack("<Q", 2**60) + path.read_bytes()[8:])
  with pytest.raises(UserError, match="is damaged"):
    hf.open_hf(folder)


def test_weights_that_are_no_floats_are_refused(folder):
  path = folder / "model.safetensors"
  arrays = safetensors.numpy.load_file(path)
  arrays["shared.weight"] = arrays["shared.weight"].astype(np.int8)
  safetensors.numpy.save_file(arrays, path)
  with pytest.raises(UserError, match=r"tensor shared.weight is I8"):
    hf.open_hf(folder)


def test_a_folder_without_weights_is_refused(folder):
  (folder / "model.safetensors").unlink()
  with pytest.raises(UserError, match=r"has none of model.safetensors"):
    hf.open_hf(folder)


@pytest.fixture(name="sharded")
def fixture_sharded(tmp_path):
  tensors = stored_models.make_tensors(stored_models.GATED)
  hf.write_hf(tmp_path, stored_models.GATED, tensors, FLOAT32, 3000)
  return tmp_path


def test_a_missing_shard_is_named(sharded):
  shard = sorted(sharded.glob("*.safetensors"))[1]
  shard.unlink()
  with pytest.raises(UserError, match=f"The shard {shard.name} .* is missing"):
    hf.open_hf(sharded)


def test_a_shard_with_less_than_promised(sharded):
  shard = sorted(sharded.glob("*.safetensors"))[1]
  safetensors.numpy.save_file({"x": np.zeros(1, np.float32)}, shard)
  with pytest.raises(UserError, match="promises .* their shards do not hold"):
    hf.open_hf(sharded)


@pytest.mark.parametrize(
  "file", ["../model.safetensors", "/etc/passwd", "a\\b", "..", ""]
)
def test_an_index_names_files_beside_it_only(sharded, file):
  index = sharded / "model.safetensors.index.json"
  edit_json(index, weight_map={"shared.weight": file})
  with pytest.raises(UserError, match=r"no file beside it|is missing"):
    hf.open_hf(sharded)


def test_the_index_says_where_a_tensor_is(sharded):
  expected = hf.open_hf(sharded).tensors["token_embedder/embedding"].read()
  index = json.loads((sharded / "model.safetensors.index.json").read_text())
  home = index["weight_map"]["shared.weight"]
  for path in sharded.glob("*.safetensors"):
    if path.name != home:
      arrays = safetensors.numpy.load_file(path)
      arrays["shared.weight"] = np.zeros_like(expected)
      safetensors.numpy.save_file(arrays, path)
  found = hf.open_hf(sharded).tensors["token_embedder/embedding"].read()
  np.testing.assert_array_equal(found, expected)


def test_an_index_without_a_map(sharded):
  edit_json(sharded / "model.safetensors.index.json", weight_map=None)
  with pytest.raises(UserError, match="has no weight_map"):
    hf.open_hf(sharded)


def test_a_vocabulary_is_found(folder):
  (folder / "spiece.model").write_bytes(b"pieces")
  stored = hf.open_hf(folder)
  assert stored.vocabulary_path == folder / "spiece.model"
  assert not stored.uses_bytes


def test_activations_without_a_name_are_refused(tmp_path):
  config = dataclasses.replace(stored_models.GATED, mlp_activations=("gelu",))
  with pytest.raises(UserError, match="no name in transformers"):
    hf.write_hf(tmp_path, config, {}, FLOAT32)
