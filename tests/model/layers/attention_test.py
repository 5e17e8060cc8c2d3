import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.core import meta

from distill_jax.model.layers.attention import Attention
from distill_jax.model.layers.dot_product import AttentionBias


@pytest.fixture
def inputs():
  shapes = ((2, 3, 12), (2, 5, 12), (2, 2, 3, 5))
  rngs = jax.random.split(jax.random.key(1), 3)
  return tuple(map(jax.random.normal, rngs, shapes))


def _attend(module, x, memory, bias):
  return module(
    x,
    module.project_key_value(memory),
    AttentionBias(bias),
    enable_dropout=False,
  )


def _init(config, *inputs):
  module = Attention(config)
  return module, meta.unbox(
    module.init(jax.random.key(0), *inputs, method=_attend)
  )


def test_equals_a_loop_over_rows_heads_and_queries(config, inputs):
  x, memory, bias = (np.asarray(array, np.float64) for array in inputs)
  module, variables = _init(config, *inputs)
  kernels = {
    name: np.asarray(leaf["kernel"], np.float64)
    for name, leaf in variables["params"].items()
  }
  attended = np.zeros((2, 3, 16))
  for row, head, q in np.ndindex(2, 2, 3):
    columns = slice(head * 8, head * 8 + 8)
    query = x[row, q] @ kernels["query"][:, columns]
    logits = memory[row] @ kernels["key"][:, columns] @ query
    probs = np.exp(logits + bias[row, head, q])
    probs /= probs.sum()
    values = memory[row] @ kernels["value"][:, columns]
    attended[row, q, columns] = probs @ values
  actual = module.apply(variables, *inputs, method=_attend)
  np.testing.assert_allclose(
    actual, attended @ kernels["out"], rtol=1e-5, atol=1e-5
  )


def test_a_masked_key_has_no_influence(config, inputs):
  x, memory, bias = inputs
  module, variables = _init(config, *inputs)
  bias = bias.at[..., 2].set(-1e10)
  changed = memory.at[:, 2].add(100.0)
  np.testing.assert_array_equal(
    module.apply(variables, x, memory, bias, method=_attend),
    module.apply(variables, x, changed, bias, method=_attend),
  )


def test_dropout_drops_probabilities_for_all_queries_of_a_row(config, inputs):
  """As T5X does, and by the same draw."""
  config = dataclasses.replace(config, dropout_rate=0.5)
  module, variables = _init(config, *inputs)

  def attend(module, x, memory, bias):
    return module(
      x,
      module.project_key_value(memory),
      AttentionBias(bias),
      enable_dropout=True,
    )

  def attend_as_t5x(module, x, memory, bias):
    split = lambda x: x.reshape(*x.shape[:2], 2, 8)
    logits = jnp.einsum(
      "bqhd,bkhd->bhqk", split(module.query(x)), split(module.key(memory))
    )
    probs = module.dropout(
      jax.nn.softmax(logits + bias), deterministic=False
    )  # [batch, heads, q_length, k_length]
    assert np.unique(np.asarray(probs == 0).sum(axis=2)).tolist() == [0, 3]
    value = split(module.value(memory))
    attended = jnp.einsum("bhqk,bkhd->bqhd", probs, value)
    return module.out(attended.reshape(*x.shape[:2], -1))

  found, expected = (
    module.apply(
      variables, *inputs, method=method, rngs={"dropout": jax.random.key(3)}
    )
    for method in (attend, attend_as_t5x)
  )
  np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_the_initial_query_holds_the_scale(config, inputs):
  _, variables = _init(config, *inputs)
  deviation = {
    name: np.std(leaf["kernel"]) * np.sqrt(leaf["kernel"].shape[0])
    for name, leaf in variables["params"].items()
  }
  np.testing.assert_allclose(deviation["query"], 8**-0.5, rtol=0.2)
  for name in ("key", "value", "out"):
    np.testing.assert_allclose(deviation[name], 1.0, rtol=0.2)


def test_softmax_is_float32_under_bfloat16(config, inputs):
  x, memory, bias = inputs
  module, variables = _init(config, *inputs)
  jaxpr = jax.make_jaxpr(
    lambda x, memory: module.apply(variables, x, memory, bias, method=_attend)
  )(x.astype(jnp.bfloat16), memory.astype(jnp.bfloat16))
  exps = [eqn for eqn in jaxpr.eqns if eqn.primitive.name == "exp"]
  assert [eqn.outvars[0].aval.dtype for eqn in exps] == [jnp.float32]
  assert jaxpr.out_avals[0].dtype == jnp.bfloat16
