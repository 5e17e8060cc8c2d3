"""A matrix product without bias, the only kind T5 has."""

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from distill_jax.model.layers.parameter import make_parameter

# T5X draws attention kernels from the plain normal distribution and every
# other kernel from the truncated one.
normal_init = nn.initializers.variance_scaling(1.0, "fan_in", "normal")
truncated_init = nn.initializers.variance_scaling(
  1.0, "fan_in", "truncated_normal"
)


class Linear(nn.Module):
  """Multiplies the last axis by a float32 kernel, cast to the input's dtype.

  Attributes:
    in_dim: width of the input.
    out_dim: width of the output.
    axis_names: logical names of the kernel's two axes.
    kernel_init: initialiser of the kernel [in_dim, out_dim].
  """

  in_dim: int
  out_dim: int
  axis_names: tuple[str, str]
  kernel_init: nn.initializers.Initializer = truncated_init

  def setup(self):
    self.kernel = make_parameter(
      self,
      "kernel",
      self.kernel_init,
      (self.in_dim, self.out_dim),
      self.axis_names,
    )

  def __call__(
    self, x: Float[Array, "batch length in_dim"]
  ) -> Float[Array, "batch length out_dim"]:
    """Applies the kernel: [batch, length, in_dim] to [.., out_dim]."""
    return _multiply(x, self.kernel.astype(x.dtype))


@jax.custom_vjp
def _multiply(
  x: Float[Array, "batch length in_dim"], kernel: Float[Array, "in_dim out_dim"]
) -> Float[Array, "batch length out_dim"]:
  """Multiplies the last axis.

  The kernel's gradient is a product too, which transposes its first factor.
  JAX would put the output's gradient first; the input is first here, because
  the products that share an input (query, key and value; both of a gated MLP)
  then share its transpose, and the gradient of the logits, the largest array,
  needs none. On CPUs that is a copy saved for each.
  """
  return jnp.einsum("bli,io->blo", x, kernel)


def _multiply_forward(x, kernel):
  # Not by `_multiply`, in which no remat policy would see the product.
  return jnp.einsum("bli,io->blo", x, kernel), (x, kernel)


def _multiply_backward(inputs, gradient):
  x, kernel = inputs
  return (
    jnp.einsum("blo,io->bli", gradient, kernel),
    jnp.einsum("bli,blo->io", x, gradient),
  )


_multiply.defvjp(_multiply_forward, _multiply_backward)
