"""Every file of gin/models: it parses, and counts the published parameters."""

import dataclasses
import math
import pathlib

import jax
import jax.numpy as jnp
import pytest
import t5_batch

import gin
from distill_jax.model.t5.config import T5Config
from distill_jax.model.t5.t5 import T5

ROOT = pathlib.Path(__file__).parents[2]
SIZES = ("tiny", "small", "base", "large", "xl", "xxl")
# Of the published checkpoints; T5 1.0 xl and xxl are called 3B and 11B.
PARAMETER_COUNTS = {
  "t5_1_0": (
    230_400,
    60_506_624,
    222_903_552,
    737_668_096,
    2_851_598_336,
    11_307_321_344,
  ),
  "t5_1_1": (
    328_704,
    76_961_152,
    247_577_856,
    783_150_080,
    2_849_757_184,
    11_135_332_352,
  ),
  "mt5": (
    328_704,
    300_176_768,
    582_401_280,
    1_229_581_312,
    3_742_619_648,
    12_921_057_280,
  ),
  # Published exactly for small and base only; the others follow from sizes.
  "byt5": (
    246_784,
    299_637_760,
    581_653_248,
    1_228_183_552,
    3_737_801_728,
    12_906_899_328,
  ),
  # Computed from the sizes, which are published; so are "307M" for small and a
  # file of 2,368,275,277 bytes of float32 for base. There is no large.
  "umt5": (
    328_960,
    306_601_984,
    592_043_520,
    None,
    3_768_356_864,
    12_972_531_712,
  ),
}
PARAMETER_COUNTS["flan_t5"] = PARAMETER_COUNTS["t5_1_1"]
MODELS = [
  (family, size, count)
  for family, counts in PARAMETER_COUNTS.items()
  for size, count in zip(SIZES, counts, strict=True)
  if count is not None
]


def _count_parameters(config: T5Config) -> int:
  """Counts without allocating: one layer a stack, as often as there are."""
  tokens = jax.ShapeDtypeStruct((1, 1), jnp.int32)
  model = T5(
    dataclasses.replace(config, num_encoder_layers=1, num_decoder_layers=1)
  )
  params = jax.eval_shape(
    lambda rng, t: model.init(
      rng, t5_batch.make_batch(t, t, t, t), enable_dropout=False
    ),
    jax.random.key(0),
    tokens,
  )["params"]

  def count(tree):
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))

  return (
    count(params)
    + (config.num_encoder_layers - 1) * count(params["encoder"]["layers_0"])
    + (config.num_decoder_layers - 1) * count(params["decoder"]["layers_0"])
  )


@pytest.fixture(autouse=True)
def clean_gin():
  gin.clear_config()
  gin.add_config_file_search_path(str(ROOT))
  yield
  gin.clear_config()


def _build(gin_file, *bindings):
  gin.parse_config_files_and_bindings([gin_file], list(bindings))
  return gin.get_configurable("MODEL_CONFIG/gin.macro")()


@pytest.mark.parametrize("family,size,count", MODELS)
def test_a_size_has_its_published_parameters(family, size, count):
  gin_file = f"gin/models/{family}/{size}.gin"
  config = _build(gin_file)
  assert isinstance(config, T5Config)
  assert _count_parameters(config) == count
  header = (ROOT / gin_file).read_text().splitlines()[0]
  assert f"{count:,} parameters" in header


def test_no_file_is_untested():
  files = {
    (path.parent.name, path.stem) for path in ROOT.glob("gin/models/*/*.gin")
  }
  files = {(family, size) for family, size in files if size != "family"}
  assert files == {(family, size) for family, size, _ in MODELS}


def test_macros_reach_the_config():
  config = _build(
    "gin/models/mt5/small.gin",
    "VOCAB_SIZE = 1000",
    "DROPOUT_RATE = 0.25",
    "ACTIVATION_DTYPE = 'bfloat16'",
    "SCAN_LAYERS = True",
    "REMAT_POLICY = 'minimal'",
    "ATTENTION_IMPLEMENTATION = 'pallas_tpu'",
  )
  assert (config.vocab_size, config.dropout_rate) == (1000, 0.25)
  assert config.dtype == "bfloat16"
  assert (config.scan_layers, config.remat_policy) == (True, "minimal")
  assert config.attention_implementation == "pallas_tpu"
  assert hash(config) == hash(config)


@pytest.mark.parametrize("family", PARAMETER_COUNTS)
def test_the_vocabulary_fits_the_published_one(family):
  vocab_sizes = {"mt5": 250_112, "byt5": 384, "umt5": 256_384}
  config = _build(f"gin/models/{family}/small.gin")
  assert config.vocab_size == vocab_sizes.get(family, 32_128)
  assert config.dropout_rate == 0.1
  assert config.tie_embeddings == (family == "t5_1_0")
  assert config.per_layer_relative_bias == (family == "umt5")
