import math

import jax
import numpy as np
import pytest
from flax.core import meta

from distill_jax.model.layers.relative_bias import (
  RelativeBias,
  make_bucket_table,
)


def _compute_bucket(distance, num_buckets, max_distance, is_bidirectional):
  """The paper's buckets, one distance at a time, in float64 logarithms."""
  offset = 0
  if is_bidirectional:
    num_buckets //= 2
    offset = num_buckets if distance > 0 else 0
    distance = abs(distance)
  else:
    distance = max(-distance, 0)
  num_exact = num_buckets // 2
  if distance < num_exact:
    return offset + distance
  share = math.log(distance / num_exact) / math.log(max_distance / num_exact)
  # The small number puts edges, exact in theory, on their right side.
  shared = math.floor(share * (num_buckets - num_exact) + 1e-9)
  return offset + min(num_exact + shared, num_buckets - 1)


@pytest.mark.parametrize("is_bidirectional", [False, True])
@pytest.mark.parametrize(
  "num_buckets,max_distance", [(32, 128), (8, 20), (32, 100)]
)
def test_buckets_equal_a_slow_loop(num_buckets, max_distance, is_bidirectional):
  table = make_bucket_table(
    num_buckets, max_distance, is_bidirectional=is_bidirectional
  )
  expected = [
    _compute_bucket(distance, num_buckets, max_distance, is_bidirectional)
    for distance in range(-max_distance, max_distance + 1)
  ]
  np.testing.assert_array_equal(table, expected)


@pytest.fixture(params=[False, True], ids=["causal", "bidirectional"])
def relative_bias(request, config):
  """The module with random weights, and its bias by direct look-up."""
  module = RelativeBias(config, is_bidirectional=request.param)
  variables = meta.unbox(module.init(jax.random.key(0), 3, 3))

  def look_up(embedding, q_length, k_length):
    buckets = [
      [_compute_bucket(k - q, 32, 128, request.param) for k in range(k_length)]
      for q in range(q_length)
    ]
    return embedding[:, np.array(buckets)][None]

  return module, variables, look_up


@pytest.mark.parametrize("lengths", [(7, 7), (5, 9), (9, 5), (1, 1), (300, 2)])
def test_bias_equals_a_look_up_of_every_pair(relative_bias, lengths):
  module, variables, look_up = relative_bias
  actual = module.apply(variables, *lengths)
  expected = look_up(variables["params"]["rel_embedding"], *lengths)
  assert actual.shape == expected.shape
  np.testing.assert_array_equal(actual, expected)


def test_gradient_equals_that_of_the_look_up(relative_bias):
  module, variables, look_up = relative_bias
  embedding = variables["params"]["rel_embedding"]
  weights = np.random.default_rng(0).normal(size=(1, 2, 40, 30))
  weights = weights.astype(np.float32)

  def compute_sum(embedding):
    bias = module.apply({"params": {"rel_embedding": embedding}}, 40, 30)
    return (bias * weights).sum()

  actual = jax.grad(compute_sum)(embedding)
  expected = jax.grad(lambda e: (look_up(e, 40, 30) * weights).sum())(embedding)
  np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-5)


def test_a_step_is_a_row_of_the_whole(relative_bias):
  module, variables, _ = relative_bias
  whole = module.apply(variables, 20, 20)
  compute_step = jax.jit(
    lambda step: module.apply(
      variables, step, 20, method=RelativeBias.compute_step
    )
  )
  for step in (0, 1, 11, 19):
    np.testing.assert_array_equal(
      compute_step(step), whole[:, :, step : step + 1]
    )
