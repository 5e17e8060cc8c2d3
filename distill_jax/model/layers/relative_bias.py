"""T5's positions: a learned number for each head and bucket of distances.

A distance is key index minus query index inside a row. Packed segments are
contiguous, so between two tokens of one segment it equals the difference of
their positions in that segment; the model therefore reads no positions.
"""

import numpy as np
from flax import linen as nn
from jax import numpy as jnp
from jaxtyping import Array, Float, Int

from distill_jax.model.layers.layer_config import LayerConfig
from distill_jax.model.layers.parameter import make_parameter


class RelativeBias(nn.Module):
  """The relative position bias of one stack, or of one of its layers.

  Attributes:
    config: sizes.
    is_bidirectional: whether keys behind the query have buckets of their own
      (encoder) or share the bucket of distance 0 (decoder, which masks them).
  """

  config: LayerConfig
  is_bidirectional: bool

  def setup(self):
    self.rel_embedding = make_parameter(
      self,
      "rel_embedding",
      nn.initializers.variance_scaling(1.0, "fan_avg", "uniform"),
      (self.config.num_heads, self.config.relative_attention_num_buckets),
      ("heads", "relpos_buckets"),
    )

  def __call__(
    self, q_length: int, k_length: int
  ) -> Float[Array, "1 heads {q_length} {k_length}"]:
    """Returns the bias of every query and key index.

    Entry (q, k) depends on k - q alone. So each distance is looked up once, in
    a ring of q_length + k_length of them that starts at distance 0 and wraps
    to the negative ones; laying copies of the ring end to end and cutting rows
    one shorter than it shifts each row by one. Unlike a gather of every (q, k),
    that differentiates to sums instead of a scatter into 32 buckets.

    Args:
      q_length: queries.
      k_length: keys.

    Returns:
      [1, heads, q_length, k_length] float32.
    """
    ring_length = q_length + k_length
    distances = np.arange(ring_length)
    distances[k_length:] -= ring_length
    ring = self._look_up(distances)  # [heads, ring_length]
    copies = jnp.tile(ring, (1, q_length))
    rows = copies[:, : q_length * (ring_length - 1)].reshape(
      -1, q_length, ring_length - 1
    )  # [heads, q_length, ring_length - 1]
    return rows[None, :, :, :k_length]

  def compute_step(
    self, step: Int[Array, ""] | int, k_length: int
  ) -> Float[Array, "1 heads 1 {k_length}"]:
    """Returns the bias of the one query at index `step`, possibly traced.

    Args:
      step: index of the query.
      k_length: keys.

    Returns:
      [1, heads, 1, k_length] float32.
    """
    return self._look_up(jnp.arange(k_length) - step)[None, :, None]

  def _look_up(
    self, distances: Int[Array | np.ndarray, "length"]
  ) -> Float[Array, "heads length"]:
    cfg = self.config
    bucket_table = make_bucket_table(
      cfg.relative_attention_num_buckets,
      cfg.relative_attention_max_distance,
      is_bidirectional=self.is_bidirectional,
    )
    farthest = cfg.relative_attention_max_distance
    buckets = jnp.asarray(bucket_table)[
      jnp.clip(distances, -farthest, farthest) + farthest
    ]
    return jnp.take(self.rel_embedding, buckets, axis=1)


def make_bucket_table(
  num_buckets: int, max_distance: int, *, is_bidirectional: bool
) -> Int[np.ndarray, "distances"]:
  """Returns the bucket of every distance from -max_distance to max_distance.

  Short distances have a bucket each, longer ones share buckets whose edges
  grow geometrically up to `max_distance`. The edges are compared in integers:
  a float logarithm rounds differently on different hardware, and several
  distances lie on an edge.

  Args:
    num_buckets: buckets in all; bidirectional attention gives half to the keys
      before the query and half to those behind it.
    max_distance: this and every longer distance share the last bucket.
    is_bidirectional: otherwise keys behind the query get bucket 0.

  Returns:
    [2 * max_distance + 1] int32; the bucket of distance d is at
    d + max_distance.

  Source: Raffel et al. 2020 section 2.1; T5X `layers.py`,
  `_relative_position_bucket`, which takes logarithms.
  """
  one_sided = num_buckets // 2 if is_bidirectional else num_buckets
  num_exact = one_sided // 2
  num_shared = one_sided - num_exact
  before = np.arange(max_distance + 1)
  for distance in range(num_exact, max_distance + 1):
    # distance >= num_exact * (max_distance / num_exact) ** (i / num_shared)
    edges_reached = sum(
      distance**num_shared * num_exact**i
      >= num_exact**num_shared * max_distance**i
      for i in range(1, num_shared)
    )
    before[distance] = num_exact + edges_reached
  behind = before[1:] + one_sided if is_bidirectional else 0 * before[1:]
  return np.concatenate([before[::-1], behind]).astype(np.int32)
