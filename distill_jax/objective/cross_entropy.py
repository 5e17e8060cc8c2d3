"""Token losses, as sums and counts, never means.

What is averaged over what is `distill`'s business.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


def token_cross_entropy(
  logits: Float[Array, "batch length vocab"],
  targets: Int[Array, "batch length"],
) -> tuple[Float[Array, "batch length"], Float[Array, "batch length"]]:
  """Cross-entropy of each token, and its squared log normalizer.

  Args:
    logits: float32; a normalizer in lower precision loses the loss's digits.
    targets: ids of the true tokens.

  Returns:
    Cross-entropy in nats and log(Z)**2, both [batch, length] float32. The
    latter is what a z-loss weighs (Mesh TensorFlow; T5X `losses.py`
    `cross_entropy_with_logits`), to keep logits from drifting.
  """
  log_normalizers = jax.nn.logsumexp(logits, axis=-1)  # [batch, length]
  target_logits = jnp.take_along_axis(logits, targets[..., None], axis=-1)
  cross_entropy = log_normalizers - target_logits[..., 0]  # [batch, length]
  return cross_entropy, jnp.square(log_normalizers)


def chunked_token_cross_entropy(
  hidden: Float[Array, "batch length embed"],
  targets: Int[Array, "batch length"],
  compute_logits_fn: Callable[[Array], Array],
  chunk_tokens: int,
) -> tuple[Float[Array, "batch length"], Float[Array, "batch length"]]:
  """`token_cross_entropy`, with the logits of few tokens at a time in memory.

  The backward pass computes each chunk's logits again, which costs one more
  product with the vocabulary.

  Args:
    hidden: what the logits are made of, compute dtype.
    targets: ids of the true tokens.
    compute_logits_fn: [batch, some length, embed] -> logits of the same tokens,
      [batch, some length, vocab] float32.
    chunk_tokens: tokens a chunk at most, of all rows together, but no less than
      one position of every row, so that each device keeps its rows.

  Returns:
    As `token_cross_entropy`.
  """
  batch_rows, length = targets.shape
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
  @functools.partial(jax.checkpoint, prevent_cse=False)
  def compute_chunk(chunk):
    hidden, targets = chunk
    return token_cross_entropy(compute_logits_fn(hidden), targets)

  cross_entropy, squared_normalizers = jax.lax.map(
    compute_chunk, (cut(hidden), cut(targets))
  )  # [num_chunks, batch, chunk_length] each
  return join(cross_entropy), join(squared_normalizers)
