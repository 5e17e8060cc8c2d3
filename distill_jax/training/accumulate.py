"""Gradients over micro-batches, exact for any number of tokens in each.

Losses are divided by the token counts of the whole batch before they get here
(`objective.objective.count_tokens`), so micro-batches add up; averaging their
means would weigh tokens of short micro-batches more.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

PyTree = Any


def sum_gradients(
  loss_fn: Callable[..., tuple[Array, dict[str, Array]]],
  params: PyTree,
  batch: Mapping[str, Array],
  rng: Array,
  num_microbatches: int,
) -> tuple[PyTree, dict[str, Array]]:
  """Sums gradients and metrics of a loss over micro-batches.

  Args:
    loss_fn: (params, microbatch, rng) -> (loss, metrics); additive over rows.
    params: float32 parameters.
    batch: [batch, ...] arrays; `batch` must divide by `num_microbatches`.
    rng: key; the micro-batch's index is folded in.
    num_microbatches: how many.

  Returns:
    Gradients as `params`, and the summed metrics.
  """
  grad_fn = jax.grad(loss_fn, has_aux=True)
  if num_microbatches == 1:
    return grad_fn(params, batch, rng)
  # Row r goes to micro-batch r % num_microbatches: each device keeps its rows.
  microbatches = jax.tree.map(
    lambda x: x.reshape(-1, num_microbatches, *x.shape[1:]).swapaxes(0, 1),
    dict(batch),
  )  # [num_microbatches, batch / num_microbatches, ...]

  def add(totals, indexed):
    index, microbatch = indexed
    update = grad_fn(params, microbatch, jax.random.fold_in(rng, index))
    return jax.tree.map(jnp.add, totals, update), None

  first = jax.tree.map(lambda x: x[0], microbatches)
  zeros = jax.tree.map(
    lambda leaf: jnp.zeros(leaf.shape, leaf.dtype),
    jax.eval_shape(grad_fn, params, first, rng),
  )
  totals, _ = jax.lax.scan(
    add, zeros, (jnp.arange(num_microbatches), microbatches)
  )
  return totals
