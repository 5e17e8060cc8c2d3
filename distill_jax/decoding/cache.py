"""What decoding starts from, and how its rows are repeated and reordered.

Layer 2; imports the model. The strategies beside it see a step function and a
cache, never the model or its parameters.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PyTree

from distill_jax.model.decoder import DecodeCache
from distill_jax.model.t5 import T5

# (tokens [batch] int32, step int32, cache) -> (logits [batch, vocab] float32
# of the token at index `step`, cache). `tokens` are those chosen last.
StepFn = Callable[
  [Int[Array, "batch"], Int[Array, ""], PyTree],
  tuple[Float[Array, "batch vocab"], PyTree],
]


def start_decoding(
  model: T5,
  params: Any,
  encoder_input_tokens: Int[Array, "batch encoder_length"],
  encoder_segment_ids: Int[Array, "batch encoder_length"],
  max_decode_length: int,
  decoder_model: T5 | None = None,
  decoder_params: Any = None,
) -> tuple[StepFn, DecodeCache]:
  """Encodes the inputs and returns what every decoding strategy takes.

  Args:
    model: the model.
    params: its parameter tree, unboxed.
    encoder_input_tokens: [batch, encoder_length] int32.
    encoder_segment_ids: [batch, encoder_length] int32, 0 on padding. Rows are
      not packed.
    max_decode_length: tokens to make room for.
    decoder_model: the same model, bound to where the decoder's activations lie
      while it decodes; None: `model`.
    decoder_params: those of the decoder and of the embedding, as they lie while
      it decodes, see `decoding.layout`; None: of `params`.

  Returns:
    The step function and the cache for `batch` rows.
  """
  decoding_model = decoder_model or model
  decoding_params = params if decoder_params is None else decoder_params

  def run(method, *args) -> Any:
    return decoding_model.apply(
      {"params": decoding_params}, *args, method=method
    )

  encoded = model.apply(
    {"params": params},
    encoder_input_tokens,
    encoder_segment_ids,
    enable_dropout=False,
    method=T5.encode,
  )
  cache = run(
    T5.start_decoding, encoded, encoder_segment_ids, max_decode_length
  )
  return functools.partial(run, T5.decode_step), cache


def repeat_rows(cache: PyTree, num_copies: int) -> PyTree:
  """Returns a cache of batch * num_copies rows, a row's copies adjacent.

  Args:
    cache: of `batch` rows.
    num_copies: copies of each, for beams or for several samples.

  Returns:
    The larger cache.
  """
  return jax.tree.map(lambda leaf: jnp.repeat(leaf, num_copies, axis=0), cache)


def reorder_rows(cache: DecodeCache, rows: Int[Array, "batch"]) -> DecodeCache:
  """Returns a cache whose row i continues row `rows[i]`.

  Only what decoding wrote moves. Rows change places among the copies of one
  input, whose encoder side is the same.

  Args:
    cache: of `batch` rows.
    rows: [batch] int32, each a copy of the same input as the row it goes to.

  Returns:
    A cache of the same shape.
  """
  return dataclasses.replace(
    cache,
    self_attention=jax.tree.map(lambda leaf: leaf[rows], cache.self_attention),
  )
