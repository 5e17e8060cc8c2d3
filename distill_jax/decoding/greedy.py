"""Greedy decoding: the likeliest token, every time."""

import jax.numpy as jnp
from jaxtyping import Array, Int, PyTree

from distill_jax.decoding.cache import StepFn
from distill_jax.decoding.loop import decode_tokens


def greedy_decode(
  step_fn: StepFn,
  cache: PyTree,
  *,
  batch_size: int,
  max_decode_length: int,
  eos_id: int = 1,
  pad_id: int = 0,
) -> Int[Array, "{batch_size} {max_decode_length}"]:
  """Decodes each row by its likeliest next token; of equals, the smallest id.

  Args:
    step_fn: scores the next token, as `cache.start_decoding` returns it.
    cache: as above.
    batch_size: rows.
    max_decode_length: tokens at most, the end token included.
    eos_id: ends a row.
    pad_id: the first input token, and what follows a row's end.

  Returns:
    [batch_size, max_decode_length] int32, `pad_id` behind the end token.
  """
  return decode_tokens(
    step_fn,
    cache,
    lambda logits, step: jnp.argmax(logits, axis=-1).astype(jnp.int32),
    batch_size=batch_size,
    max_decode_length=max_decode_length,
    eos_id=eos_id,
    pad_id=pad_id,
  )
