"""The paper's objective over one batch that holds label and rationale rows.

Knows no model and no optimizer: logits in, or what they are made of, one scalar
and its parts out.

Source: Distilling Step-by-Step, section 3.2, equations 3 and 4:
L = L_label + lambda * L_rationale, each a mean cross-entropy over its tokens.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping

import jax.numpy as jnp
from jaxtyping import Array, Float

from distill_jax.data.feed import batch as batch_lib
from distill_jax.errors import UserError
from distill_jax.objective import cross_entropy as cross_entropy_lib


@dataclasses.dataclass(frozen=True)
class Objective:
  """Weights of the terms of the loss.

  Attributes:
    rationale_loss_weight: the paper's lambda. The authors' code weighs
      alpha * label + (1 - alpha) * rationale instead, which is
      lambda = (1 - alpha) / alpha up to a constant factor; its alpha of 0.5 is
      the default here, lambda = 1.
    z_loss: weight of the mean log(Z)**2 over all target tokens; T5X pretrains
      with 1e-4, the authors' code has none.
  """

  rationale_loss_weight: float = 1.0
  z_loss: float = 0.0

  def __post_init__(self):
    for field in dataclasses.fields(self):
      value = getattr(self, field.name)
      if not 0 <= value < math.inf:
        raise UserError(
          f"{field.name.upper()} is {value}; a weight is a number, 0 or more."
        )


def count_tokens(
  batch: Mapping[str, Array],
) -> dict[str, Float[Array, ""]]:
  """Counts the target tokens that each term of the loss is a mean over.

  A token counts as much as its loss weight, which is its record's: a term is
  sum(weight * loss) / sum(weight).

  Count over the whole global batch, before it is cut into micro-batches: then
  the sum of the micro-batches' losses is the loss of the batch, whatever
  number of tokens each of them holds.

  Args:
    batch: `decoder_loss_weights` and `decoder_task_ids`, [batch, length].

  Returns:
    `label`, `rationale` and `all`: float32 scalars, the sums of the weights;
    where all weights are 1, numbers of tokens.
  """
  return {
    name: jnp.sum(weights) for name, weights in _task_weights(batch).items()
  }


def compute_loss(
  logits: Float[Array, "batch length vocab"],
  batch: Mapping[str, Array],
  token_counts: Mapping[str, Float[Array, ""]],
  objective: Objective,
) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
  """Computes the loss of one forward pass over label and rationale rows.

  Args:
    logits: float32, of the decoder.
    batch: `decoder_target_tokens`, `decoder_loss_weights` and
      `decoder_task_ids`, [batch, length].
    token_counts: see `count_tokens`; of the whole batch where this is one of
      its micro-batches.
    objective: weights of the terms.

  Returns:
    The loss, and its parts `loss`, `label_loss`, `rationale_loss` (the mean
    cross-entropies, unweighted; 0 over no tokens) and `z_loss` (weighted),
    float32 scalars.
  """
  token_losses = cross_entropy_lib.token_cross_entropy(
    logits, batch[batch_lib.DECODER_TARGET_TOKENS]
  )
  return _sum_terms(token_losses, batch, token_counts, objective)


def compute_chunked_loss(
  hidden: Float[Array, "batch length embed"],
  compute_logits_fn: Callable[[Array], Array],
  batch: Mapping[str, Array],
  token_counts: Mapping[str, Float[Array, ""]],
  objective: Objective,
  chunk_tokens: int | None,
) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
  """Computes the same without the logits of all tokens at once.

  Args:
    hidden: what the logits are made of, compute dtype.
    compute_logits_fn: makes them, [batch, some length, vocab] float32.
    batch: as for `compute_loss`.
    token_counts: likewise.
    objective: likewise.
    chunk_tokens: how many tokens have their logits at once; None: all.

  Returns:
    As `compute_loss`.
  """
  token_losses = _compute_token_losses(
    hidden, compute_logits_fn, batch, chunk_tokens
  )
  return _sum_terms(token_losses, batch, token_counts, objective)


def score_targets(
  logits: Float[Array, "batch length vocab"], batch: Mapping[str, Array]
) -> tuple[Float[Array, "batch"], Float[Array, "batch"]]:
  """Scores the targets of each row, for evaluation.

  Args:
    logits: float32, of the decoder.
    batch: `decoder_target_tokens` and `decoder_loss_weights`, [batch, length].

  Returns:
    Cross-entropy summed over the row's tokens in nats, and the number of those
    tokens, [batch] float32 each.
  """
  token_losses = cross_entropy_lib.token_cross_entropy(
    logits, batch[batch_lib.DECODER_TARGET_TOKENS]
  )
  return _sum_rows(token_losses, batch)


def score_targets_in_chunks(
  hidden: Float[Array, "batch length embed"],
  compute_logits_fn: Callable[[Array], Array],
  batch: Mapping[str, Array],
  chunk_tokens: int | None,
) -> tuple[Float[Array, "batch"], Float[Array, "batch"]]:
  """Computes the same without the logits of all tokens at once.

  Args:
    hidden: what the logits are made of, compute dtype.
    compute_logits_fn: makes them, [batch, some length, vocab] float32.
    batch: as for `score_targets`.
    chunk_tokens: how many tokens have their logits at once; None: all.

  Returns:
    As `score_targets`.
  """
  token_losses = _compute_token_losses(
    hidden, compute_logits_fn, batch, chunk_tokens
  )
  return _sum_rows(token_losses, batch)


def _compute_token_losses(hidden, compute_logits_fn, batch, chunk_tokens):
  """Returns cross-entropies and squared normalizers, [batch, length] each."""
  targets = batch[batch_lib.DECODER_TARGET_TOKENS]
  if chunk_tokens is None:
    return cross_entropy_lib.token_cross_entropy(
      compute_logits_fn(hidden), targets
    )
  return cross_entropy_lib.chunked_token_cross_entropy(
    hidden, targets, compute_logits_fn, chunk_tokens
  )


def _task_weights(batch):
  """Loss weights of each term, [batch, length] float32 each."""
  weights = batch[batch_lib.DECODER_LOSS_WEIGHTS]
  task_ids = batch[batch_lib.DECODER_TASK_IDS]
  return {
    "label": weights * (task_ids == batch_lib.LABEL_TASK_ID),
    "rationale": weights * (task_ids == batch_lib.RATIONALE_TASK_ID),
    "all": weights,
  }


def _sum_rows(token_losses, batch):
  """Sums the cross-entropy of each row's tokens, and counts them."""
  cross_entropy, _ = token_losses
  weights = batch[batch_lib.DECODER_LOSS_WEIGHTS]
  return jnp.sum(cross_entropy * weights, axis=1), jnp.sum(weights, axis=1)


def _sum_terms(token_losses, batch, token_counts, objective):
  """Weighs the losses of the tokens, [batch, length] each, and adds up."""
  cross_entropy, squared_normalizers = token_losses
  weights = _task_weights(batch)

  def compute_mean(values, name):
    count = token_counts[name]
    total = jnp.sum(values * weights[name])
    return total / jnp.where(count > 0, count, 1)

  label_loss = compute_mean(cross_entropy, "label")
  rationale_loss = compute_mean(cross_entropy, "rationale")
  z_loss = objective.z_loss * compute_mean(squared_normalizers, "all")
  loss = label_loss + objective.rationale_loss_weight * rationale_loss + z_loss
  return loss, {
    "loss": loss,
    "label_loss": label_loss,
    "rationale_loss": rationale_loss,
    "z_loss": z_loss,
  }
