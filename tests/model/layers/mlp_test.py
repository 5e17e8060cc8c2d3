import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.core import meta

from distill_jax.model.layers.mlp import MLP


def _gelu(x):
  return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def _init(config, x):
  return meta.unbox(
    MLP(config).init(jax.random.key(0), x, enable_dropout=False)
  )


@pytest.fixture
def x():
  return jax.random.normal(jax.random.key(1), (2, 3, 12))


def test_gated_mlp_multiplies_gelu_and_linear(config, x):
  variables = _init(config, x)
  p = variables["params"]
  assert set(p) == {"wi_0", "wi_1", "wo"}
  hidden = _gelu(x @ p["wi_0"]["kernel"]) * (x @ p["wi_1"]["kernel"])
  actual = MLP(config).apply(variables, x, enable_dropout=False)
  np.testing.assert_allclose(
    actual, hidden @ p["wo"]["kernel"], rtol=1e-5, atol=1e-6
  )


def test_plain_mlp_has_one_projection(config, x):
  config = dataclasses.replace(config, mlp_activations=("relu",))
  variables = _init(config, x)
  p = variables["params"]
  assert set(p) == {"wi", "wo"}
  hidden = np.maximum(x @ p["wi"]["kernel"], 0)
  actual = MLP(config).apply(variables, x, enable_dropout=False)
  np.testing.assert_allclose(
    actual, hidden @ p["wo"]["kernel"], rtol=1e-5, atol=1e-6
  )


def test_dropout_drops_the_same_hidden_units_at_every_position(config):
  config = dataclasses.replace(config, dropout_rate=0.5)
  x = jnp.ones((2, 3, 12))
  variables = _init(config, x)
  actual = MLP(config).apply(
    variables, x, enable_dropout=True, rngs={"dropout": jax.random.key(1)}
  )
  kept = MLP(config).apply(variables, x, enable_dropout=False)
  assert np.abs(actual - kept).max() > 1e-3
  np.testing.assert_allclose(actual[:, 1:], actual[:, :-1], rtol=1e-6)
  assert np.abs(actual[0] - actual[1]).max() > 1e-3
