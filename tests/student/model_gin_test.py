"""Tests of model_gin.py: the file builds the model it was written from."""

import dataclasses

import pytest
import stored_models

import gin
from distill_jax.student.model_gin import make_model_gin


@pytest.fixture(autouse=True)
def clean_gin():
  gin.clear_config()
  yield
  gin.clear_config()


@pytest.mark.parametrize("name", stored_models.CONFIGS)
def test_the_file_builds_its_model(name):
  config = dataclasses.replace(
    stored_models.CONFIGS[name], dropout_rate=0.25, dtype="bfloat16"
  )
  gin.parse_config(make_model_gin(config, "a model"))
  assert gin.get_configurable("MODEL_CONFIG/gin.macro")() == config


def test_macros_stay_macros():
  text = make_model_gin(stored_models.GATED, "a model")
  gin.parse_config([text, "DROPOUT_RATE = 0.5"])
  config = gin.get_configurable("MODEL_CONFIG/gin.macro")()
  assert config.dropout_rate == 0.5


def test_a_header_cannot_leave_its_line():
  text = make_model_gin(stored_models.GATED, "from /a\nimport os\n")
  assert text.splitlines()[0] == "# from /a import os"
