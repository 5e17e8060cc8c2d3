"""Token losses against float64 numpy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from distill_jax import losses


@pytest.fixture
def logits_and_targets():
  rng = np.random.default_rng(0)
  logits = rng.normal(0, 3, (2, 5, 7)).astype(np.float32)
  return logits, rng.integers(0, 7, (2, 5)).astype(np.int32)


def test_values_against_numpy(logits_and_targets):
  logits, targets = logits_and_targets
  log_z = np.log(np.exp(logits.astype(np.float64)).sum(-1))
  picked = np.take_along_axis(logits, targets[..., None], -1)[..., 0]
  cross_entropy, squared = losses.token_cross_entropy(
    jnp.asarray(logits), jnp.asarray(targets)
  )
  np.testing.assert_allclose(cross_entropy, log_z - picked, rtol=1e-5)
  np.testing.assert_allclose(squared, log_z**2, rtol=1e-5)


def test_gradient_is_softmax_minus_one_hot(logits_and_targets):
  logits, targets = logits_and_targets
  gradient = jax.grad(
    lambda logits: jnp.sum(
      losses.token_cross_entropy(logits, jnp.asarray(targets))[0]
    )
  )(jnp.asarray(logits))
  exp = np.exp(logits.astype(np.float64))
  expected = exp / exp.sum(-1, keepdims=True) - np.eye(7)[targets]
  np.testing.assert_allclose(gradient, expected, atol=1e-6)


def test_huge_logits_stay_finite():
  logits = jnp.asarray([[[1e4, -1e4, 0.0]]], jnp.float32)
  cross_entropy, _ = losses.token_cross_entropy(logits, jnp.asarray([[1]]))
  np.testing.assert_allclose(cross_entropy, [[2e4]])
