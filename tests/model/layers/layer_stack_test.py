"""Scanned layers and recomputed ones against the plain stack."""

import dataclasses
import functools
import re

import jax
import jax.extend.core
import jax.numpy as jnp
import numpy as np
import pytest
import t5_batch
import tiny_student
from flax import linen as nn
from flax import traverse_util
from jax._src.cudnn import fused_attention_stablehlo

from distill_jax.checkpoint.stored_model import (
  LazyTensor,
  flatten_params,
  stack_layers,
)
from distill_jax.decoding.cache import start_decoding
from distill_jax.decoding.greedy import greedy_decode
from distill_jax.model.layers import layer_stack
from distill_jax.model.t5 import config as config_lib
from distill_jax.model.t5.t5 import T5
from distill_jax.partitioning import mesh as mesh_lib
from distill_jax.partitioning import sharding
from distill_jax.partitioning.constraint import leave_free
from distill_jax.training import state as state_lib

CONFIG = dataclasses.replace(
  tiny_student.CONFIG, num_encoder_layers=3, num_decoder_layers=2
)
CONFIGS = {
  "shared_bias": CONFIG,
  "per_layer_bias": dataclasses.replace(CONFIG, per_layer_relative_bias=True),
  "tied": dataclasses.replace(
    CONFIG, tie_embeddings=True, mlp_activations=("relu",)
  ),
}
MESH = {"data": 2, "fsdp": 2, "model": 2}
INPUT_KEYS = (
  "encoder_input_tokens",
  "decoder_input_tokens",
  "encoder_segment_ids",
  "decoder_segment_ids",
)


def scan(config):
  return dataclasses.replace(config, scan_layers=True)


def stack(params):
  """Lays parameters out as a scanned model has them."""
  tensors = {
    name: LazyTensor(name, leaf.shape, leaf.dtype, leaf.__getitem__)
    for name, leaf in flatten_params(jax.tree.map(np.asarray, params)).items()
  }
  stacked = {
    name: tensor.read() for name, tensor in stack_layers(tensors).items()
  }
  return traverse_util.unflatten_dict(stacked, sep="/")


def assert_close(found, expected):
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5),
    found,
    expected,
  )


@functools.partial(jax.jit, static_argnums=(0, 1))
def differentiate(config, enable_dropout, params):
  """Returns logits and the gradients of a function of them."""
  batch = jax.tree.map(jnp.asarray, tiny_student.make_batch())

  def compute_loss(params):
    logits = T5(config).apply(
      {"params": params},
      batch,
      enable_dropout=enable_dropout,
      rngs={"dropout": jax.random.key(0)},
    )
    # Its gradients are of the order of 1.
    return jnp.mean(jnp.sin(logits)), logits

  gradients, logits = jax.grad(compute_loss, has_aux=True)(params)
  return logits, gradients


@pytest.mark.parametrize("name", CONFIGS)
def test_a_scan_computes_what_separate_layers_do(name):
  config = CONFIGS[name]
  params = tiny_student.make_params(config)
  logits, gradients = differentiate(config, False, params)
  scanned_logits, scanned = differentiate(scan(config), False, stack(params))
  assert_close(scanned_logits, logits)
  assert_close(scanned, stack(gradients))


# Scanned layers draw the same masks again; separate ones draw others.
@pytest.mark.parametrize(
  "is_scanned,enable_dropout", [(False, False), (True, False), (True, True)]
)
@pytest.mark.parametrize("policy", ["full", "minimal"])
def test_computing_again_changes_nothing(is_scanned, enable_dropout, policy):
  config = dataclasses.replace(
    CONFIG, scan_layers=is_scanned, dropout_rate=0.2, num_encoder_layers=2
  )
  params = tiny_student.make_params(config)
  again = dataclasses.replace(config, remat_policy=policy)
  assert_close(
    differentiate(again, enable_dropout, params),
    differentiate(config, enable_dropout, params),
  )


def make_encoder_loss(num_layers=6, **choices):
  """Returns a loss of encoder layers, and its parameters' shapes."""
  config = dataclasses.replace(CONFIG, num_encoder_layers=num_layers, **choices)
  rng = np.random.default_rng(0)
  tokens = jnp.asarray(rng.integers(1, 48, (4, 48)), jnp.int32)
  params, _ = state_lib.abstract_params(T5(config))

  def compute_loss(params):
    encoded = T5(config).apply(
      {"params": params},
      tokens,
      jnp.ones_like(tokens),
      enable_dropout=False,
      method=T5.encode,
    )
    return jnp.sum(encoded.astype(jnp.float32))

  return compute_loss, params


