"""One token after another until every row has ended.

How a token is chosen is an argument; search over several continuations is
`beam`.
"""

from collections.abc import Callable

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int, PyTree

from distill_jax.decoding.cache import StepFn

# (logits [batch, vocab] float32, step int32) -> tokens [batch] int32.
ChooseFn = Callable[
  [Float[Array, "batch vocab"], Int[Array, ""]], Int[Array, "batch"]
]


def decode_tokens(
  step_fn: StepFn,
  cache: PyTree,
  choose_fn: ChooseFn,
  *,
  batch_size: int,
  max_decode_length: int,
  eos_id: int,
  pad_id: int,
) -> Int[Array, "{batch_size} {max_decode_length}"]:
  """Decodes every row to its end, or to `max_decode_length`.

  Args:
    step_fn: scores the next token.
    cache: what `step_fn` starts from.
    choose_fn: picks the next token from its scores.
    batch_size: rows.
    max_decode_length: tokens at most, the end token included.
    eos_id: ends a row.
    pad_id: the first input token, and what follows a row's end.

  Returns:
    [batch_size, max_decode_length] int32, `pad_id` behind the end token.
  """

  def is_running(carry):
    step, _, has_ended, _, _ = carry
    return (step < max_decode_length) & ~jnp.all(has_ended)

  def advance(carry):
    step, last, has_ended, tokens, cache = carry
    logits, cache = step_fn(last, step, cache)
    chosen = jnp.where(has_ended, pad_id, choose_fn(logits, step))
    tokens = lax.dynamic_update_slice_in_dim(
      tokens, chosen[:, None], step, axis=1
    )
    return step + 1, chosen, has_ended | (chosen == eos_id), tokens, cache

  start = (
    jnp.zeros((), jnp.int32),
    jnp.full(batch_size, pad_id, jnp.int32),
    jnp.zeros(batch_size, bool),
    jnp.full((batch_size, max_decode_length), pad_id, jnp.int32),
    cache,
  )
  _, _, _, tokens, _ = lax.while_loop(is_running, advance, start)
  return tokens
