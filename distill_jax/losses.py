"""Token losses, as sums and counts, never means.

Layer 1; imports jax only. What is averaged over what is `distill`'s business.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


def token_cross_entropy(
  logits: Float[Array, "batch length vocab"],
  targets: Int[Array, "batch length"],
) -> tuple[Float[Array, "batch length"], Float[Array, "batch length"]]:
  """Cross-entropy of each token, and its squared log normalizer.

  Args:
    logits: float32; a normalizer in lower precision loses the loss's digits.
    targets: ids of the true tokens.

  Returns:
    Cross-entropy in nats and log(Z)**2, both [batch, length] float32. The
    latter is what a z-loss weighs (Mesh TensorFlow; T5X `losses.py`
    `cross_entropy_with_logits`), to keep logits from drifting.
  """
  log_normalizers = jax.nn.logsumexp(logits, axis=-1)  # [batch, length]
  target_logits = jnp.take_along_axis(logits, targets[..., None], axis=-1)
  cross_entropy = log_normalizers - target_logits[..., 0]  # [batch, length]
  return cross_entropy, jnp.square(log_normalizers)
