"""What the student computed for some target tokens, for terms to read."""

import functools
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from distill_jax.data.feed import batch as batch_lib


class TargetTokens:
  """Some target tokens of every row: what terms may read of them.

  Each value is computed when it is first read, once for all terms.
  """

  def __init__(
    self,
    batch: Mapping[str, Array],
    hidden: Float[Array, "batch length embed"],
    compute_logits_fn: Callable[[Array], Array],
  ):
    """Computes nothing yet.

    Args:
      batch: arrays of the decoder's side, [batch, length, ...] each.
      hidden: what the logits are made of, compute dtype.
      compute_logits_fn: makes them, [batch, length, vocab] float32.
    """
    self.batch, self.hidden = batch, hidden
    self._compute_logits_fn = compute_logits_fn

  @property
  def targets(self) -> Array:
    """Ids of the true tokens, [batch, length] int32."""
    return self.batch[batch_lib.DECODER_TARGET_TOKENS]

  @functools.cached_property
  def logits(self) -> Array:
    """Of the student, [batch, length, vocab] float32.

    A normalizer in lower precision loses the loss's digits.
    """
    return self._compute_logits_fn(self.hidden)

  @functools.cached_property
  def log_normalizers(self) -> Array:
    """log(Z) of each token, [batch, length] float32."""
    return jax.nn.logsumexp(self.logits, axis=-1)

  @functools.cached_property
  def cross_entropy(self) -> Array:
    """Of each true token in nats, [batch, length] float32."""
    logits = jnp.take_along_axis(self.logits, self.targets[..., None], axis=-1)
    return self.log_normalizers - logits[..., 0]
