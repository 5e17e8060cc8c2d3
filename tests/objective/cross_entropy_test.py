"""Token losses against float64 numpy."""

import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from distill_jax.objective import cross_entropy as cross_entropy_lib


@pytest.fixture
def logits_and_targets():
  rng = np.random.default_rng(0)
  logits = rng.normal(0, 3, (2, 5, 7)).astype(np.float32)
  return logits, rng.integers(0, 7, (2, 5)).astype(np.int32)


def test_values_against_numpy(logits_and_targets):
  logits, targets = logits_and_targets
  log_z = np.log(np.exp(logits.astype(np.float64)).sum(-1))
  picked = np.take_along_axis(logits, targets[..., None], -1)[..., 0]
  cross_entropy, squared = cross_entropy_lib.token_cross_entropy(
    jnp.asarray(logits), jnp.asarray(targets)
  )
  np.testing.assert_allclose(cross_entropy, log_z - picked, rtol=1e-5)
  np.testing.assert_allclose(squared, log_z**2, rtol=1e-5)


def test_gradient_is_softmax_minus_one_hot(logits_and_targets):
  logits, targets = logits_and_targets
  gradient = jax.grad(
    lambda logits: jnp.sum(
      cross_entropy_lib.token_cross_entropy(logits, jnp.asarray(targets))[0]
    )
  )(jnp.asarray(logits))
  exp = np.exp(logits.astype(np.float64))
  expected = exp / exp.sum(-1, keepdims=True) - np.eye(7)[targets]
  np.testing.assert_allclose(gradient, expected, atol=1e-6)


def test_huge_logits_stay_finite():
  logits = jnp.asarray([[[1e4, -1e4, 0.0]]], jnp.float32)
  cross_entropy, _ = cross_entropy_lib.token_cross_entropy(
    logits, jnp.asarray([[1]])
  )
  np.testing.assert_allclose(cross_entropy, [[2e4]])


@pytest.fixture
def hidden_and_kernel():
  rng = np.random.default_rng(1)
  hidden = rng.normal(0, 1, (2, 5, 4)).astype(np.float32)
  return hidden, rng.normal(0, 1, (4, 7)).astype(np.float32)


def sum_in_chunks(hidden, kernel, targets, chunk_tokens):
  """A weighted sum of both losses of every token, so that none is mistaken."""

  def compute_logits(x):
    return jnp.einsum("ble,ev->blv", x, kernel)

  if chunk_tokens is None:
    found = cross_entropy_lib.token_cross_entropy(
      compute_logits(hidden), targets
    )
  else:
    found = cross_entropy_lib.chunked_token_cross_entropy(
      hidden, targets, compute_logits, chunk_tokens
    )
  weights = jnp.arange(1.0, 11.0).reshape(2, 5)
  return jnp.sum(weights * (found[0] + 0.1 * found[1])), found


# Of 2 rows of 5 tokens: a token, a position, some that leave a rest, all, more.
@pytest.mark.parametrize("chunk_tokens", [1, 2, 4, 6, 10, 100])
def test_chunks_lose_nothing(
  logits_and_targets, hidden_and_kernel, chunk_tokens
):
  targets = jnp.asarray(logits_and_targets[1])
  differentiate = jax.jit(
    jax.value_and_grad(sum_in_chunks, argnums=(0, 1), has_aux=True),
    static_argnums=3,
  )
  found = differentiate(*hidden_and_kernel, targets, chunk_tokens)
  expected = differentiate(*hidden_and_kernel, targets, None)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-5),
    found,
    expected,
  )


@pytest.mark.parametrize("chunk_tokens,most", [(2, 2), (5, 4), (6, 6)])
def test_no_more_logits_than_a_chunks(
  logits_and_targets, hidden_and_kernel, chunk_tokens, most
):
  targets = jnp.asarray(logits_and_targets[1])

  def count_logits(chunk_tokens):
    program = jax.make_jaxpr(
      lambda *x: jax.grad(sum_in_chunks, argnums=(0, 1), has_aux=True)(
        *x, targets, chunk_tokens
      )
    )(*hidden_and_kernel)
    shapes = re.findall(r"f32\[([\d,]+)\]", str(program))
    sizes = [tuple(map(int, shape.split(","))) for shape in shapes]
    return max(math.prod(size[:-1]) for size in sizes if size[-1] == 7)

  assert count_logits(None) == 10
  # 4 is the kernel itself, [4, 7].
  assert count_logits(chunk_tokens) == max(most, 4)
