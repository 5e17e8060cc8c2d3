"""Tests of objective/target_tokens.py: values against float64 numpy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from distill_jax.data.feed import batch as batch_lib
from distill_jax.objective.target_tokens import TargetTokens


def _read(logits, targets):
  batch = {batch_lib.DECODER_TARGET_TOKENS: jnp.asarray(targets)}
  return TargetTokens(batch, jnp.asarray(logits), lambda x: x)


@pytest.fixture
def logits_and_targets():
  rng = np.random.default_rng(0)
  logits = rng.normal(0, 3, (2, 5, 7)).astype(np.float32)
  return logits, rng.integers(0, 7, (2, 5)).astype(np.int32)


def test_values_against_numpy(logits_and_targets):
  logits, targets = logits_and_targets
  log_z = np.log(np.exp(logits.astype(np.float64)).sum(-1))
  picked = np.take_along_axis(logits, targets[..., None], -1)[..., 0]
  tokens = _read(logits, targets)
  np.testing.assert_allclose(tokens.cross_entropy, log_z - picked, rtol=1e-5)
  np.testing.assert_allclose(tokens.log_normalizers, log_z, rtol=1e-5)


def test_gradient_is_softmax_minus_one_hot(logits_and_targets):
  logits, targets = logits_and_targets
  gradient = jax.grad(
    lambda logits: jnp.sum(_read(logits, targets).cross_entropy)
  )(jnp.asarray(logits))
  exp = np.exp(logits.astype(np.float64))
  expected = exp / exp.sum(-1, keepdims=True) - np.eye(7)[targets]
  np.testing.assert_allclose(gradient, expected, atol=1e-6)


def test_huge_logits_stay_finite():
  logits = jnp.asarray([[[1e4, -1e4, 0.0]]], jnp.float32)
  np.testing.assert_allclose(_read(logits, [[1]]).cross_entropy, [[2e4]])