@pytest.mark.parametrize("is_scanned", [False, True])
def test_a_policy_says_which_products_are_computed_again(is_scanned):
  def count_products(policy):
    compute_loss, params = make_encoder_loss(
      scan_layers=is_scanned, remat_policy=policy
    )
    return str(jax.make_jaxpr(jax.grad(compute_loss))(params)).count(
      "dot_general["
    )

  products = {
    policy: count_products(policy) for policy in layer_stack.REMAT_POLICIES
  }
  layers = 1 if is_scanned else 6
  # Attention's product of queries and keys and that with values have a batch
  # axis; query, key, value, out, wi_0 and wi_1 are the rest that is needed.
  assert products["minimal"] - products["none"] == 2 * layers
  assert products["full"] - products["none"] == 8 * layers


def test_minimal_keeps_what_cudnn_made(monkeypatch):
  # Without a GPU it can be traced, if nobody asks which cuDNN there is.
  monkeypatch.setattr(
    fused_attention_stablehlo, "check_cudnn_version", lambda: 91000
  )

  def count_kernels(policy):
    compute_loss, params = make_encoder_loss(
      attention_implementation="cudnn", dtype="bfloat16", remat_policy=policy
    )
    jaxpr = str(jax.make_jaxpr(jax.grad(compute_loss))(params))
    return len(re.findall(r"dot_product_attention_fwd_wrapper\b", jaxpr))

  assert count_kernels("none") == count_kernels("minimal") == 6
  assert count_kernels("full") == 12


def count_cumsums(jaxpr):
  """Counts them one by one: text would show those of equal layers once."""
  return sum(
    (equation.primitive.name == "cumsum")
    + sum(map(count_cumsums, jax.extend.core.jaxprs_in_params(equation.params)))
    for equation in jaxpr.eqns
  )


@pytest.fixture(name="tokamax")
def fixture_tokamax(install_tokamax):
  """Installs a kernel of one operation: only a GPU has the real one."""

  @jax.custom_vjp
  def run_kernel(query, key, value, added, allowed):
    return jnp.cumsum(query, axis=1)

  def run_forward(*inputs):
    attended = run_kernel(*inputs)
    return attended, (inputs, attended)

  def run_backward(kept, gradient):
    (query, key, value, added, _), attended = kept
    product = jnp.sum(gradient * attended)
    return query * product, key * product, value * product, added, None

  # As Tokamax does.
  run_kernel.defvjp(run_forward, run_backward, optimize_remat=True)

  def attend(*arrays, scale, implementation):
    return run_kernel(*arrays)

  install_tokamax(attend)


def make_tokamax_loss(policy, num_layers=6):
  return make_encoder_loss(
    num_layers,
    attention_implementation="tokamax",
    dtype="bfloat16",
    remat_policy=policy,
  )


@pytest.mark.usefixtures("tokamax")
def test_minimal_keeps_what_tokamax_made():
  def count_kernels(policy):
    compute_loss, params = make_tokamax_loss(policy)
    return count_cumsums(jax.make_jaxpr(jax.grad(compute_loss))(params).jaxpr)

  assert count_kernels("none") == count_kernels("minimal") == 6
  assert count_kernels("full") == 12


@pytest.mark.usefixtures("tokamax")
@pytest.mark.parametrize("policy", ["none", "minimal"])
def test_layers_share_the_lowering_of_tokamax(policy):
  """Each would take a second or two, with its gradient."""

  def count_kernels(num_layers):
    compute_loss, params = make_tokamax_loss(policy, num_layers)
    lowered = jax.jit(jax.grad(compute_loss)).lower(params)
    return lowered.as_text().count("func private @_run_in_blocks")

  assert 0 < count_kernels(2) == count_kernels(6)


def test_what_is_computed_again_is_not_kept():
  """Of a scan: XLA's CPU compiler merges both computations of other layers."""

  def count_bytes(policy):
    compute_loss, params = make_encoder_loss(
      scan_layers=True, remat_policy=policy
    )
    compiled = jax.jit(jax.grad(compute_loss)).lower(params).compile()
    return compiled.memory_analysis().temp_size_in_bytes

  none, minimal, full = map(count_bytes, ("none", "minimal", "full"))
  assert full < minimal < none
  assert full < 0.5 * none


