"""The bias that all layers of a stack share, and its gradient's way back.

Most kernels take the sum of positions and masks, [batch, heads, q_length,
k_length], which is made once for all layers. They give its gradient in that
shape at every layer, and all that is wanted of it is the sum over the rows. So
each layer's is summed at once: else a large float32 array would be read and
written again at every layer. Tokamax takes positions and masks apart, and sums
by itself.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float

from distill_jax.model.layers import masks
from distill_jax.model.layers.dot_product import AttentionBias
from distill_jax.model.layers.layer_config import GPU_ATTENTION, LayerConfig
from distill_jax.partitioning.constraint import ConstrainFn, count_parts


def prepare(
  position_bias: Float[Array, "1 heads q_length k_length"] | None,
  mask: Bool[Array, "batch 1 q_length k_length"],
  config: LayerConfig,
  constrain_fn: ConstrainFn,
) -> Callable[[], AttentionBias]:
  """Brings the two into the form that the kernel wants.

  Args:
    position_bias: [1, heads, q_length, k_length] float32; None where there is
      none, or every layer has its own.
    mask: [batch, 1, q_length, k_length] bool: who may attend to whom.
    config: says what attends.
    constrain_fn: says into how many parts the rows are divided.

  Returns:
    What gives it to a layer.
  """
  implementation = config.attention_implementation
  if position_bias is None:
    if implementation in GPU_ATTENTION:
      return lambda: AttentionBias(None, mask)
    mask_bias = masks.to_bias(mask)
    return lambda: AttentionBias(mask_bias)
  bias = position_bias + masks.to_bias(mask)
  if implementation == "xla":
    # Its gradient is the compiler's to fuse.
    return lambda: AttentionBias(bias)
  # A sum of each part of the rows, so that devices need not meet at each layer.
  num_parts = count_parts(mask.shape[0], constrain_fn)
  positions_of_parts = jnp.broadcast_to(
    position_bias, (num_parts, *position_bias.shape[1:])
  )
  if implementation == "tokamax":
    return lambda: AttentionBias(positions_of_parts, mask)
  if implementation == "cudnn":
    bias = bias.astype(config.dtype)
  bias = lax.stop_gradient(bias)
  return lambda: AttentionBias(_give_gradient_to(positions_of_parts, bias))


@jax.custom_vjp
def _give_gradient_to(positions_of_parts, bias):
  """Returns `bias`, whose gradient goes to another array.

  Args:
    positions_of_parts: [parts, heads, q_length, k_length] float32: gets the sum
      over the rows of each part.
    bias: [batch, heads, q_length, k_length].
  """
  del positions_of_parts
  return bias


def _forward(positions_of_parts, bias):
  return bias, positions_of_parts.shape[0]


def _backward(num_parts, gradient):
  parts = gradient.reshape(num_parts, -1, *gradient.shape[1:])
  return jnp.sum(parts, axis=1, dtype=jnp.float32), None


_give_gradient_to.defvjp(_forward, _backward)
