"""Multi-head attention, over fresh or cached keys and values.

It knows no masks and no positions: both arrive as a bias.
"""

from typing import NamedTuple

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from distill_jax.model.layers import dot_product
from distill_jax.model.layers.layer_config import LayerConfig
from distill_jax.model.layers.linear import Linear, normal_init
from distill_jax.partitioning.constraint import ConstrainFn, leave_free


class KeyValue(NamedTuple):
  """Projected keys and values, each [batch, heads, k_length, head_dim].

  Heads come first because the products want them so: a cache that had them
  third would be transposed at every token.
  """

  key: Float[Array, "batch heads k_length head_dim"]
  value: Float[Array, "batch heads k_length head_dim"]


class Attention(nn.Module):
  """Dot-product attention without 1/sqrt(head_dim).

  T5 folds that factor into the initial query kernel instead. Source: T5X
  `layers.py`, `MultiHeadDotProductAttention`.
  """

  config: LayerConfig
  constrain_fn: ConstrainFn = leave_free

  def setup(self):
    cfg = self.config
    joined_dim = cfg.num_heads * cfg.head_dim

    def query_init(*args):
      return normal_init(*args) * cfg.head_dim**-0.5

    def make_projection(kernel_init):
      names = ("embed", "joined_kv")
      return Linear(cfg.embed_dim, joined_dim, names, kernel_init)

    self.query = make_projection(query_init)
    self.key = make_projection(normal_init)
    self.value = make_projection(normal_init)
    self.out = Linear(
      joined_dim, cfg.embed_dim, ("joined_kv", "embed"), normal_init
    )
    # As in T5X one draw serves all queries of a row.
    self.dropout = nn.Dropout(cfg.dropout_rate, broadcast_dims=(-2,))

  def project_key_value(
    self, x: Float[Array, "batch k_length embed"]
  ) -> KeyValue:
    """Projects [batch, k_length, embed] to keys and values of every head."""
    return KeyValue(
      *(
        self._split_heads(projection(x)).swapaxes(1, 2)
        for projection in (self.key, self.value)
      )
    )

  def __call__(
    self,
    x: Float[Array, "batch q_length embed"],
    key_value: KeyValue,
    bias: dot_product.AttentionBias,
    *,
    enable_dropout: bool,
  ) -> Float[Array, "batch q_length embed"]:
    """Attends from `x` to `key_value`.

    Args:
      x: [batch, q_length, embed], compute dtype.
      key_value: what `project_key_value` returned, or a cache of it.
      bias: of these queries and keys.
      enable_dropout: whether to drop attention probabilities.

    Returns:
      [batch, q_length, embed], compute dtype. Logits and softmax are float32.
    """
    key, value = key_value
    if enable_dropout:
      value = self._drop_keys(value)
    attended = dot_product.attend(
      self._split_heads(self.query(x)),
      key,
      value,
      bias,
      # Parameters are initialised with one row, which no mesh divides.
      implementation=(
        "xla"
        if self.is_initializing()
        else self.config.attention_implementation
      ),
      constrain_fn=self.constrain_fn,
    )  # [batch, q_length, heads, head_dim]
    return self.out(attended.reshape(*attended.shape[:2], -1))

  def _drop_keys(
    self, value: Float[Array, "batch heads k_length head_dim"]
  ) -> Float[Array, "batch heads k_length head_dim"]:
    """Drops values, which drops their probabilities for every query alike.

    There are fewer values than probabilities, and no kernel need know.
    """
    batch, heads, k_length, _ = value.shape
    # T5X's shape, for the same draw.
    kept = self.dropout(
      jnp.ones((batch, heads, 1, k_length)), deterministic=False
    )
    kept = kept.swapaxes(2, 3)  # [batch, heads, k_length, 1]
    return (value.astype(jnp.float32) * kept).astype(value.dtype)

  def _split_heads(
    self, x: Float[Array, "batch length joined_kv"]
  ) -> Float[Array, "batch length heads head_dim"]:
    shape = (*x.shape[:2], self.config.num_heads, self.config.head_dim)
    return self.constrain_fn(
      x.reshape(shape), ("batch", "length", "heads", "kv")
    )
