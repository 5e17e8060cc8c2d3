"""Random decoding: temperature, top-k and top-p (nucleus) sampling."""

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int, Key, PyTree

from distill_jax.decoding.cache import StepFn
from distill_jax.decoding.loop import decode_tokens
from distill_jax.errors import UserError


def sample_decode(
  step_fn: StepFn,
  cache: PyTree,
  *,
  rngs: Key[Array, "{batch_size}"],
  batch_size: int,
  max_decode_length: int,
  temperature: float = 1.0,
  top_k: int | None = None,
  top_p: float | None = None,
  eos_id: int = 1,
  pad_id: int = 0,
) -> Int[Array, "{batch_size} {max_decode_length}"]:
  """Decodes each row by drawing its tokens from the model's distribution.

  For several samples of an input, repeat the cache's rows first
  (`cache.repeat_rows`).

  Args:
    step_fn: scores the next token, as `cache.start_decoding` returns it.
    cache: as above.
    rngs: [batch_size] typed keys (`jax.random.key`), one a row: what is drawn
      for a row depends on its own key alone.
    batch_size: rows.
    max_decode_length: tokens at most, the end token included.
    temperature: divides the logits; above 0.
    top_k: draw among so many likeliest tokens; None: among all.
    top_p: then among the likeliest whose probabilities first reach this sum,
      in (0, 1], renormalised after `top_k`; None: no such cut.
    eos_id: ends a row.
    pad_id: the first input token, and what follows a row's end.

  Returns:
    [batch_size, max_decode_length] int32, `pad_id` behind the end token.

  Raises:
    UserError: a setting is out of its range.

  Source: top-p is Holtzman et al. 2020, "The Curious Case of Neural Text
  Degeneration", section 3.1.
  """
  if temperature <= 0:
    raise UserError(
      f"temperature is {temperature}; it must be above 0. For the likeliest"
      " tokens decode greedily."
    )
  if top_k is not None and top_k < 1:
    raise UserError(f"top_k is {top_k}; it must be at least 1, or None.")
  if top_p is not None and not 0 < top_p <= 1:
    raise UserError(
      f"top_p is {top_p}; it is a probability, above 0 and at most 1, or None."
    )

  def choose(logits, step):
    step_rngs = jax.vmap(jax.random.fold_in, in_axes=(0, None))(rngs, step)
    return sample_tokens(step_rngs, logits / temperature, top_k, top_p)

  return decode_tokens(
    step_fn,
    cache,
    choose,
    batch_size=batch_size,
    max_decode_length=max_decode_length,
    eos_id=eos_id,
    pad_id=pad_id,
  )


def sample_tokens(
  rngs: Key[Array, "batch"],
  logits: Float[Array, "batch vocab"],
  top_k: int | None,
  top_p: float | None,
) -> Int[Array, "batch"]:
  """Draws one token a row.

  Args:
    rngs: [batch] keys of this draw.
    logits: [batch, vocab] float32, temperature applied.
    top_k: as in `sample_decode`.
    top_p: as in `sample_decode`.

  Returns:
    [batch] int32.
  """
  draw_each = jax.vmap(jax.random.categorical)
  if top_k is None and top_p is None:
    return draw_each(rngs, logits).astype(jnp.int32)
  vocab_size = logits.shape[-1]
  ranked, ids = lax.top_k(logits, min(top_k or vocab_size, vocab_size))
  if top_p is not None:
    probs = jax.nn.softmax(ranked)
    likelier = jnp.cumsum(probs, axis=-1) - probs
    # Rank 0 has nothing likelier than itself and so always stays.
    ranked = jnp.where(likelier < top_p, ranked, -jnp.inf)
  rank = draw_each(rngs, ranked)  # [batch]
  return jnp.take_along_axis(ids, rank[:, None], axis=1)[:, 0]
