"""Fixtures of the decoding tests: strict dtypes, golden and table models."""

import json
import pathlib
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from distill_jax.decoding.cache import start_decoding
from distill_jax.model.config import T5Config
from distill_jax.model.t5 import T5

GOLDEN_DIR = pathlib.Path(__file__).parents[1] / "testdata" / "model"


@pytest.fixture(autouse=True)
def strict_dtypes():
  """Makes every silent mix of dtypes an error."""
  with jax.numpy_dtype_promotion("strict"):
    yield


@pytest.fixture(params=["t5_1_0", "t5_1_1"])
def golden(request):
  """A model of transformers: what it decoded, and a way to decode with it.

  `decode(decode_fn, **settings)` starts from the golden inputs.
  """
  with np.load(GOLDEN_DIR / f"hf_{request.param}.npz") as file:
    arrays = dict(file)
  config = T5Config(**json.loads(str(arrays.pop("header")))["config"])
  params = traverse_util.unflatten_dict(
    {
      name.removeprefix("param/"): array
      for name, array in arrays.items()
      if name.startswith("param/")
    },
    sep="/",
  )

  def decode(decode_fn, **settings):
    max_decode_length = arrays["greedy_tokens"].shape[1]

    @jax.jit
    def run(params, tokens):
      step_fn, cache = start_decoding(
        T5(config),
        params,
        tokens,
        (tokens > 0).astype(jnp.int32),
        max_decode_length,
      )
      return decode_fn(
        step_fn,
        cache,
        batch_size=len(tokens),
        max_decode_length=max_decode_length,
        **settings,
      )

    return run(params, arrays["encoder_input_tokens"])

  return types.SimpleNamespace(arrays=arrays, decode=decode)


def _make_table_step(table):
  table = jnp.asarray(table, jnp.float32)
  return lambda tokens, step, cache: (table[tokens], cache)


@pytest.fixture
def make_table_step():
  """Makes a step function from logits [last token, next token]."""
  return _make_table_step
