"""The bias that all layers of a stack share, and its gradient's way back.

Layer 1; imports the model's config and constraint. The sum of positions and
masks, [batch, heads, q_length, k_length], is made once for all layers. A fused
kernel gives its gradient in that shape at every layer, and all that is wanted
of it is the sum over the rows. So each layer's is summed at once: else a large
float32 array would be read and written again at every layer.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from distill_jax.model.config import T5Config
from distill_jax.model.constraint import ConstrainFn


def prepare(
  position_bias: Float[Array, "1 heads q_length k_length"] | None,
  mask_bias: Float[Array, "batch 1 q_length k_length"],
  config: T5Config,
  constrain_fn: ConstrainFn,
) -> Callable[[], Float[Array, "batch #heads q_length k_length"]]:
  """Adds the two.

  Args:
    position_bias: [1, heads, q_length, k_length] float32; None where every
      layer has its own.
    mask_bias: [batch, 1, q_length, k_length] float32, without a gradient.
    config: says what attends.
    constrain_fn: says into how many parts the rows are divided.

  Returns:
    What gives a layer the sum, [batch, heads or 1, q_length, k_length]:
    float32, in the compute dtype for cuDNN.
  """
  if position_bias is None:
    return lambda: mask_bias
  bias = position_bias + mask_bias
  if config.attention_implementation == "xla":
    return lambda: bias  # Its gradient is the compiler's to fuse.
  if config.attention_implementation == "cudnn":
    bias = bias.astype(config.dtype)
  bias = lax.stop_gradient(bias)
  # A sum of each part of the rows, so that devices need not meet at each layer.
  shape = (constrain_fn.num_batch_shards, *position_bias.shape[1:])
  positions_of_parts = jnp.broadcast_to(position_bias, shape)
  return lambda: _give_gradient_to(positions_of_parts, bias)


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
