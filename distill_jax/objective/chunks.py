"""Values of tokens, with the logits of few tokens at a time in memory."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

PyTree = Any


def map_chunks(
  compute_fn: Callable[[PyTree], PyTree],
  arrays: PyTree,
  chunk_tokens: int | None,
) -> PyTree:
  """Applies a function of tokens to some positions of every row at a time.

  The backward pass computes each chunk again, which costs one more product
  with the vocabulary.

  Args:
    compute_fn: arrays [batch, some length, ...] -> arrays [batch, the same
      length].
    arrays: [batch, length, ...] each.
    chunk_tokens: tokens a chunk at most, of all rows together, but no less than
      one position of every row, so that each device keeps its rows; None: all
      tokens at once.

  Returns:
    What `compute_fn` returns for all positions, [batch, length] each.
  """
  if chunk_tokens is None:
    return compute_fn(arrays)
  batch_rows, length = jax.tree.leaves(arrays)[0].shape[:2]
  num_chunks = -(-length // max(1, chunk_tokens // batch_rows))
  chunk_length = -(-length // num_chunks)  # Even, to pad as little as can be.

  def cut(x):
    padding = [(0, 0)] * x.ndim
    padding[1] = (0, num_chunks * chunk_length - length)
    x = jnp.pad(x, padding)
    x = x.reshape(batch_rows, num_chunks, chunk_length, *x.shape[2:])
    return jnp.moveaxis(x, 1, 0)  # [num_chunks, batch, chunk_length, ...]

  def join(x):
    return jnp.moveaxis(x, 0, 1).reshape(batch_rows, -1)[:, :length]

  # The loop keeps the two computations of the logits apart by itself.
  compute_chunk = functools.partial(jax.checkpoint, prevent_cse=False)(
    compute_fn
  )
  return jax.tree.map(
    join, jax.lax.map(compute_chunk, jax.tree.map(cut, arrays))
  )
