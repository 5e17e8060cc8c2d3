"""Fixtures of the model tests: strict dtypes, golden models, a small config."""

import functools
import sys
import types

import hf_golden
import jax
import pytest

from distill_jax.model.t5.config import T5Config
from distill_jax.model.t5.t5 import T5


@pytest.fixture(autouse=True)
def strict_dtypes():
  """Makes every silent mix of dtypes an error."""
  with jax.numpy_dtype_promotion("strict"):
    yield


@pytest.fixture
def install_tokamax(monkeypatch):
  """(attention function) -> None: as if Tokamax had it, on a Hopper GPU."""

  def install(attend_fn):
    module = types.SimpleNamespace(dot_product_attention=attend_fn)
    monkeypatch.setitem(sys.modules, "tokamax", module)
    gpu = types.SimpleNamespace(device_kind="NVIDIA", compute_capability="9.0")
    monkeypatch.setattr(jax, "devices", lambda: [gpu])

  return install


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


@pytest.fixture(params=["t5_1_0", "t5_1_1", "umt5"])
def golden(request):
  """A model of transformers, as `hf_golden.load` returns it."""
  return hf_golden.load(request.param)


@pytest.fixture(scope="session")
def score():
  """(config, params, batch) -> logits, compiled once for all tests."""

  @functools.partial(jax.jit, static_argnums=0)
  def run(config, params, batch):
    return T5(config).apply({"params": params}, batch, enable_dropout=False)

  return run
