import jax
import jax.numpy as jnp
from flax import linen as nn

from distill_jax.model.layers.parameter import make_parameter


class _Layer(nn.Module):
  def setup(self):
    self.scale = make_parameter(
      self, "scale", nn.initializers.ones, (2, 3), ("embed", "mlp")
    )

  def __call__(self, x):
    return x * self.scale


def test_a_box_holds_the_names_and_the_layer_sees_the_array():
  output, variables = _Layer().init_with_output(
    jax.random.key(0), jnp.full((2, 3), 2.0)
  )
  box = variables["params"]["scale"]
  assert box.names == ("embed", "mlp")
  assert box.value.dtype == jnp.float32
  assert (output == 2.0).all()
