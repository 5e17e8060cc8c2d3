"""Attention's two products and the softmax between them, in four ways.

"xla" is written out here and runs everywhere. "cudnn" and "tokamax" are
libraries' kernels for GPUs, "pallas_tpu" one for TPUs: none of them keeps the
logits of all queries and keys for the backward pass. T5's kind of attention
suits them: no scale, one additive bias for positions, and no dropout in here,
see `attention`.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from distill_jax.errors import UserError
from distill_jax.model.layers import masks
from distill_jax.partitioning.constraint import ConstrainFn, count_parts

# The least block of the TPU kernel, in queries and in keys.
_TPU_BLOCK = 128
# Hopper copies whole 16 bytes, and a mask has a byte a key.
_TOKAMAX_BLOCK = 16
# Of keys that only fill a block: less than a mask's bias, so that even a query
# without any key of its own gives them nothing.
_TPU_FILLED = -2e10

_QUERY_NAMES = ("batch", "length", "heads", "kv")
_KEY_NAMES = ("batch", "heads", "length", "kv")
_BIAS_NAMES = ("batch", "heads", "length", "length")
_MASK_NAMES = ("batch", None, "length", "length")


class AttentionBias(NamedTuple):
  """What is added to the logits, and who may attend to whom.

  `shared_bias` decides whether masks are added too.

  Attributes:
    added: [rows, heads or 1, q_length, k_length] float32, or the compute dtype,
      where rows are those of the batch, 1 for all of them, or 1 for each part
      of the batch that has devices of its own. None: nothing.
    allowed: [batch, 1, q_length, k_length] bool. None: `added` says it, which
      Tokamax' kernel does not take.
  """

  added: Float[Array, "rows #heads q_length k_length"] | None
  allowed: Bool[Array, "batch 1 q_length k_length"] | None = None

  def plus(
    self, position_bias: Float[Array, "1 heads q_length k_length"]
  ) -> "AttentionBias":
    """Adds a layer's own positions, [1, heads, q_length, k_length] float32."""
    if self.added is not None:
      position_bias = position_bias + self.added
    return self._replace(added=position_bias)


def attend(
  query: Float[Array, "batch q_length heads head_dim"],
  key: Float[Array, "batch heads k_length head_dim"],
  value: Float[Array, "batch heads k_length head_dim"],
  bias: AttentionBias,
  *,
  implementation: str,
  constrain_fn: ConstrainFn,
) -> Float[Array, "batch q_length heads head_dim"]:
  """Weighs values by the softmax of query times key plus bias.

  Args:
    query: [batch, q_length, heads, head_dim], compute dtype.
    key: [batch, heads, k_length, head_dim], as above.
    value: as `key`.
    bias: of these queries and keys.
    implementation: "xla", "cudnn", "tokamax" or "pallas_tpu". A single query,
      when decoding, is always left to XLA: it has no logits to save.
    constrain_fn: runs Pallas' kernels on each device's part.

  Returns:
    [batch, q_length, heads, head_dim], compute dtype. Logits and softmax are
    float32.

  Raises:
    UserError: the kernel's library is not there, or takes no such arrays.
  """
  if implementation == "xla" or query.shape[1] == 1:
    return _attend_xla(query, key, value, _repeat_parts(bias, query.shape[0]))
  if implementation == "cudnn":
    return _attend_cudnn(query, key, value, bias)
  if implementation == "tokamax":
    return _attend_tokamax(query, key, value, bias, constrain_fn)
  attend_shard = constrain_fn.map_shards(
    _attend_pallas_tpu,
    (_QUERY_NAMES, _KEY_NAMES, _KEY_NAMES, _BIAS_NAMES),
    _QUERY_NAMES,
  )
  shape = (query.shape[0], query.shape[2], query.shape[1], key.shape[2])
  return attend_shard(
    query, key, value, jnp.broadcast_to(_sum_bias(bias), shape)
  )


def _repeat_parts(bias: AttentionBias, num_rows: int) -> AttentionBias:
  """Gives every row what is added to those of its part."""
  if bias.added is None or bias.added.shape[0] in (1, num_rows):
    return bias
  repeats = num_rows // bias.added.shape[0]
  return bias._replace(added=jnp.repeat(bias.added, repeats, axis=0))


def _sum_bias(bias: AttentionBias) -> Float[Array, "..."]:
  """Returns positions and mask as one."""
  if bias.allowed is None:
    assert bias.added is not None, "Nothing says who may attend to whom."
    return bias.added
  mask_bias = masks.to_bias(bias.allowed)
  return mask_bias if bias.added is None else bias.added + mask_bias


