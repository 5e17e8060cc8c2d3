"""Optimizers against numpy transcriptions of their papers' rules.

T5X's own parameters after Adafactor steps are in training/t5x_test.py.
"""

import jax
import numpy as np
import optax
import pytest

from distill_jax.errors import UserError
from distill_jax.optim import factory, schedules

NUM_STEPS = 4
RATE = 0.05


@pytest.fixture
def params():
  """A square and an oblong matrix, a thin one, a vector, a tiny one."""
  rng = np.random.default_rng(0)
  params = {
    name: rng.normal(0, 1, shape).astype(np.float32)
    for name, shape in {
      "square": (4, 4),
      "tall": (6, 4),
      "thin": (8, 2),
      "vector": (5,),
    }.items()
  }
  # Below the least scale that Adafactor multiplies updates by.
  params["tiny"] = np.full((4, 5), 1e-5, np.float32)
  return params


@pytest.fixture
def gradients(params):
  rng = np.random.default_rng(1)
  return [
    {
      # They grow, so that Adafactor clips its updates after the first step.
      name: (3.0**step * rng.normal(0, 1, value.shape)).astype(np.float32)
      for name, value in params.items()
    }
    for step in range(NUM_STEPS)
  ]


def stack_three_layers(tree, seed=3):
  """Three layers of every matrix and vector, as one scan's parameters."""
  rng = np.random.default_rng(seed)
  layers = [
    {
      name: (value * rng.uniform(0.1, 9, value.shape)).astype(np.float32)
      for name, value in tree.items()
    }
    for _ in range(3)
  ]
  stacked = {
    name: np.stack([layer[name] for layer in layers], axis=1) for name in tree
  }
  return {"encoder": {"encoder": {"mlp": stacked}}}, layers


@pytest.mark.parametrize(
  "optimizer",
  [
    factory.adafactor(schedules.constant(RATE), min_dim_size_to_factor=4),
    factory.adafactor(
      schedules.constant(RATE),
      min_dim_size_to_factor=4,
      multiply_by_parameter_scale=False,
      clipping_threshold=0.5,
    ),
    factory.adamw(
      schedules.constant(RATE), weight_decay=0.3, max_grad_norm=None
    ),
  ],
  ids=["adafactor", "unscaled", "adamw"],
)
def test_layers_of_a_scan_are_treated_each_by_itself(
  optimizer, params, gradients
):
  """Sizes, clipping and factors of one layer do not touch another."""
  stacked, layers = stack_three_layers(params)
  stacked_gradients, layer_gradients = zip(
    *(stack_three_layers(gradient, 4) for gradient in gradients), strict=True
  )
  found = run_optimizer(optimizer, stacked, stacked_gradients)
  found = found["encoder"]["encoder"]["mlp"]
  for number, layer in enumerate(layers):
    expected = run_optimizer(
      optimizer, layer, [step[number] for step in layer_gradients]
    )
    for name, value in expected.items():
      np.testing.assert_allclose(
        found[name][:, number], value, rtol=1e-6, atol=1e-7, err_msg=name
      )


def test_layers_that_would_pass_for_a_side_of_a_matrix_are_refused(params):
  stacked, _ = stack_three_layers(params)
  optimizer = factory.adafactor(
    schedules.constant(RATE), min_dim_size_to_factor=3
  )
  with pytest.raises(UserError, match="a stack of 3 layers, which Adafactor"):
    optimizer.init(stacked)
  optimizer.init(params)


def test_the_state_of_adafactor_is_that_of_optax(params):
  """Checkpoints written with `optax.adafactor` itself can still be resumed."""
  ours = factory.adafactor(schedules.constant(RATE)).init(params)
  theirs = optax.adafactor(schedules.constant(RATE)).init(params)
  assert jax.tree.structure(ours) == jax.tree.structure(theirs)


def run_optimizer(optimizer, params, gradients):
  state = optimizer.init(params)
  update = jax.jit(optimizer.update)
  for gradient in gradients:
    updates, state = update(gradient, state, params)
    params = optax.apply_updates(params, updates)
  return params


def run_adamw(params, gradients, rate, weight_decay, b1, b2, eps):
  """Loshchilov and Hutter, algorithm 2, the schedule in `rate`."""
  params = {name: value.astype(np.float64) for name, value in params.items()}
  for name, param in params.items():
    first = second = 0.0
    for t, gradient in enumerate(gradients, start=1):
      first = b1 * first + (1 - b1) * gradient[name]
      second = b2 * second + (1 - b2) * gradient[name].astype(float) ** 2
      update = (first / (1 - b1**t)) / (np.sqrt(second / (1 - b2**t)) + eps)
      if param.ndim > 1:
        update = update + weight_decay * param
      param = param - rate(t - 1) * update
    params[name] = param
  return params


