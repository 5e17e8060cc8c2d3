"""Tests of stated_config.py: the file, and each field in every format."""

import dataclasses

import numpy as np
import pytest
import stored_models

from distill_jax.checkpoint import formats, hf, orbax_params, stated_config, t5x
from distill_jax.errors import UserError
from distill_jax.model.t5.config import T5Config
from distill_jax.runs import convert

FLOAT32 = np.dtype(np.float32)
# Another value of each field, and what else must change with it.
CHANGES = {
  "vocab_size": {"vocab_size": 44},
  "embed_dim": {"embed_dim": 18},
  "num_heads": {"num_heads": 5},
  "head_dim": {"head_dim": 4},
  "mlp_dim": {"mlp_dim": 24},
  "num_encoder_layers": {"num_encoder_layers": 1},
  "num_decoder_layers": {"num_decoder_layers": 1},
  "mlp_activations": {"mlp_activations": ("relu",)},
  "mlp_activations: gated relu": {"mlp_activations": ("relu", "linear")},
  "mlp_activations: gelu": {"mlp_activations": ("gelu",)},
  "mlp_activations: three": {"mlp_activations": ("gelu", "linear", "linear")},
  "tie_embeddings": {"tie_embeddings": True},
  "tie_embeddings: umT5": {
    "tie_embeddings": True,
    "per_layer_relative_bias": True,
  },
  "dropout_rate": {"dropout_rate": 0.25},
  "per_layer_relative_bias": {"per_layer_relative_bias": True},
  "relative_attention_num_buckets": {"relative_attention_num_buckets": 16},
  "relative_attention_max_distance": {"relative_attention_max_distance": 20},
  "layer_norm_epsilon": {"layer_norm_epsilon": 0.01},
  "dtype": {"dtype": "bfloat16"},
}
# How a run computes, not what: never a checkpoint's.
OF_A_RUN = {
  "scan_layers": {"scan_layers": True},
  "remat_policy": {"remat_policy": "full"},
  "attention_implementation": {"attention_implementation": "pallas_tpu"},
}
# What transformers has no word for.
REFUSED = {
  ("hf", "mlp_activations: gated relu"),
  ("hf", "mlp_activations: gelu"),
  ("hf", "mlp_activations: three"),
}


def write(folder, file_format, config):
  """Writes a model as `convert` does; the tensors are drawn."""
  folder.mkdir()
  tensors = stored_models.make_tensors(
    dataclasses.replace(config, scan_layers=False)
  )
  if file_format == "hf":
    hf.write_hf(folder, config, tensors, FLOAT32)
  elif file_format == "t5x":
    t5x.write_t5x(folder, tensors, FLOAT32, config)
  else:
    orbax_params.write_orbax(folder, config, tensors, FLOAT32)


def test_the_table_has_every_field():
  fields = {field.name for field in dataclasses.fields(T5Config)}
  assert {name.split(":")[0] for name in CHANGES} | OF_A_RUN.keys() == fields


@pytest.mark.parametrize("name", CHANGES | OF_A_RUN)
def test_every_field_survives_its_format_or_is_refused(tmp_path, name):
  config = dataclasses.replace(
    stored_models.GATED, **(CHANGES | OF_A_RUN)[name]
  )
  assert config != stored_models.GATED
  for file_format in convert.FORMATS:
    folder = tmp_path / file_format
    if (file_format, name) in REFUSED:
      with pytest.raises(UserError, match="mlp_activations"):
        write(folder, file_format, config)
      continue
    write(folder, file_format, config)
    expected = stored_models.GATED if name in OF_A_RUN else config
    assert formats.open_checkpoint(folder).config == expected


@pytest.mark.parametrize("there", convert.FORMATS)
@pytest.mark.parametrize("start", convert.FORMATS)
def test_every_field_survives_there_and_back(tmp_path, start, there):
  """All fields whose change leaves the shapes apart, at once."""
  names = (
    "dropout_rate",
    "relative_attention_max_distance",
    "layer_norm_epsilon",
    "dtype",
    "num_encoder_layers",
    "tie_embeddings: umT5",
  )
  changes = {
    field: value for name in names for field, value in CHANGES[name].items()
  }
  config = dataclasses.replace(stored_models.GATED, **changes)
  write(tmp_path / "start", start, config)
  for source, destination, file_format in (
    ("start", "there", there),
    ("there", "back", start),
  ):
    convert.convert(
      str(tmp_path / source),
      str(tmp_path / destination),
      destination_format=file_format,
    )
    stored = formats.open_checkpoint(tmp_path / destination)
    assert (stored.file_format, stored.config) == (file_format, config)


def test_a_folder_without_the_file_states_nothing(tmp_path):
  assert stated_config.read_config(str(tmp_path)) is None


@pytest.mark.parametrize("content", ["{", "[]", '{"layers": 3}', "{}"])
def test_a_file_that_is_no_configuration(tmp_path, content):
  (tmp_path / "model_config.json").write_text(content)
  with pytest.raises(UserError, match=r"model_config.json cannot be read"):
    stated_config.read_config(str(tmp_path))


def test_a_single_file_does_not_take_the_configuration_beside_it(tmp_path):
  write(tmp_path / "t5x", "t5x", stored_models.GATED)
  folder = tmp_path / "t5x" / "checkpoint_0"
  (folder / "model_config.json").write_text("{")
  (folder / "checkpoint").rename(folder / "other")
  assert t5x.open_t5x(folder / "other").config.embed_dim == 16


def test_a_configuration_of_another_model_is_refused(tmp_path):
  write(tmp_path / "t5x", "t5x", stored_models.GATED)
  other = dataclasses.replace(stored_models.GATED, num_heads=3, head_dim=4)
  stated_config.write_config(tmp_path / "t5x" / "checkpoint_0", other)
  with pytest.raises(UserError, match="does not fit the model"):
    convert.convert(str(tmp_path / "t5x"), str(tmp_path / "back"))
