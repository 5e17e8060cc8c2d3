"""Beam search with T5X's length penalty and stopping rule.

Finished sequences are kept apart from live ones, so a finished one neither
takes a live beam's place nor is extended.

Coming from Hugging Face's `generate` (transformers 5.23, `_beam_search`):

- It divides the log-likelihood by length ** length_penalty, 1.0 by default,
  where we divide by ((5 + length) / 6) ** length_penalty, 0.6 by default; both
  lengths count the end token and not the first input. More means longer
  sequences in both. No exponent of ours makes all of its scores, save 0, where
  neither penalises.
- Its `early_stopping` has no counterpart here. "never" stops by our rule: once
  the best live sequence, if it kept its likelihood up to the full length, does
  not beat the worst finished one. False, its default, supposes the length so
  far instead, so it may stop before the best is found; True stops at the first
  `num_beams` finished sequences, whatever might follow.
- An end counts there only among the `num_beams` best candidates of a step, and
  here among twice as many. A sequence cut off at the full length counts as
  finished there; here it is used only where no sequence has ended.

T5X calls `num_beams` num_decodes and `length_penalty` alpha, and has no other
stopping rule than ours unless it is given `min_log_prob` or
`max_decode_step`.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int, PyTree

from distill_jax.decoding.cache import (
  StepFn,
  reorder_rows,
  repeat_rows,
)
from distill_jax.errors import UserError


class _Beams(NamedTuple):
  """Sequences of each row, best first."""

  tokens: Int[Array, "batch beams max_decode_length"]
  scores: Float[Array, "batch beams"]


def beam_decode(
  step_fn: StepFn,
  cache: PyTree,
  *,
  batch_size: int,
  max_decode_length: int,
  num_beams: int,
  length_penalty: float = 0.6,
  eos_id: int = 1,
  pad_id: int = 0,
) -> tuple[
  Int[Array, "{batch_size} {num_beams} {max_decode_length}"],
  Float[Array, "{batch_size} {num_beams}"],
]:
  """Searches for each row's best-scored sequences.

  A finished sequence scores its log-likelihood over ((5 + length) / 6) **
  length_penalty, the end token counted; rows that finish none report their
  live sequences by bare log-likelihood. The search stops once no live sequence
  of any row can still beat that row's worst finished one.

  One beam is not quite greedy decoding: it looks at two candidates a step, so
  it notes an end that comes second too, and goes on past one that comes first;
  of all it noted it returns the best-scored.

  Args:
    step_fn: scores the next token, as `cache.start_decoding` returns it.
    cache: as above, for `batch_size` rows; it is repeated here.
    batch_size: rows.
    max_decode_length: tokens at most, the end token included.
    num_beams: sequences kept a row.
    length_penalty: exponent alpha, at least 0.
    eos_id: ends a sequence.
    pad_id: the first input token, and what follows a sequence's end.

  Returns:
    Tokens [batch_size, num_beams, max_decode_length] int32, `pad_id` behind the
    end token, and scores [batch_size, num_beams] float32, best first (T5X:
    worst first). A row that finished some, but fewer than `num_beams`, has
    padding and the score -inf in the places left over.

  Raises:
    UserError: a setting is out of its range.

  Source: Wu et al. 2016 (arXiv:1609.08144) section 7 for the penalty; T5X
  `decoding.py`, `beam_search`, for everything else, but that it writes -1e7
  for -inf.
  """
  if num_beams < 1:
    raise UserError(f"num_beams is {num_beams}; it must be at least 1.")
  if length_penalty < 0:
    raise UserError(
      f"length_penalty is {length_penalty}; it must be at least 0, or the"
      " search could not tell when to stop."
    )

  def penalty(length):
    return ((5.0 + jnp.float32(length)) / 6.0) ** length_penalty

  def is_running(carry):
    step, live, finished, _ = carry
    # Likelihood only falls, and the penalty divides it by most at full length.
    best_possible = live.scores[:, 0] / penalty(max_decode_length)
    is_settled = finished.scores[:, -1] > best_possible
    return (step < max_decode_length) & ~jnp.all(is_settled)

  def advance(carry):
    step, live, finished, cache = carry
    last = lax.dynamic_index_in_dim(
      live.tokens, jnp.maximum(step - 1, 0), axis=2, keepdims=False
    )  # [batch, beams]; at step 0 the buffer's padding
    logits, cache = step_fn(last.reshape(-1), step, cache)
    log_probs = jax.nn.log_softmax(logits).reshape(batch_size, num_beams, -1)
    candidates, parents, chosen = _rank_extensions(
      live.scores[:, :, None] + log_probs, 2 * num_beams
    )
    tokens = jnp.take_along_axis(live.tokens, parents[:, :, None], axis=1)
    tokens = lax.dynamic_update_slice_in_dim(
      tokens, chosen[:, :, None], step, axis=2
    )  # [batch, 2 * beams, max_decode_length]
    has_ended = chosen == eos_id

    ended_scores = jnp.where(
      has_ended, candidates / penalty(step + 1), -jnp.inf
    )
    finished, _ = _keep_best(
      jnp.concatenate([finished.tokens, tokens], axis=1),
      jnp.concatenate([finished.scores, ended_scores], axis=1),
      num_beams,
    )
    # At most one extension of each beam ends, so of twice as many candidates
    # as beams enough live on.
    live, kept = _keep_best(
      tokens, jnp.where(has_ended, -jnp.inf, candidates), num_beams
    )
    rows = jnp.take_along_axis(parents, kept, axis=1)
    rows += num_beams * jnp.arange(batch_size)[:, None]
    return step + 1, live, finished, reorder_rows(cache, rows.reshape(-1))

  tokens = jnp.full(
    (batch_size, num_beams, max_decode_length), pad_id, jnp.int32
  )
  no_scores = jnp.full((batch_size, num_beams), -jnp.inf, jnp.float32)
  # All beams are equal at first: only one may be extended.
  start = (
    jnp.zeros((), jnp.int32),
    _Beams(tokens, no_scores.at[:, 0].set(0.0)),
    _Beams(tokens, no_scores),
    repeat_rows(cache, num_beams),
  )
  _, live, finished, _ = lax.while_loop(is_running, advance, start)
  has_finished = finished.scores[:, :1] > -jnp.inf
  return (
    jnp.where(has_finished[:, :, None], finished.tokens, live.tokens),
    jnp.where(has_finished, finished.scores, live.scores),
  )


def _rank_extensions(
  scores: Float[Array, "batch beams vocab"], num_kept: int
) -> tuple[
  Float[Array, "batch {num_kept}"],
  Int[Array, "batch {num_kept}"],
  Int[Array, "batch {num_kept}"],
]:
  """Returns score, beam and token of each row's best, best first."""
  batch_size, _, vocab_size = scores.shape
  best, flat_ids = lax.top_k(scores.reshape(batch_size, -1), num_kept)
  return best, flat_ids // vocab_size, flat_ids % vocab_size


def _keep_best(
  tokens: Int[Array, "batch candidates length"],
  scores: Float[Array, "batch candidates"],
  num_kept: int,
) -> tuple[_Beams, Int[Array, "batch {num_kept}"]]:
  """Returns the best-scored sequences and which candidates they were."""
  best, kept = lax.top_k(scores, num_kept)
  kept_tokens = jnp.take_along_axis(tokens, kept[:, :, None], axis=1)
  return _Beams(kept_tokens, best), kept
