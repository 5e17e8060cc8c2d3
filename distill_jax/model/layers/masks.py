"""Who may attend to whom: as masks, or as numbers added to the logits.

A segment is one example inside a packed row; ids start at 1 and 0 is padding.
One rule covers packing and padding alike: attend inside your own segment.
Padding attends to padding, which no loss reads.
"""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

# T5X's value: float32 keeps no digit of a logit beside it, and unlike -inf it
# leaves a fully masked row finite.
_MASKED = -1e10


def make_segment_mask(
  query_segment_ids: Int[Array, "batch q_length"],
  key_segment_ids: Int[Array, "batch k_length"],
  *,
  is_causal: bool,
) -> Bool[Array, "batch 1 q_length k_length"]:
  """Returns the mask that keeps attention inside segments.

  Args:
    query_segment_ids: [batch, q_length] int32.
    key_segment_ids: [batch, k_length] int32.
    is_causal: whether a query sees no key behind its own index.

  Returns:
    [batch, 1, q_length, k_length] bool, true where attention is allowed.
  """
  allowed = query_segment_ids[:, :, None] == key_segment_ids[:, None, :]
  if is_causal:
    rows = jnp.arange(query_segment_ids.shape[1])
    columns = jnp.arange(key_segment_ids.shape[1])
    allowed &= (rows[:, None] >= columns[None, :])[None]
  return allowed[:, None]


def make_step_bias(
  step: Int[Array, ""] | int, k_length: int
) -> Float[Array, "1 1 1 {k_length}"]:
  """Returns the causal bias of the one query at index `step`.

  Args:
    step: index of the query, possibly traced.
    k_length: keys, those not yet written included.

  Returns:
    [1, 1, 1, k_length] float32.
  """
  return to_bias(jnp.arange(k_length) <= step)[None, None, None]


def to_bias(allowed: Bool[Array, "*shape"]) -> Float[Array, "*shape"]:
  """Returns a mask as float32 to add: 0 where it allows, else -1e10."""
  return jnp.where(allowed, 0.0, _MASKED).astype(jnp.float32)
