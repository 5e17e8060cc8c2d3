import jax
import jax.numpy as jnp
import numpy as np

from distill_jax.model.layers.norm import RMSNorm


def test_divides_by_the_root_mean_square_and_scales(config):
  rng = np.random.default_rng(0)
  x = rng.normal(2.0, 3.0, (2, 5, 12)).astype(np.float32)
  scale = rng.normal(size=12).astype(np.float32)
  expected = x / np.sqrt(np.mean(x**2, -1, keepdims=True) + 1e-6) * scale
  actual = RMSNorm(config).apply({"params": {"scale": scale}}, jnp.asarray(x))
  np.testing.assert_allclose(actual, expected, rtol=1e-5)


def test_statistics_are_float32_whatever_the_input(config):
  # 12 squares of 1 + 2**-7 sum inexactly in bfloat16.
  x = jnp.full((1, 1, 12), 1 + 2**-7, jnp.bfloat16)
  variables = RMSNorm(config).init(jax.random.key(0), x)
  actual = RMSNorm(config).apply(variables, x)
  assert actual.dtype == jnp.bfloat16
  np.testing.assert_array_equal(actual.astype(jnp.float32), 1.0)
