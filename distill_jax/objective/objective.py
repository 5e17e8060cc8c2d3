"""The training objective: a sum of named terms over one batch.

Each term is a mean over its own tokens in the global batch. The default is the
paper's: Distilling Step-by-Step, section 3.2, equations 3 and 4,
L = L_label + lambda * L_rationale.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from distill_jax.data.feed import batch as batch_lib
from distill_jax.errors import UserError
from distill_jax.objective import chunks
from distill_jax.objective import terms as terms_lib
from distill_jax.objective.target_tokens import TargetTokens


@dataclasses.dataclass(frozen=True)
class Objective:
  """Sum of weight * term.

  Attributes:
    terms: of different names.
  """

  terms: tuple[terms_lib.Term, ...] = (
    terms_lib.LabelLoss(),
    terms_lib.RationaleLoss(),
    terms_lib.ZLoss(),
  )

  def __post_init__(self):
    # gin gives lists and tuples.
    object.__setattr__(self, "terms", tuple(self.terms))
    for term in self.terms:
      if not isinstance(term, terms_lib.Term):
        raise UserError(
          f"OBJECTIVE_TERMS has {term!r}; it must hold terms, such as"
          " @terms.LabelLoss()."
        )
    names = [term.name for term in self.terms]
    if not names or len(set(names)) < len(names):
      raise UserError(
        f"OBJECTIVE_TERMS has the terms {', '.join(names) or 'none'}; give at"
        " least one, and each a name of its own."
      )

  @property
  def shown_losses(self) -> tuple[str, ...]:
    """Names of the terms' metrics that a line of progress has."""
    return tuple(f"{term.name}_loss" for term in self.terms if term.is_shown)

  def find_weights(self, step: Any) -> dict[str, Any]:
    """Returns the weights of a step by the terms' names.

    Args:
      step: updates made before, int32 scalar.
    """
    return {
      term.name: term.weight(step) if callable(term.weight) else term.weight
      for term in self.terms
    }

  def describe(self) -> dict[str, Any]:
    """Returns what a resumed run must agree on; schedules as they are."""
    described: dict[str, Any] = {}
    for term in self.terms:
      described |= term.describe()
    return described


def make_step_by_step(
  rationale_loss_weight: terms_lib.Weight = 1.0, z_loss: terms_lib.Weight = 0.0
) -> Objective:
  """Returns the paper's objective.

  Args:
    rationale_loss_weight: the paper's lambda.
    z_loss: weight of the mean log(Z)**2 over all target tokens.
  """
  return Objective(
    (
      terms_lib.LabelLoss(),
      terms_lib.RationaleLoss(rationale_loss_weight),
      terms_lib.ZLoss(z_loss),
    )
  )


def count_tokens(
  batch: Mapping[str, Array], objective: Objective
) -> dict[str, Float[Array, ""]]:
  """Counts the target tokens that each term of the loss is a mean over.

  A token counts as much as its loss weight, which is its record's: a term is
  sum(weight * value) / sum(weight).

  Count over the whole global batch, before it is cut into micro-batches: then
  the sum of the micro-batches' losses is the loss of the batch, whatever
  number of tokens each of them holds.

  Args:
    batch: `decoder_loss_weights` and `decoder_task_ids`, [batch, length].
    objective: whose terms.

  Returns:
    By the terms' names: float32 scalars, the sums of the weights; where all
    weights are 1, numbers of tokens.
  """
  return {
    term.name: jnp.sum(term.mask_tokens(batch)) for term in objective.terms
  }


def compute_loss(
  hidden: Float[Array, "batch length embed"],
  compute_logits_fn: Callable[[Array], Array],
  batch: Mapping[str, Array],
  token_counts: Mapping[str, Float[Array, ""]],
  objective: Objective,
  term_weights: Mapping[str, Any],
  chunk_tokens: int | None = None,
) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
  """Computes the loss of one forward pass over rows of any tasks.

  Args:
    hidden: what the logits are made of, compute dtype.
    compute_logits_fn: [batch, some length, embed] -> logits of the same tokens,
      [batch, some length, vocab] float32.
    batch: arrays of the decoder's side, [batch, length, ...] each, among them
      `decoder_target_tokens`, `decoder_loss_weights` and `decoder_task_ids`.
      What belongs to the encoder is left alone.
    token_counts: see `count_tokens`; of the whole batch where this is one of
      its micro-batches.
    objective: the terms.
    term_weights: see `Objective.find_weights`.
    chunk_tokens: tokens whose logits are in memory at once; None: all.

  Returns:
    The loss, and `loss` and each term's, see `Term.name_loss`; the mean over no
    tokens is 0. Float32 scalars.
  """
  values = _compute_values(
    lambda tokens: [term.compute(tokens) for term in objective.terms],
    hidden,
    compute_logits_fn,
    batch,
    chunk_tokens,
  )
  loss, metrics = None, {}
  for term, value in zip(objective.terms, values, strict=True):
    count, weight = token_counts[term.name], term_weights[term.name]
    total = jnp.sum(value * term.mask_tokens(batch))
    mean = total / jnp.where(count > 0, count, 1)
    loss = weight * mean if loss is None else loss + weight * mean
    metrics |= term.name_loss(mean, weight)
  assert loss is not None
  return loss, {"loss": loss} | metrics


def score_targets(
  hidden: Float[Array, "batch length embed"],
  compute_logits_fn: Callable[[Array], Array],
  batch: Mapping[str, Array],
  chunk_tokens: int | None = None,
) -> tuple[Float[Array, "batch"], Float[Array, "batch"]]:
  """Scores the targets of each row, for evaluation.

  Args:
    hidden: as for `compute_loss`.
    compute_logits_fn: as for `compute_loss`.
    batch: `decoder_target_tokens` and `decoder_loss_weights`, [batch, length].
    chunk_tokens: tokens whose logits are in memory at once; None: all.

  Returns:
    Cross-entropy summed over the row's tokens in nats, and the number of those
    tokens, [batch] float32 each.
  """
  (cross_entropy,) = _compute_values(
    lambda tokens: [tokens.cross_entropy],
    hidden,
    compute_logits_fn,
    batch,
    chunk_tokens,
  )
  weights = batch[batch_lib.DECODER_LOSS_WEIGHTS]
  return jnp.sum(cross_entropy * weights, axis=1), jnp.sum(weights, axis=1)


def _compute_values(
  compute_fn: Callable[[TargetTokens], list[Array]],
  hidden: Array,
  compute_logits_fn: Callable[[Array], Array],
  batch: Mapping[str, Array],
  chunk_tokens: int | None,
) -> list[Array]:
  """Returns values of all target tokens, [batch, length] each."""
  places: list[int] = []

  def compute(arrays):
    hidden, batch = arrays
    found = compute_fn(TargetTokens(batch, hidden, compute_logits_fn))
    # Terms that share a value, such as the cross-entropy, share its memory.
    distinct = list({id(value): value for value in found}.values())
    places[:] = [
      next(i for i, other in enumerate(distinct) if other is value)
      for value in found
    ]
    return distinct

  shape = batch[batch_lib.DECODER_TARGET_TOKENS].shape
  of_decoder = {
    name: x
    for name, x in batch.items()
    if not name.startswith("encoder_") and x.shape[:2] == shape
  }
  distinct = chunks.map_chunks(compute, (hidden, of_decoder), chunk_tokens)
  return [distinct[place] for place in places]
