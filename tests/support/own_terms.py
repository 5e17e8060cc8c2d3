"""Terms of the loss that a user adds: one on logits, one on hidden states."""

import dataclasses

import jax
import jax.numpy as jnp

from distill_jax.objective import terms


@dataclasses.dataclass(frozen=True)
class LabelSmoothing(terms.Term):
  """Cross-entropy against the uniform distribution over the vocabulary."""

  name: str = "smoothing"

  def compute(self, tokens):
    return tokens.log_normalizers - jnp.mean(tokens.logits, axis=-1)


@dataclasses.dataclass(frozen=True)
class HiddenNorm(terms.Term):
  """Mean square of the decoder's last hidden state, of label tokens."""

  name: str = "hidden_norm"
  tasks: tuple[str, ...] | None = ("label",)

  def compute(self, tokens):
    hidden = tokens.hidden.astype(jnp.float32)
    return jnp.mean(jax.lax.square(hidden), axis=-1)
