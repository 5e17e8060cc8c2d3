"""The kernels of libraries against the one written out, as far as they run.

The TPU's runs here interpreted, and is compiled where libtpu is. cuDNN's and
Tokamax' need a GPU: without one they can only be refused.
"""

import functools
import importlib.util
import sys
import types
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.pallas import tpu as pltpu
from tpu_compiler import needs_libtpu

from distill_jax.aot import topology
from distill_jax.errors import UserError
from distill_jax.model.layers import dot_product
from distill_jax.model.layers.dot_product import AttentionBias
from distill_jax.partitioning import mesh as mesh_lib
from distill_jax.partitioning import sharding
from distill_jax.partitioning.constraint import leave_free

MASKED = -1e10


def make_arrays(
  q_length, k_length, bias_shape, batch=2, heads=2, head_dim=8
) -> tuple[Any, Any, Any, Any]:
  """Returns query, key, value and a bias that masks a third of the keys."""
  rng = np.random.default_rng(0)
  key_shape = (batch, heads, k_length, head_dim)
  shapes = [(batch, q_length, heads, head_dim), key_shape, key_shape]
  query, key, value = (
    jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in shapes
  )
  bias = rng.normal(size=(*bias_shape, q_length, k_length))
  is_masked = rng.random(bias.shape) < 1 / 3
  is_masked[..., 0] = False
  bias = jnp.asarray(np.where(is_masked, MASKED, bias), jnp.float32)
  return query, key, value, bias


def make_gpu(capability):
  """Returns what tells of a GPU."""
  return types.SimpleNamespace(
    device_kind="NVIDIA", compute_capability=capability
  )


def attend(implementation, constrain_fn=leave_free):
  """Returns the function of query, key, value, what is added, and a mask."""

  def run(query, key, value, added=None, allowed=None):
    return dot_product.attend(
      query,
      key,
      value,
      AttentionBias(added, allowed),
      implementation=implementation,
      constrain_fn=constrain_fn,
    )

  return run


def compute_gradients(
  implementation, arrays, constrain_fn=leave_free, allowed=None
):
  """Returns the result, and gradients of all arguments, with uneven weights."""
  attend_fn = functools.partial(
    attend(implementation, constrain_fn), allowed=allowed
  )
  weights = np.linspace(-1, 1, arrays[0].size, dtype=np.float32)

  @jax.jit
  def run(*arrays):
    def compute_loss(*arrays):
      attended = attend_fn(*arrays).astype(jnp.float32)
      return jnp.sum(attended * weights.reshape(attended.shape)), attended

    argnums = range(len(arrays))
    return jax.grad(compute_loss, argnums, has_aux=True)(*arrays)

  gradients, attended = run(*arrays)
  return [attended, *gradients]


@pytest.mark.parametrize(
  "q_length,k_length,bias_shape",
  [
    # Encoder: positions and masks of each row; two blocks of keys, not full.
    (130, 130, (2, 2)),
    # Decoder to encoder: the same mask for all heads.
    (24, 40, (2, 1)),
  ],
)
def test_the_tpu_kernel_and_its_gradients(q_length, k_length, bias_shape):
  arrays = make_arrays(q_length, k_length, bias_shape)
  expected = compute_gradients("xla", arrays)
  with pltpu.force_tpu_interpret_mode():
    found = compute_gradients("pallas_tpu", arrays)
  for a, b in zip(found, expected, strict=True):
    assert a.shape == b.shape
    np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


def test_a_query_that_may_see_nothing_sees_none_but_its_row():
  """As padding does, of rows without padding on the encoder's side."""
  *arrays, bias = make_arrays(8, 16, (2, 2))
  bias = bias.at[:, :, 3].set(MASKED)
  with pltpu.force_tpu_interpret_mode():
    found = jax.jit(attend("pallas_tpu"))(*arrays, bias)
  value = arrays[2]
  np.testing.assert_allclose(found[:, 3], value.mean(axis=2), rtol=1e-5)


