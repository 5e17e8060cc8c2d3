"""Tests of objective/chunks.py: all tokens, whatever the chunks."""

import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from distill_jax.data.feed import batch as batch_lib
from distill_jax.objective import chunks
from distill_jax.objective.target_tokens import TargetTokens


@pytest.fixture
def logits_and_targets():
  rng = np.random.default_rng(0)
  logits = rng.normal(0, 3, (2, 5, 7)).astype(np.float32)
  return logits, rng.integers(0, 7, (2, 5)).astype(np.int32)


@pytest.fixture
def hidden_and_kernel():
  rng = np.random.default_rng(1)
  hidden = rng.normal(0, 1, (2, 5, 4)).astype(np.float32)
  return hidden, rng.normal(0, 1, (4, 7)).astype(np.float32)


def sum_in_chunks(hidden, kernel, targets, chunk_tokens):
  """A weighted sum of both losses of every token, so that none is mistaken."""

  def compute_logits(x):
    return jnp.einsum("ble,ev->blv", x, kernel)

  def score(arrays):
    hidden, targets = arrays
    batch = {batch_lib.DECODER_TARGET_TOKENS: targets}
    tokens = TargetTokens(batch, hidden, compute_logits)
    return tokens.cross_entropy, jnp.square(tokens.log_normalizers)

  found = chunks.map_chunks(score, (hidden, targets), chunk_tokens)
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