def run_adafactor(params, gradients, rate, factor_from, clipping=1.0):
  """Shazeer and Stern, algorithms 4 and 5, with relative step sizes."""
  params = {name: value.astype(np.float64) for name, value in params.items()}
  for name, param in params.items():
    is_factored = param.ndim == 2 and min(param.shape) >= factor_from
    row = column = full = 0.0
    for t, gradient in enumerate(gradients, start=1):
      gradient = gradient[name].astype(np.float64)
      squared = gradient**2 + 1e-30
      decay = 1 - t**-0.8
      full = decay * full + (1 - decay) * squared
      estimate = full
      if is_factored:
        row = decay * row + (1 - decay) * squared.mean(1, keepdims=True)
        column = decay * column + (1 - decay) * squared.mean(0, keepdims=True)
        estimate = row * column / row.mean()
      update = gradient / np.sqrt(estimate)
      update /= max(1.0, np.sqrt(np.mean(update**2)) / clipping)
      scale = max(1e-3, np.sqrt(np.mean(param**2)))
      param = param - rate * scale * update
    params[name] = param
  return params


def assert_close(found, expected):
  for name, value in expected.items():
    np.testing.assert_allclose(
      found[name], value, rtol=1e-5, atol=1e-7, err_msg=name
    )


@pytest.mark.parametrize("weight_decay", [0.0, 0.3])
def test_adamw(params, gradients, weight_decay):
  """With decay on matrices and, as norm scales are, not on vectors."""
  schedule = schedules.linear_decay(RATE, 8)
  optimizer = factory.adamw(
    schedule, 0.8, 0.95, 1e-3, weight_decay, max_grad_norm=None
  )
  found = run_optimizer(optimizer, params, gradients)
  expected = run_adamw(
    params,
    gradients,
    lambda t: RATE * (1 - t / 8),
    weight_decay,
    0.8,
    0.95,
    1e-3,
  )
  assert_close(found, expected)


@pytest.mark.parametrize("factor_from", [128, 4])
def test_adafactor(params, gradients, factor_from):
  optimizer = factory.adafactor(
    schedules.constant(RATE), min_dim_size_to_factor=factor_from
  )
  found = run_optimizer(optimizer, params, gradients)
  assert_close(found, run_adafactor(params, gradients, RATE, factor_from))


@pytest.mark.parametrize(
  "make",
  [
    lambda rate, norm: factory.adamw(rate, max_grad_norm=norm),
    lambda rate, norm: factory.adafactor(rate, max_grad_norm=norm),
  ],
  ids=["adamw", "adafactor"],
)
def test_gradients_are_clipped_by_their_global_norm(make, params, gradients):
  """Clipping is what dividing by the norm over all parameters would do.

  Gradients that grow are clipped to equal norms, which both optimizers, though
  indifferent to a constant factor, notice after the first step.
  """
  clipped = []
  for gradient in gradients:
    norm = np.sqrt(
      sum(np.sum(g.astype(np.float64) ** 2) for g in gradient.values())
    )
    assert norm > 0.5
    clipped.append({k: (g * 0.5 / norm) for k, g in gradient.items()})
  schedule = schedules.constant(RATE)
  found = run_optimizer(make(schedule, 0.5), params, gradients)
  expected = run_optimizer(make(schedule, None), params, clipped)
  unclipped = run_optimizer(make(schedule, None), params, gradients)
  assert_close(found, expected)
  assert not np.allclose(found["square"], unclipped["square"], rtol=1e-3)


def test_a_small_gradient_is_not_clipped(params, gradients):
  optimizers = (
    factory.adamw(schedules.constant(RATE), eps=1.0, max_grad_norm=norm)
    for norm in (1e9, None)
  )
  with_limit, without = (
    run_optimizer(optimizer, params, gradients) for optimizer in optimizers
  )
  assert_close(with_limit, without)


def test_a_first_moment_of_half_the_bytes(params, gradients):
  """What bfloat16 rounds away at most, and only of the first moment."""
  optimizer = factory.adamw(
    schedules.constant(RATE), max_grad_norm=None, mu_dtype="bfloat16"
  )
  (moments, *_) = optimizer.init(params)
  for name, param in params.items():
    assert (moments.mu[name].dtype, moments.nu[name].dtype) == (
      "bfloat16",
      "float32",
    )
    assert moments.mu[name].shape == param.shape
  found = run_optimizer(optimizer, params, gradients)
  exact = run_adamw(params, gradients, lambda t: RATE, 0.0, 0.9, 0.999, 1e-8)
  differences = [np.abs(found[name] - exact[name]).max() for name in params]
  # Its 8 bits are rounded twice a step; Adam's updates are of the order of 1.
  assert 1e-5 < max(differences) < NUM_STEPS * RATE * 2 * 2**-8


def test_another_type_of_moments_is_refused():
  with pytest.raises(UserError, match="is 'float16'; .* 'float32', 'bfloat16'"):
    factory.adamw(schedules.constant(RATE), mu_dtype="float16")
