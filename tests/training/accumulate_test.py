"""Sums over micro-batches against the whole batch and against numpy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from distill_jax.training import accumulate


@pytest.fixture
def problem():
  """Least squares over tokens; rows hold 0 to 7 of them."""
  rng = np.random.default_rng(0)
  batch = {
    "x": rng.normal(0, 1, (8, 7, 3)).astype(np.float32),
    "y": rng.normal(0, 1, (8, 7)).astype(np.float32),
    "weights": (np.arange(8)[:, None] > np.arange(7)).astype(np.float32),
  }
  params = {"w": rng.normal(0, 1, 3).astype(np.float32), "b": np.float32(0.5)}
  return params, batch


def make_loss_fn(batch):
  num_tokens = batch["weights"].sum()

  def loss_fn(params, microbatch, rng):
    error = microbatch["x"] @ params["w"] + params["b"] - microbatch["y"]
    loss = jnp.sum(error**2 * microbatch["weights"]) / num_tokens
    return loss, {"loss": loss, "draw": jax.random.uniform(rng)}

  return loss_fn


def sum_gradients(params, batch, num_microbatches):
  return jax.jit(accumulate.sum_gradients, static_argnums=(0, 4))(
    make_loss_fn(batch), params, batch, jax.random.key(3), num_microbatches
  )


@pytest.mark.parametrize("num_microbatches", [1, 2, 4, 8])
def test_any_number_is_exact(problem, num_microbatches):
  params, batch = problem
  # As many rows, but unequal numbers of tokens; one row has none.
  tokens = batch["weights"].sum(1).reshape(-1, num_microbatches).sum(0)
  assert num_microbatches == 1 or len(set(tokens)) > 1
  gradients, metrics = sum_gradients(params, batch, num_microbatches)
  error = batch["x"].astype(float) @ params["w"] + params["b"] - batch["y"]
  weighted = error * batch["weights"] / batch["weights"].sum()
  np.testing.assert_allclose(
    metrics["loss"], (error * weighted).sum(), rtol=1e-5
  )
  np.testing.assert_allclose(
    gradients["w"], 2 * np.einsum("rtd,rt->d", batch["x"], weighted), rtol=1e-5
  )
  np.testing.assert_allclose(gradients["b"], 2 * weighted.sum(), rtol=1e-5)


def test_each_microbatch_has_a_key_of_its_own(problem):
  params, batch = problem
  _, metrics = sum_gradients(params, batch, 4)
  key = jax.random.key(3)
  draws = [jax.random.uniform(jax.random.fold_in(key, i)) for i in range(4)]
  assert len(set(map(float, draws))) == 4
  np.testing.assert_allclose(metrics["draw"], sum(draws), rtol=1e-6)


def test_rows_are_dealt_out_like_cards(problem):
  """Row r goes to micro-batch r % K, so that no row changes its device."""
  params, batch = problem

  def loss_fn(params, microbatch, rng):
    del rng
    rows = microbatch["x"][:, 0, 0]
    return params["b"] * 0, {"first": rows[0] * rows[1]}

  _, metrics = accumulate.sum_gradients(
    loss_fn, *jax.tree.map(jnp.asarray, (params, batch)), jax.random.key(0), 4
  )
  rows = batch["x"][:, 0, 0]
  np.testing.assert_allclose(
    metrics["first"], np.sum(rows[:4] * rows[4:]), rtol=1e-5
  )
