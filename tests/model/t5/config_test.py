import dataclasses

import pytest
from tiny_student import CONFIG

from distill_jax.errors import UserError


@pytest.mark.usefixtures("any_type")
@pytest.mark.parametrize(
  "field,value",
  [
    ("vocab_size", 0),
    ("embed_dim", 0),
    ("num_heads", -1),
    ("num_encoder_layers", 0),
    ("mlp_activations", ("swish",)),
    ("mlp_activations", ()),
    ("dropout_rate", 1.0),
    ("dropout_rate", -0.1),
    ("dtype", "float16"),
    ("scan_layers", "yes"),
    ("remat_policy", "maximal"),
    ("attention_implementation", "flash"),
    # Not in float32.
    ("attention_implementation", "cudnn"),
    ("attention_implementation", "tokamax"),
    ("relative_attention_num_buckets", 31),
    ("relative_attention_max_distance", 16),
    ("relative_attention_max_distance", 64.5),
    ("num_encoder_layers", 100_000),
    ("layer_norm_epsilon", 0.0),
    ("layer_norm_epsilon", float("nan")),
    ("layer_norm_epsilon", float("inf")),
  ],
)
def test_a_bad_value_is_named_in_the_error(config, field, value):
  with pytest.raises(UserError) as error:
    dataclasses.replace(config, **{field: value})
  assert str(value) in str(error.value)


def test_a_fraction_of_a_layer_is_refused(config):
  # Where annotations are checked too, that check comes first.
  with pytest.raises((UserError, TypeError), match="2.5"):
    dataclasses.replace(config, num_encoder_layers=2.5)


def test_lists_from_gin_make_a_hashable_config(config):
  listed = dataclasses.replace(config, mlp_activations=["gelu", "linear"])
  assert hash(listed) == hash(config)


@pytest.mark.parametrize(
  "implementation,platforms",
  [
    ("xla", {"cpu", "gpu", "tpu"}),
    ("cudnn", {"gpu"}),
    ("tokamax", {"gpu"}),
    ("pallas_tpu", {"tpu"}),
  ],
)
def test_attention_runs_where_its_kernel_does(
  config, implementation, platforms
):
  config = dataclasses.replace(
    config, dtype="bfloat16", attention_implementation=implementation
  )
  for platform in ("cpu", "gpu", "tpu"):
    if platform in platforms:
      config.check_platform(platform)
      continue
    with pytest.raises(UserError, match=f"{implementation}.*{platform}s"):
      config.check_platform(platform)


def test_cudnn_takes_even_lengths():
  cudnn = dataclasses.replace(
    CONFIG, dtype="bfloat16", attention_implementation="cudnn"
  )
  cudnn.check_lengths({"inputs": 8, "targets": 4})
  CONFIG.check_lengths({"inputs": 7, "targets": 4})
  with pytest.raises(UserError, match="'targets': 5.*takes even numbers"):
    cudnn.check_lengths({"inputs": 8, "targets": 5})
