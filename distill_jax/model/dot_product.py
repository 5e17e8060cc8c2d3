"""Attention's two products and the softmax between them, in three ways.

Layer 1; imports errors and the model's constraint. "xla" is written out here
and runs everywhere. "cudnn" and "pallas_tpu" are libraries' kernels for GPUs
and TPUs that never hold the logits of all queries and keys. T5's kind of
attention suits them: no scale, one additive bias for positions and masks, and
no dropout in here, see `attention`.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from distill_jax.errors import UserError
from distill_jax.model.constraint import ConstrainFn

# The least block of the TPU kernel, in queries and in keys.
_TPU_BLOCK = 128
# Of keys that only fill a block: less than a mask's bias, so that even a query
# without any key of its own gives them nothing.
_FILLED = -2e10


def attend(
  query: Float[Array, "batch q_length heads head_dim"],
  key: Float[Array, "batch heads k_length head_dim"],
  value: Float[Array, "batch heads k_length head_dim"],
  bias: Float[Array, "#batch #heads q_length k_length"],
  *,
  implementation: str,
  constrain_fn: ConstrainFn,
) -> Float[Array, "batch q_length heads head_dim"]:
  """Weighs values by the softmax of query times key plus bias.

  Args:
    query: [batch, q_length, heads, head_dim], compute dtype.
    key: [batch, heads, k_length, head_dim], likewise.
    value: as `key`.
    bias: [batch or 1, heads or 1, q_length, k_length] float32, or the compute
      dtype, in which cuDNN takes it and gives its gradient.
    implementation: "xla", "cudnn" or "pallas_tpu". A single query, when
      decoding, is always left to XLA: it has no logits to save.
    constrain_fn: runs the TPU kernel on each device's part.

  Returns:
    [batch, q_length, heads, head_dim], compute dtype. Logits and softmax are
    float32.

  Raises:
    UserError: cuDNN is not there, or takes no such arrays.
  """
  if implementation == "xla" or query.shape[1] == 1:
    return _attend_xla(query, key, value, bias)
  batch, heads = query.shape[0], query.shape[2]
  bias = jnp.broadcast_to(bias, (batch, heads, *bias.shape[2:]))
  if implementation == "cudnn":
    return _attend_cudnn(query, key, value, bias)
  query_names = ("batch", "length", "heads", "kv")
  key_names = ("batch", "heads", "length", "kv")
  attend_shard = constrain_fn.map_shards(
    _attend_pallas_tpu,
    (query_names, key_names, key_names, ("batch", "heads", "length", "length")),
    query_names,
  )
  return attend_shard(query, key, value, bias)


def _attend_xla(query, key, value, bias):
  logits = jnp.einsum(
    "bqhd,bhkd->bhqk", query, key, preferred_element_type=jnp.float32
  )  # [batch, heads, q_length, k_length]
  logits += bias.astype(jnp.float32)
  probs = jax.nn.softmax(logits).astype(query.dtype)
  return jnp.einsum("bhqk,bhkd->bqhd", probs, value)


def _attend_cudnn(query, key, value, bias):
  try:
    return jax.nn.dot_product_attention(
      query,
      key.swapaxes(1, 2),
      value.swapaxes(1, 2),
      bias.astype(query.dtype),
      scale=1.0,
      implementation="cudnn",
    )
  # Its subclass for arrays that cuDNN does not take is caught here too.
  except RuntimeError as error:
    raise UserError(
      f"ATTENTION_IMPLEMENTATION is 'cudnn', which cannot attend from"
      f" {query.shape[1]} to {key.shape[2]} tokens here: {error} Give even"
      " TASK_FEATURE_LENGTHS and a GPU with cuDNN, or 'xla'."
    ) from error


def _attend_pallas_tpu(query, key, value, bias):
  """Runs JAX's TPU kernel, lengths filled up to whole blocks."""
  # Pallas takes half a second to import.
  from jax.experimental.pallas.ops.tpu import flash_attention

  q_length, k_length = bias.shape[2:]
  q_filling, k_filling = -q_length % _TPU_BLOCK, -k_length % _TPU_BLOCK

  def fill(x, filling):  # [batch, heads, length, head_dim]
    return jnp.pad(x, ((0, 0), (0, 0), (0, filling), (0, 0)))

  bias = jnp.pad(
    fill(bias, q_filling),
    ((0, 0), (0, 0), (0, 0), (0, k_filling)),
    constant_values=_FILLED,
  )
  attended = flash_attention.flash_attention(
    fill(query.swapaxes(1, 2), q_filling),
    fill(key, k_filling),
    fill(value, k_filling),
    bias,
  )
  return attended.swapaxes(1, 2)[:, :q_length]
