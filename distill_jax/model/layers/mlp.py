"""The feed-forward block of T5 1.0 (one projection) and 1.1 (gated)."""

import functools
import math

from flax import linen as nn
from jaxtyping import Array, Float

from distill_jax.model.layers.layer_config import LayerConfig
from distill_jax.model.layers.linear import Linear
from distill_jax.partitioning.constraint import ConstrainFn, leave_free

_ACTIVATION_FNS = {
  "relu": nn.relu,
  "gelu": functools.partial(nn.gelu, approximate=True),
  "linear": lambda x: x,
}


class MLP(nn.Module):
  """Product of activated projections, projected back.

  Source: Shazeer 2020, "GLU Variants Improve Transformer", for the gated form.
  """

  config: LayerConfig
  constrain_fn: ConstrainFn = leave_free

  def setup(self):
    cfg = self.config
    projections = [
      Linear(cfg.embed_dim, cfg.mlp_dim, ("embed", "mlp"))
      for _ in cfg.mlp_activations
    ]
    # Flax names a list wi_0, wi_1: T5X's names, as is the bare "wi" of 1.0.
    self.wi = projections if len(projections) > 1 else projections[0]
    self.wo = Linear(cfg.mlp_dim, cfg.embed_dim, ("mlp", "embed"))
    self.dropout = nn.Dropout(cfg.dropout_rate, broadcast_dims=(-2,))

  def __call__(
    self, x: Float[Array, "batch length embed"], *, enable_dropout: bool
  ) -> Float[Array, "batch length embed"]:
    """Maps [batch, length, embed] to the same shape, compute dtype."""
    projections = self.wi if isinstance(self.wi, (list, tuple)) else [self.wi]
    hidden = math.prod(
      _ACTIVATION_FNS[name](projection(x))
      for name, projection in zip(
        self.config.mlp_activations, projections, strict=True
      )
    )  # [batch, length, mlp]
    hidden = self.dropout(hidden, deterministic=not enable_dropout)
    hidden = self.constrain_fn(hidden, ("batch", "length", "mlp"))
    return self.wo(hidden)
