import jax.numpy as jnp
import numpy as np
import pytest

from distill_jax.model.layers import masks

QUERY_SEGMENTS = jnp.array([[1, 1, 2, 2, 0], [1, 2, 2, 2, 3]])
KEY_SEGMENTS = jnp.array([[1, 2, 2, 0, 0, 0], [3, 2, 1, 1, 0, 0]])


@pytest.mark.parametrize("is_causal", [False, True])
def test_attention_stays_inside_segments(is_causal):
  mask = masks.make_segment_mask(
    QUERY_SEGMENTS, KEY_SEGMENTS, is_causal=is_causal
  )
  assert mask.dtype == np.bool_
  bias = masks.to_bias(mask)
  assert bias.shape == (2, 1, 5, 6)
  assert bias.dtype == np.float32
  queries, keys = np.asarray(QUERY_SEGMENTS), np.asarray(KEY_SEGMENTS)
  bias = np.asarray(bias)
  for row, q, k in np.ndindex(2, 5, 6):
    allowed = queries[row, q] == keys[row, k]
    allowed &= k <= q or not is_causal
    assert bias[row, 0, q, k] == (0 if allowed else np.float32(-1e10))


def test_step_bias_is_a_row_of_the_causal_bias():
  ones = jnp.ones((1, 6), jnp.int32)
  bias = masks.to_bias(masks.make_segment_mask(ones, ones, is_causal=True))
  for step in range(6):
    np.testing.assert_array_equal(
      masks.make_step_bias(step, 6), bias[:, :, step : step + 1]
    )