@pytest.mark.parametrize("mesh_axes", [None, MESH])
@pytest.mark.parametrize("name", CONFIGS)
def test_a_scanned_model_decodes_the_same_tokens(name, mesh_axes):
  batch = jax.tree.map(jnp.asarray, tiny_student.make_batch())
  tokens, segment_ids = (
    batch["encoder_input_tokens"],
    batch["encoder_segment_ids"],
  )
  segment_ids = jnp.minimum(segment_ids, 1)

  def decode(config, params, constrain_fn=leave_free):
    @jax.jit
    def run(params):
      step_fn, cache = start_decoding(
        T5(config, constrain_fn),
        params,
        t5_batch.make_inputs(tokens, segment_ids),
        8,
      )
      logits, _ = step_fn(jnp.zeros(len(tokens), jnp.int32), 0, cache)
      found = greedy_decode(
        step_fn, cache, batch_size=len(tokens), max_decode_length=8
      )
      return logits, found

    return run(params)

  config = CONFIGS[name]
  # Centred: else the same token is the likeliest everywhere.
  params = jax.tree.map(lambda x: x - 0.2, tiny_student.make_params(config))
  expected_logits, expected = decode(config, params)
  constrain_fn, stacked = leave_free, stack(params)
  if mesh_axes is not None:
    mesh = mesh_lib.make_mesh(mesh_axes)
    constrain_fn = sharding.make_constrain_fn(mesh)
    shapes, logical_axes = state_lib.abstract_params(T5(scan(config)))
    shardings = sharding.shard_params(logical_axes, shapes, mesh)
    stacked = jax.device_put(stacked, shardings)
  logits, found = decode(scan(config), stacked, constrain_fn)
  assert_close(logits, expected_logits)
  np.testing.assert_array_equal(found, expected)
  assert len(np.unique(expected)) > 3


@pytest.mark.parametrize("optimizer", tiny_student.OPTIMIZERS)
@pytest.mark.parametrize("mesh_axes", [None, MESH])
@jax.numpy_dtype_promotion("standard")  # The objective and optax need it.
def test_a_scanned_model_trains_the_same(optimizer, mesh_axes):
  batches = tiny_student.make_batches(3)
  # On the same mesh: another one rounds differently, and Adafactor makes more
  # of it where gradients are small.
  plain = tiny_student.start(optimizer, mesh_axes, CONFIG)
  scanned = tiny_student.start(optimizer, mesh_axes, scan(CONFIG))
  stacked = stack(tiny_student.make_params(CONFIG))
  stacked = jax.device_put(stacked, scanned.shardings.params)
  scanned.state = scanned.state.replace(params=stacked)
  assert_close(scanned.take_steps(batches), plain.take_steps(batches))
  assert_close(scanned.state.params, stack(plain.state.params))

  def check_sharding(leaf, leaf_sharding):
    assert leaf.sharding == leaf_sharding

  jax.tree.map(check_sharding, scanned.state, scanned.shardings)


def test_parameters_lie_where_t5x_has_them():
  shapes, logical_axes = state_lib.abstract_params(T5(scan(CONFIG)))
  shapes, logical_axes = flatten_params(shapes), flatten_params(logical_axes)
  name = "encoder/encoder/mlp/wo/kernel"
  assert shapes[name].shape == (24, 3, 16)
  assert logical_axes[name] == ("mlp", "layers", "embed")
  name = "decoder/decoder/pre_mlp_layer_norm/scale"
  assert shapes[name].shape == (16, 2)
  assert logical_axes[name] == ("embed", "layers")
  for name, axes in logical_axes.items():
    assert ("layers" in axes) == layer_stack.is_scanned(name.split("/"))
  plain, _ = state_lib.abstract_params(T5(CONFIG))
  assert not any(
    layer_stack.is_scanned(path)
    for path, _ in jax.tree_util.tree_leaves_with_path(plain)
  )


def test_each_layer_of_a_scan_starts_from_values_of_its_own():
  @jax.jit
  def init():
    return nn.unbox(state_lib.init_params(T5(scan(CONFIG)), jax.random.key(0)))

  kernel = init()["encoder"]["encoder"]["mlp"]["wo"]["kernel"]
  assert np.abs(kernel[:, 0] - kernel[:, 1]).min() > 0
  # Drawn as one layer's: the variance is 1 / in_dim, not 1 / (in_dim * layers).
  np.testing.assert_allclose(np.std(kernel, axis=(0, 2)), 24**-0.5, rtol=0.15)


def test_each_layer_of_a_scan_drops_by_itself():
  class Drop(nn.Module):
    @nn.compact
    def __call__(self, x):
      return nn.Dropout(0.5)(x, deterministic=False)

  class Stack(nn.Module):
    def setup(self):
      self.layer = Drop()

    def __call__(self, x):
      return layer_stack.run_layers(
        lambda layer, x: layer(x), self.layer, x, 2, "none"
      )

  x = jnp.ones((1, 4, 4096))
  found = Stack().apply({}, x, rngs={"dropout": jax.random.key(0)})
  # Half of them would be kept, were both masks the same.
  np.testing.assert_allclose(np.mean(found != 0), 0.25, atol=0.02)


def test_gin_may_name_every_policy():
  assert config_lib.REMAT_POLICIES == tuple(layer_stack.REMAT_POLICIES)