def _attend_xla(query, key, value, bias):
  logits = jnp.einsum(
    "bqhd,bhkd->bhqk", query, key, preferred_element_type=jnp.float32
  )  # [batch, heads, q_length, k_length]
  logits += _sum_bias(bias).astype(jnp.float32)
  probs = jax.nn.softmax(logits).astype(query.dtype)
  return jnp.einsum("bhqk,bhkd->bqhd", probs, value)


def _attend_cudnn(query, key, value, bias):
  added, allowed = bias
  if added is None and jax.__version_info__ < (0, 11):
    # Earlier JAX asks cuDNN for a mask's gradient, which wants all heads.
    added, allowed = masks.to_bias(allowed), None
  if added is not None:
    # Of every row and head, as masks make it.
    shape = (query.shape[0], query.shape[2], *added.shape[2:])
    added = jnp.broadcast_to(added, shape).astype(query.dtype)
  try:
    return jax.nn.dot_product_attention(
      query,
      key.swapaxes(1, 2),
      value.swapaxes(1, 2),
      added,
      # Of a mask alone it computes no gradient.
      allowed,
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


def _attend_tokamax(query, key, value, bias, constrain_fn):
  """Runs Tokamax' kernel; the library sums the bias' gradient over rows."""
  arrays = [query, key, value, bias.allowed]
  names = [_QUERY_NAMES, _KEY_NAMES, _KEY_NAMES, _MASK_NAMES]
  if bias.added is not None:
    num_parts = count_parts(query.shape[0], constrain_fn)
    shape = (num_parts, query.shape[2], *bias.added.shape[2:])
    arrays.append(jnp.broadcast_to(bias.added, shape).astype(query.dtype))
    names.append(_BIAS_NAMES)
  return constrain_fn.map_shards(_run_tokamax, names, _QUERY_NAMES)(*arrays)


def _run_tokamax(query, key, value, allowed, added=None):
  """Runs Tokamax' kernel of one device.

  Raises:
    UserError: Tokamax is not installed, or the device is none of its GPUs.
  """
  try:
    # It takes seconds to import, and only Python 3.12 and later have it.
    import tokamax  # pyright: ignore[reportMissingImports]
  except ImportError as error:
    raise UserError(
      "ATTENTION_IMPLEMENTATION is 'tokamax', which cannot be imported:"
      f" {error}. Install it by `pip install .[tokamax]` in Python 3.12 or"
      " later, or give 'cudnn'."
    ) from error
  device = jax.devices()[0]
  capability = float(getattr(device, "compute_capability", 0))
  # Its forward kernel would run on older ones, and its gradients not.
  if not 9 <= capability < 11:
    raise UserError(
      "ATTENTION_IMPLEMENTATION is 'tokamax', which needs a Hopper or Blackwell"
      " GPU, of compute capability 9 or 10, where it is compiled; here is"
      f" {device.device_kind}, {capability}. Give 'cudnn' or 'xla'."
    )
  return _run_in_blocks(
    tokamax.dot_product_attention, query, key, value, allowed, added
  )


# Jitted, so that layers of equal shapes are traced and lowered once: tracing
# the kernels takes a second or two.
@functools.partial(jax.jit, static_argnums=0)
def _run_in_blocks(attend_fn, query, key, value, allowed, added):
  """Runs Tokamax' function, lengths filled up to whole blocks."""
  q_length, k_length = allowed.shape[2:]
  q_filling = (0, -q_length % _TOKAMAX_BLOCK)
  k_filling = (0, -k_length % _TOKAMAX_BLOCK)
  key, value = (
    jnp.pad(x.swapaxes(1, 2), ((0, 0), k_filling, (0, 0), (0, 0)))
    for x in (key, value)
  )  # [batch, filled k_length, heads, head_dim]
  added, allowed = (
    None if x is None else jnp.pad(x, ((0, 0), (0, 0), q_filling, k_filling))
    for x in (added, allowed)
  )  # [.., .., filled q_length, filled k_length]
  attended = attend_fn(
    jnp.pad(query, ((0, 0), q_filling, (0, 0), (0, 0))),
    key,
    value,
    added,
    allowed,
    scale=1.0,
    implementation="mosaic",
  )  # [batch, filled q_length, heads, head_dim]
  return attended[:, :q_length]


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
    constant_values=_TPU_FILLED,
  )
  attended = flash_attention.flash_attention(
    fill(query.swapaxes(1, 2), q_filling),
    fill(key, k_filling),
    fill(value, k_filling),
    bias,
  )
  return attended.swapaxes(1, 2)[:, :q_length]
