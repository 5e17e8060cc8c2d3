"""Token ids to vectors and, where tied, vectors to logits."""

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Int

from distill_jax.model.layers.layer_config import LayerConfig
from distill_jax.model.layers.parameter import make_parameter
from distill_jax.partitioning.constraint import ConstrainFn, leave_free


class Embedding(nn.Module):
  """The table shared by encoder, decoder and, in T5 1.0, the logits."""

  config: LayerConfig
  constrain_fn: ConstrainFn = leave_free

  def setup(self):
    self.embedding = make_parameter(
      self,
      "embedding",
      nn.initializers.normal(stddev=1.0),
      (self.config.vocab_size, self.config.embed_dim),
      ("vocab", "embed"),
    )

  def __call__(
    self, tokens: Int[Array, "batch length"]
  ) -> Float[Array, "batch length embed"]:
    """Looks tokens up by a gather, not by T5X's product with a one-hot matrix.

    That product is over a quarter of the FLOPs of a small T5's step. An id
    outside the table yields NaN, so that a vocabulary larger than the table is
    noticed at the first loss.

    Args:
      tokens: [batch, length] int32.

    Returns:
      [batch, length, embed] in the config's dtype.
    """
    # A row must be whole where it is looked up. Left to itself the compiler
    # looks up parts of rows, and then finds no better way from parts of rows
    # to parts of the batch than to copy all of them to every device.
    table = self.constrain_fn(self.embedding, ("vocab", "embed"))
    vectors = jnp.take(table, tokens, axis=0)  # [batch, length, embed]
    return vectors.astype(self.config.dtype)

  def compute_logits(
    self, x: Float[Array, "batch length embed"]
  ) -> Float[Array, "batch length vocab"]:
    """Scores every token against `x` by the transposed table.

    Args:
      x: [batch, length, embed], compute dtype.

    Returns:
      [batch, length, vocab] float32.

    Source: T5 1.0 trained with this product over sqrt(embed_dim); T5X
    `network.py`, `logits_via_embedding`.
    """
    x = x.astype(jnp.float32) * self.config.embed_dim**-0.5
    return jnp.einsum("ble,ve->blv", x, self.embedding)
