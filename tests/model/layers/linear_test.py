import jax
import jax.numpy as jnp
import numpy as np

from distill_jax.model.layers.linear import Linear, normal_init


def test_multiplies_by_its_kernel():
  rng = np.random.default_rng(0)
  x = rng.normal(size=(2, 3, 4)).astype(np.float32)
  kernel = rng.normal(size=(4, 5)).astype(np.float32)
  linear = Linear(4, 5, ("embed", "mlp"))
  actual = linear.apply({"params": {"kernel": kernel}}, jnp.asarray(x))
  np.testing.assert_allclose(actual, x @ kernel, rtol=1e-5, atol=1e-6)


def test_kernel_is_float32_and_named_while_the_output_follows_the_input():
  x = jnp.ones((1, 1, 4), jnp.bfloat16)
  output, variables = Linear(4, 5, ("embed", "mlp")).init_with_output(
    jax.random.key(0), x
  )
  kernel = variables["params"]["kernel"]
  assert kernel.names == ("embed", "mlp")
  assert kernel.value.dtype == jnp.float32
  assert output.dtype == jnp.bfloat16


def test_initial_kernels_have_unit_variance_over_fan_in():
  x = jnp.ones((1, 1, 400))
  for kernel_init, farthest in ((None, 2.3), (normal_init, np.inf)):
    settings = {"kernel_init": kernel_init} if kernel_init else {}
    linear = Linear(400, 300, ("embed", "mlp"), **settings)
    variables = linear.init(jax.random.key(0), x)
    kernel = variables["params"]["kernel"].value * np.sqrt(400)
    np.testing.assert_allclose(np.std(kernel), 1.0, rtol=0.01)
    # Truncated at two deviations of the normal distribution it is cut from.
    assert (np.abs(kernel).max() < 2.3) == (farthest == 2.3)


def test_gradients_are_those_of_the_product_and_transpose_no_output():
  rng = np.random.default_rng(0)
  x, kernel, weights = (
    rng.normal(size=shape).astype(np.float32)
    for shape in ((2, 3, 4), (4, 5), (2, 3, 5))
  )

  def compute_loss(x, kernel):
    linear = Linear(4, 5, ("embed", "mlp"))
    return jnp.sum(linear.apply({"params": {"kernel": kernel}}, x) * weights)

  differentiate = jax.grad(compute_loss, argnums=(0, 1))
  x_gradient, kernel_gradient = differentiate(x, kernel)
  np.testing.assert_allclose(x_gradient, weights @ kernel.T, rtol=1e-5)
  expected = np.einsum("bli,blo->io", x, weights)
  np.testing.assert_allclose(kernel_gradient, expected, rtol=1e-5)
  # What the docstring promises: the input comes first, of all the products.
  jaxpr = str(jax.make_jaxpr(differentiate)(x, kernel))
  assert jaxpr.count("dot_general") == 3
  assert "transpose[" not in jaxpr.rsplit("dot_general", 1)[1]
