"""The one way a layer makes a parameter: float32, its axes named.

Initialising a model returns these as boxes that hold the names, for whoever
shards them; layers see bare arrays.
"""

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array


def make_parameter(
  module: nn.Module,
  name: str,
  init_fn: nn.initializers.Initializer,
  shape: tuple[int, ...],
  axis_names: tuple[str, ...],
) -> Array:
  """Declares a parameter of `module`, inside its `setup`.

  Args:
    module: the layer.
    name: last part of the parameter's path, as T5X calls it.
    init_fn: draws the initial value.
    shape: its shape.
    axis_names: logical name of each axis.

  Returns:
    The value, float32.
  """
  boxed_init_fn = nn.with_logical_partitioning(init_fn, axis_names)
  # Restored parameters may be numpy's, which no traced index can look into.
  return jnp.asarray(module.param(name, boxed_init_fn, shape, jnp.float32))
