"""What decoding starts from, and how its rows are repeated and reordered.

The strategies beside it see a step function and a cache, never the model or its
parameters.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Int, PyTree

# (tokens [batch] int32, step int32, cache) -> (logits [batch, vocab] float32
# of the token at index `step`, cache). `tokens` are those chosen last.
StepFn = Callable[
  [Int[Array, "batch"], Int[Array, ""], PyTree],
  tuple[Float[Array, "batch vocab"], PyTree],
]


def start_decoding(
  model: nn.Module,
  params: Any,
  inputs: Mapping[str, Array],
  max_decode_length: int,
  decoder_model: nn.Module | None = None,
  decoder_params: Any = None,
) -> tuple[StepFn, PyTree]:
  """Encodes the inputs and returns what every decoding strategy takes.

  Args:
    model: a family's, see `model.registry`.
    params: its parameter tree, unboxed.
    inputs: `input_keys` of its batch layout, [batch, length] each. Rows are not
      packed.
    max_decode_length: tokens to make room for.
    decoder_model: the same model, bound to where the decoder's activations lie
      while it decodes; None: `model`.
    decoder_params: those of the family's decoding modules, as they lie while it
      decodes, see `decoding.layout`; None: of `params`.

  Returns:
    The step function and the cache for `batch` rows.
  """
  decoding_model = decoder_model or model
  decoding_params = params if decoder_params is None else decoder_params

  def run(method, *args) -> Any:
    return decoding_model.apply(
      {"params": decoding_params}, *args, method=method
    )

  encoded: Any = model.apply(
    {"params": params}, dict(inputs), method="encode_inputs"
  )
  cache = run("start_decoding", *encoded, max_decode_length)
  return functools.partial(run, "decode_step"), cache


def repeat_rows(cache: PyTree, num_copies: int) -> PyTree:
  """Returns a cache of batch * num_copies rows, a row's copies adjacent.

  Args:
    cache: of `batch` rows.
    num_copies: copies of each, for beams or for several samples.

  Returns:
    The larger cache.
  """
  return jax.tree.map(lambda leaf: jnp.repeat(leaf, num_copies, axis=0), cache)


def reorder_rows(cache: PyTree, rows: Int[Array, "batch"]) -> PyTree:
  """Returns a cache whose row i continues row `rows[i]`.

  A cache with a method `reorder` moves no more than it must.

  Args:
    cache: of `batch` rows.
    rows: [batch] int32, each a copy of the same input as the row it goes to.

  Returns:
    A cache of the same shape.
  """
  if hasattr(cache, "reorder"):
    return cache.reorder(rows)
  return jax.tree.map(lambda leaf: leaf[rows], cache)
