"""T5's layer norm: a scale, no mean, no bias."""

import jax.numpy as jnp
from flax import linen as nn
from jax import lax
from jaxtyping import Array, Float

from distill_jax.model.layers.layer_config import LayerConfig
from distill_jax.model.layers.parameter import make_parameter


class RMSNorm(nn.Module):
  """Divides by the root mean square, then scales.

  Source: Raffel et al. 2020 section 2.1, "a simplified version of layer
  normalization where the activations are only rescaled".
  """

  config: LayerConfig

  def setup(self):
    self.scale = make_parameter(
      self,
      "scale",
      nn.initializers.ones,
      (self.config.embed_dim,),
      ("embed",),
    )

  def __call__(
    self, x: Float[Array, "batch length embed"]
  ) -> Float[Array, "batch length embed"]:
    """Normalises the last axis, with statistics in float32.

    Args:
      x: [batch, length, embed], compute dtype.

    Returns:
      [batch, length, embed], compute dtype.
    """
    x32 = x.astype(jnp.float32)
    mean_square = jnp.mean(lax.square(x32), axis=-1, keepdims=True)
    inverse = lax.rsqrt(mean_square + self.config.layer_norm_epsilon)
    return (x32 * inverse * self.scale[None, None]).astype(x.dtype)
