"""Fixtures of the decoding tests: strict dtypes, golden and table models."""

import functools
import types

import hf_golden
import jax
import jax.numpy as jnp
import pytest


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
  golden = hf_golden.load(request.param)
  return types.SimpleNamespace(
    arrays=golden.arrays, decode=functools.partial(hf_golden.decode, golden)
  )


def _make_table_step(table):
  table = jnp.asarray(table, jnp.float32)
  return lambda tokens, step, cache: (table[tokens], cache)


@pytest.fixture
def make_table_step():
  """Makes a step function from logits [last token, next token]."""
  return _make_table_step
