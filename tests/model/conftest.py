"""Fixtures of the model tests: strict dtypes, golden models, a small config."""

import functools
import json
import pathlib
import types

import jax
import numpy as np
import pytest
from flax import traverse_util

from distill_jax.model.config import T5Config
from distill_jax.model.t5 import T5

GOLDEN_DIR = pathlib.Path(__file__).parents[1] / "testdata" / "model"


@pytest.fixture(autouse=True)
def strict_dtypes():
  """Makes every silent mix of dtypes an error."""
  with jax.numpy_dtype_promotion("strict"):
    yield


@pytest.fixture
def config():
  """A T5 1.1 whose joint head width differs from its embedding's."""
  return T5Config(
    vocab_size=32,
    embed_dim=12,
    num_heads=2,
    head_dim=8,
    mlp_dim=20,
    num_encoder_layers=2,
    num_decoder_layers=2,
    dropout_rate=0.0,
  )


@pytest.fixture(params=["t5_1_0", "t5_1_1"])
def golden(request):
  """A model of transformers: our config, its weights, and what it computed.

  `batch` holds the model's four inputs, in the order it takes them.
  """
  with np.load(GOLDEN_DIR / f"hf_{request.param}.npz") as file:
    arrays = dict(file)
  header = json.loads(str(arrays.pop("header")))
  encoder_tokens = arrays["encoder_input_tokens"]
  targets = arrays["decoder_target_tokens"]
  return types.SimpleNamespace(
    config=T5Config(**header["config"]),
    params=traverse_util.unflatten_dict(
      {
        name.removeprefix("param/"): array
        for name, array in arrays.items()
        if name.startswith("param/")
      },
      sep="/",
    ),
    arrays=arrays,
    batch={
      "encoder_input_tokens": encoder_tokens,
      "decoder_input_tokens": np.pad(targets, ((0, 0), (1, 0)))[:, :-1],
      "encoder_segment_ids": (encoder_tokens > 0).astype(np.int32),
      "decoder_segment_ids": (targets > 0).astype(np.int32),
    },
  )


@pytest.fixture(scope="session")
def score():
  """(config, params, batch) -> logits, compiled once for all tests."""

  @functools.partial(jax.jit, static_argnums=0)
  def run(config, params, batch):
    return T5(config).apply({"params": params}, **batch, enable_dropout=False)

  return run