def test_the_tpu_kernel_on_a_mesh():
  mesh = mesh_lib.make_mesh({"data": 2, "fsdp": 2, "model": 2})
  arrays = make_arrays(16, 24, (1, 2), batch=4)
  expected = compute_gradients("xla", arrays)
  with pltpu.force_tpu_interpret_mode():
    found = compute_gradients(
      "pallas_tpu", arrays, sharding.make_constrain_fn(mesh)
    )
  for a, b in zip(found, expected, strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


def test_the_tpu_kernel_lowers_for_a_tpu():
  arrays = make_arrays(128, 256, (2, 2))
  lowered = (
    jax.jit(attend("pallas_tpu"))
    .trace(*arrays)
    .lower(lowering_platforms=("tpu",))
  )
  assert "tpu_custom_call" in lowered.as_text()


@pytest.mark.parametrize("implementation", ["cudnn", "tokamax", "pallas_tpu"])
def test_one_query_is_left_to_xla(implementation):
  query, key, value, bias = make_arrays(1, 7, (1, 2))
  np.testing.assert_array_equal(
    attend(implementation)(query, key, value, bias),
    attend("xla")(query, key, value, bias),
  )


def test_what_cudnn_does_not_take_is_told():
  # Float32, and where there is no GPU no cuDNN either.
  query, key, value, bias = make_arrays(4, 6, (1, 2))
  with pytest.raises(UserError, match="from 4 to 6 tokens"):
    attend("cudnn")(query, key, value, bias)


def test_one_query_of_each_row_gets_what_is_added_to_its_part():
  query, key, value, bias = make_arrays(1, 7, (2, 2), batch=4)
  rows = jnp.repeat(bias, 2, axis=0)
  allowed = jnp.ones((4, 1, 1, 7), jnp.bool_)
  np.testing.assert_array_equal(
    attend("tokamax")(query, key, value, bias, allowed),
    attend("xla")(query, key, value, rows),
  )


@pytest.mark.parametrize("capability", ["8.9", "12.0", None])
def test_tokamax_is_refused_on_other_devices(monkeypatch, capability):
  monkeypatch.setitem(sys.modules, "tokamax", types.SimpleNamespace())
  if capability:
    monkeypatch.setattr(jax, "devices", lambda: [make_gpu(capability)])
  query, key, value, bias = make_arrays(4, 6, (1, 2))
  allowed = jnp.ones((2, 1, 4, 6), jnp.bool_)
  with pytest.raises(UserError, match=f"Hopper.*{capability or 'cpu, 0.0'}"):
    attend("tokamax")(query, key, value, bias, allowed)


@pytest.mark.parametrize("jax_version,is_mask", [((0, 10, 2), 0), ((0, 11), 1)])
def test_cudnn_takes_masks_where_they_get_no_gradient(
  monkeypatch, jax_version, is_mask
):
  """Earlier JAX would ask for the mask's, of every head."""
  given = []

  def run_kernel(query, key, value, bias, mask, **_):
    given.extend((bias, mask))
    return query

  monkeypatch.setattr(jax.nn, "dot_product_attention", run_kernel)
  monkeypatch.setattr(jax, "__version_info__", jax_version)
  arrays = make_arrays(4, 6, (1, 2))[:3]
  attend("cudnn")(*arrays, None, jnp.ones((2, 1, 4, 6), jnp.bool_))
  bias, mask = given
  assert (bias is None, mask is not None) == (is_mask, is_mask)
  if not is_mask:
    assert bias.shape == (2, 2, 4, 6)


def test_where_tokamax_is_not_installed_it_is_told(monkeypatch):
  monkeypatch.setitem(sys.modules, "tokamax", None)
  query, key, value, bias = make_arrays(4, 6, (1, 2))
  with pytest.raises(UserError, match="pip install .*tokamax.*Python 3.12"):
    attend("tokamax")(query, key, value, bias)


@pytest.fixture(name="tokamax")
def fixture_tokamax(install_tokamax):
  """Writes the kernel out, for the lengths that the real one takes."""

  def attend(query, key, value, bias, mask, *, scale, implementation):
    assert (scale, implementation) == (1.0, "mosaic")
    assert not query.shape[1] % 16 and not key.shape[1] % 16
    return dot_product._attend_xla(
      query,
      key.swapaxes(1, 2),
      value.swapaxes(1, 2),
      AttentionBias(bias, mask),
    )

  install_tokamax(attend)


@pytest.mark.usefixtures("tokamax")
@pytest.mark.parametrize("q_length,k_length", [(32, 48), (40, 24), (3, 5)])
@pytest.mark.parametrize("has_positions", [True, False])
def test_tokamax_is_given_whole_blocks(q_length, k_length, has_positions):
  *arrays, positions = make_arrays(q_length, k_length, (1, 2))
  if has_positions:
    arrays.append(positions)
  allowed = jnp.ones((2, 1, q_length, k_length), jnp.bool_)
  allowed = allowed.at[:, :, :, 2].set(False)
  compute = functools.partial(compute_gradients, arrays=arrays, allowed=allowed)
  for a, b in zip(compute("tokamax"), compute("xla"), strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


@pytest.mark.aot
@needs_libtpu
def test_the_tpu_kernel_compiles_with_its_gradients():
  parsed = topology.parse("v5e-4")
  topology.prepare_environment(parsed)
  place = jax.sharding.SingleDeviceSharding(topology.make_devices(parsed)[0])
  attend_fn = attend("pallas_tpu")

  def compute_loss(*arrays):
    return jnp.sum(attend_fn(*arrays).astype(jnp.float32))

  arrays = make_arrays(512, 512, (2, 2), head_dim=64)
  dtypes = (jnp.bfloat16,) * 3 + (jnp.float32,)
  shapes = [
    jax.ShapeDtypeStruct(array.shape, dtype, sharding=place)
    for array, dtype in zip(arrays, dtypes, strict=True)
  ]
  # The library's estimate of its cost adds the bias to what is bfloat16.
  with jax.numpy_dtype_promotion("standard"):
    lowered = (
      jax.jit(jax.grad(compute_loss, range(4)))
      .trace(*shapes)
      .lower(lowering_platforms=("tpu",))
    )
  assert "tpu_custom_call" in lowered.compile().as_text()


def assert_close_in_bfloat16(found, expected):
  """Compares, as far as eight bits go."""
  for a, b in zip(found, expected, strict=True):
    a, b = (np.asarray(x, np.float32) for x in (a, b))
    assert a.shape == b.shape
    np.testing.assert_allclose(a, b, rtol=0, atol=2e-2 * np.abs(b).max())


def to_bfloat16(arrays):
  return [jnp.asarray(x, jnp.bfloat16) for x in arrays]


needs_gpu = pytest.mark.skipif(
  jax.default_backend() != "gpu", reason="needs a GPU"
)
FUSED = [
  "cudnn",
  pytest.param(
    "tokamax",
    marks=pytest.mark.skipif(
      importlib.util.find_spec("tokamax") is None, reason="needs Tokamax"
    ),
  ),
]


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize("bias_shape", [(2, 2), (2, 1)])
def test_the_gpu_kernel_and_its_gradients(bias_shape):
  arrays = make_arrays(128, 64, bias_shape, head_dim=64)
  arrays = (*to_bfloat16(arrays[:3]), arrays[3])
  assert_close_in_bfloat16(
    compute_gradients("cudnn", arrays), compute_gradients("xla", arrays)
  )


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize("implementation", FUSED)
@pytest.mark.parametrize("q_length,k_length", [(128, 192), (40, 24)])
def test_the_gpu_kernels_with_positions_and_packed_rows(
  implementation, q_length, k_length
):
  *arrays, _ = make_arrays(q_length, k_length, (1, 1), head_dim=64)
  rng = np.random.default_rng(1)
  positions = rng.normal(size=(1, 2, q_length, k_length)).astype(np.float32)
  segments = [
    np.sort(rng.integers(1, 4, size=(2, length)))
    for length in (q_length, k_length)
  ]
  allowed = segments[0][:, None, :, None] == segments[1][:, None, None]
  arrays = (*to_bfloat16(arrays), jnp.asarray(positions))
  assert_close_in_bfloat16(
    compute_gradients(implementation, arrays, allowed=allowed),
    compute_gradients("xla", arrays, allowed=allowed),
  )


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize("implementation", FUSED)
def test_a_query_that_may_see_nothing_spoils_no_gradient(implementation):
  """Padding, of rows without padding on the encoder's side; no positions."""
  *arrays, _ = make_arrays(64, 128, (1, 1), head_dim=64)
  arrays = to_bfloat16(arrays)
  allowed = jnp.ones((2, 1, 64, 128), jnp.bool_)
  allowed = allowed.at[:, :, 48:].set(False)

  def compute(implementation):
    def compute_loss(query, key, value):
      attended = attend(implementation)(query, key, value, None, allowed)
      # No loss reads padding.
      return jnp.sum(jnp.sin(attended[:, :48].astype(jnp.float32)))

    return jax.jit(jax.grad(compute_loss, argnums=(0, 1, 2)))(*arrays)

  assert_close_in_bfloat16(compute(implementation), compute("xla"))
