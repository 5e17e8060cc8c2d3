"""Tests of presets.py: the architectures of gin/models."""

import pathlib

import pytest

import gin
from distill_jax.errors import UserError
from distill_jax.model.t5 import presets

_ROOT = pathlib.Path(__file__).parents[3]
_FAMILIES = {
  "t5_1_0": presets.t5_1_0,
  "t5_1_1": presets.t5_1_1,
  "flan_t5": presets.t5_1_1,
  "mt5": presets.mt5,
  "umt5": presets.umt5,
  "byt5": presets.byt5,
}
_FILES = sorted(
  (path.parent.name, path.stem)
  for path in _ROOT.glob("gin/models/*/*.gin")
  if path.stem != "family"
)


@pytest.fixture(autouse=True)
def clean_gin():
  gin.clear_config()
  gin.add_config_file_search_path(str(_ROOT))
  yield
  gin.clear_config()


@pytest.mark.parametrize("family, size", _FILES)
def test_a_preset_is_that_of_the_gin_file(family, size):
  gin.parse_config_file(f"gin/models/{family}/{size}.gin")
  expected = gin.get_configurable("MODEL_CONFIG/gin.macro")()
  assert _FAMILIES[family](size) == expected


def test_changes_arrive():
  config = presets.t5_1_1("small", dropout_rate=0.25, dtype="bfloat16")
  assert (config.dropout_rate, config.dtype) == (0.25, "bfloat16")


def test_what_there_is_not():
  with pytest.raises(UserError, match="size is 'huge'; it must be one of 'tin"):
    presets.t5_1_1("huge")
  with pytest.raises(UserError, match="size is 'large'"):
    presets.umt5("large")
  with pytest.raises(UserError, match="T5Config has no layers, only vocab_siz"):
    presets.t5_1_1("tiny", layers=3)
