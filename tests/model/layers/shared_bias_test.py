"""Gradients of a bias that a fused kernel takes.

The kernels themselves are written out here: see dot_product_test for the real
ones.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_student

from distill_jax.model.layers import dot_product, shared_bias
from distill_jax.model.t5 import config as config_lib
from distill_jax.model.t5.t5 import T5
from distill_jax.partitioning import mesh as mesh_lib
from distill_jax.partitioning import sharding
from distill_jax.partitioning.constraint import leave_free

CONFIG = dataclasses.replace(
  tiny_student.CONFIG, num_encoder_layers=2, num_decoder_layers=2
)

INPUT_KEYS = (
  "encoder_input_tokens",
  "decoder_input_tokens",
  "encoder_segment_ids",
  "decoder_segment_ids",
)


def _attend_with_bias(query, key, value, bias):
  return dot_product._attend_xla(
    query, key, value, dot_product.AttentionBias(bias)
  )


def _attend_with_mask(query, key, value, allowed, added=None):
  assert allowed.dtype == jnp.bool_
  assert added is None or added.shape[0] == 1, "One for all rows of a device."
  return dot_product._attend_xla(
    query, key, value, dot_product.AttentionBias(added, allowed)
  )


@pytest.fixture(name="kernel", autouse=True)
def fixture_kernel(monkeypatch):
  """Writes the kernels out, in float32 too."""
  monkeypatch.setattr(dot_product, "_attend_pallas_tpu", _attend_with_bias)
  monkeypatch.setattr(dot_product, "_run_tokamax", _attend_with_mask)
  monkeypatch.setattr(config_lib, "GPU_ATTENTION", ())


def differentiate(constrain_fn=leave_free, **choices):
  """Returns the gradients of all parameters."""
  batch = jax.tree.map(jnp.asarray, tiny_student.make_batch())
  model = T5(dataclasses.replace(CONFIG, **choices), constrain_fn)

  def compute_loss(params):
    logits = model.apply(
      {"params": params},
      batch,
      enable_dropout=False,
    )
    return jnp.mean(jnp.sin(logits))

  return jax.jit(jax.grad(compute_loss))(tiny_student.make_params(model.config))


@functools.cache
def differentiate_by_xla(per_layer_relative_bias=False):
  return differentiate(per_layer_relative_bias=per_layer_relative_bias)


def assert_close(found, expected):
  jax.tree.map(
    functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5),
    found,
    expected,
  )


@pytest.mark.parametrize("implementation", ["pallas_tpu", "tokamax"])
@pytest.mark.parametrize("is_per_layer", [False, True])
def test_gradients_are_those_without_the_kernel(is_per_layer, implementation):
  found = differentiate(
    attention_implementation=implementation,
    per_layer_relative_bias=is_per_layer,
  )
  assert_close(found, differentiate_by_xla(is_per_layer))


@pytest.mark.parametrize(
  "implementation,is_per_layer",
  [("pallas_tpu", False), ("tokamax", False), ("tokamax", True)],
)
def test_gradients_on_a_mesh_are_those_of_one_device(
  implementation, is_per_layer
):
  mesh = mesh_lib.make_mesh({"data": 2, "fsdp": 2, "model": 2})
  found = differentiate(
    sharding.make_constrain_fn(mesh),
    attention_implementation=implementation,
    per_layer_relative_bias=is_per_layer,
  )
  assert_close(found, differentiate_by_xla(is_per_layer))


@pytest.mark.parametrize("implementation", ["cudnn", "tokamax"])
def test_a_mask_alone_stays_a_mask(implementation):
  """Of a bias the kernels would compute a gradient that nobody asks for."""
  config = dataclasses.replace(CONFIG, attention_implementation=implementation)
  mask = jnp.ones((2, 1, 3, 4), jnp.bool_)
  bias = shared_bias.prepare(None, mask, config, leave_free)()
  assert bias.added is None
  assert bias.allowed is mask


def test_no_layer_keeps_a_gradient_of_every_row():
  """Else a large array would be read and written again at every layer."""
  shape = "f32[8,2,16,16]"
  tokens = jnp.ones((8, 16), jnp.int32)

  def count_sums(implementation):
    config = dataclasses.replace(
      CONFIG, num_encoder_layers=4, attention_implementation=implementation
    )

    def compute_loss(params):
      encoded = T5(config).apply(
        {"params": params},
        tokens,
        tokens,
        enable_dropout=False,
        method=T5.encode,
      )
      return jnp.sum(encoded)

    params = tiny_student.make_params(config)
    jaxpr = str(jax.make_jaxpr(jax.grad(compute_loss))(params))
    return jaxpr.count(f"{shape} = add_any")

  # Both have the softmax's own. Four layers' gradients are three sums.
  assert count_sums("xla") - count_sums("pallas_tpu") == 3
