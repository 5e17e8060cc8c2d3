import dataclasses
import itertools
import json
import pathlib

import flax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import t5_batch
from flax import traverse_util
from flax.core import meta
from jax.sharding import PartitionSpec as P

from distill_jax.model.t5.config import T5Config
from distill_jax.model.t5.t5 import T5
from distill_jax.partitioning import constraint, sharding
from distill_jax.partitioning import mesh as mesh_lib
from distill_jax.partitioning.constraint import leave_free
from distill_jax.training import state as state_lib

GOLDEN_DIR = pathlib.Path(__file__).parents[2] / "testdata" / "model"

# Each parameter's logical axes by the end of its path.
AXIS_NAMES = {
  "token_embedder/embedding": ("vocab", "embed"),
  "relpos_bias/rel_embedding": ("heads", "relpos_buckets"),
  "logits_dense/kernel": ("embed", "vocab"),
  "query/kernel": ("embed", "joined_kv"),
  "key/kernel": ("embed", "joined_kv"),
  "value/kernel": ("embed", "joined_kv"),
  "out/kernel": ("joined_kv", "embed"),
  "wi/kernel": ("embed", "mlp"),
  "wi_0/kernel": ("embed", "mlp"),
  "wi_1/kernel": ("embed", "mlp"),
  "wo/kernel": ("mlp", "embed"),
}


def _init_abstractly(config):
  tokens = jax.ShapeDtypeStruct((1, 2), jnp.int32)
  return jax.eval_shape(
    lambda rng, t: T5(config).init(
      rng, t5_batch.make_batch(t, t, t, t), enable_dropout=False
    ),
    jax.random.key(0),
    tokens,
  )["params"]


def test_logits_equal_those_of_transformers(golden, score):
  logits = score(golden.config, golden.params, golden.batch)
  is_target = golden.arrays["decoder_target_tokens"] > 0
  np.testing.assert_allclose(
    logits[is_target], golden.arrays["logits"][is_target], rtol=1e-5, atol=1e-5
  )


def test_loss_and_gradients_equal_those_of_transformers(golden, score):
  targets = golden.arrays["decoder_target_tokens"]

  def compute_loss(params):
    log_probs = jax.nn.log_softmax(score(golden.config, params, golden.batch))
    picked = jnp.take_along_axis(log_probs, targets[:, :, None], axis=2)
    return -jnp.mean(picked[:, :, 0], where=targets > 0)

  loss, gradients = jax.jit(jax.value_and_grad(compute_loss))(golden.params)
  np.testing.assert_allclose(loss, golden.arrays["loss"], rtol=1e-5)
  gradients = traverse_util.flatten_dict(gradients, sep="/")
  assert gradients.keys() == golden.gradients.keys()
  for path, expected in golden.gradients.items():
    np.testing.assert_allclose(
      gradients[path], expected, rtol=1e-4, atol=1e-5, err_msg=path
    )


@pytest.mark.parametrize("family", ["t5_1_0", "t5_1_1"])
def test_parameter_tree_is_that_of_t5x(family):
  tree = json.loads((GOLDEN_DIR / "t5x_parameter_tree.json").read_text())
  sizes = tree[family]["config"]
  sizes["embed_dim"] = sizes.pop("emb_dim")
  is_v1_0 = family == "t5_1_0"
  config = T5Config(
    **sizes,
    mlp_activations=("relu",) if is_v1_0 else ("gelu", "linear"),
    tie_embeddings=is_v1_0,
    dtype="bfloat16",
  )
  params = meta.unbox(_init_abstractly(config))
  params = traverse_util.flatten_dict(params, sep="/")
  assert {path: list(leaf.shape) for path, leaf in params.items()} == tree[
    family
  ]["shapes"]
  assert {leaf.dtype for leaf in params.values()} == {jnp.dtype("float32")}


def test_a_bias_of_every_layer_takes_the_place_of_the_shared_one(config):
  def list_biases(config):
    params = traverse_util.flatten_dict(_init_abstractly(config), sep="/")
    return {
      path.removesuffix("/rel_embedding"): box.value.shape
      for path, box in params.items()
      if path.endswith("rel_embedding")
    }

  shape = (config.num_heads, config.relative_attention_num_buckets)
  config = dataclasses.replace(config, num_decoder_layers=3)
  assert list_biases(config) == dict.fromkeys(
    ("encoder/relpos_bias", "decoder/relpos_bias"), shape
  )
  # T5X's scalable_t5 has these names.
  config = dataclasses.replace(config, per_layer_relative_bias=True)
  layers = [("encoder", 0), ("encoder", 1), *(("decoder", i) for i in range(3))]
  assert list_biases(config) == {
    f"{stack}/layers_{i}/relpos_bias": shape for stack, i in layers
  }


def test_a_bias_of_every_layer_on_eight_devices_is_that_on_one(config):
  config = dataclasses.replace(config, per_layer_relative_bias=True)
  rng = np.random.default_rng(0)
  shapes, logical_axes = state_lib.abstract_params(T5(config))
  params = jax.tree.map(
    lambda leaf: rng.normal(0.2, 0.4, leaf.shape).astype(np.float32), shapes
  )
  tokens = rng.integers(1, config.vocab_size, (4, 6)).astype(np.int32)
  is_token = jnp.ones_like(tokens)

  def differentiate(constrain_fn, params):
    def compute_loss(params, tokens):
      logits = T5(config, constrain_fn).apply(
        {"params": params},
        t5_batch.make_batch(tokens, tokens, is_token, is_token),
        enable_dropout=False,
      )
      return jnp.mean(jnp.square(logits))

    return jax.jit(jax.value_and_grad(compute_loss))(params, tokens)

  mesh = mesh_lib.make_mesh({"data": 2, "fsdp": 2, "model": 2})
  shardings = sharding.shard_params(logical_axes, shapes, mesh)
  placed = jax.device_put(params, shardings)
  for stack in ("encoder", "decoder"):
    for layer in ("layers_0", "layers_1"):
      bias = placed[stack][layer]["relpos_bias"]["rel_embedding"]
      assert bias.sharding.spec == P("model", None)
      assert bias.addressable_shards[0].data.shape == (1, 32)
  jax.tree.map(
    lambda many, one: np.testing.assert_allclose(
      many, one, rtol=1e-4, atol=1e-5
    ),
    differentiate(sharding.make_constrain_fn(mesh), placed),
    differentiate(leave_free, params),
  )


def test_every_parameter_has_its_logical_axes(golden):
  boxed = _init_abstractly(golden.config)
  is_box = lambda leaf: isinstance(leaf, meta.AxisMetadata)
  leaves = jax.tree_util.tree_leaves_with_path(boxed, is_leaf=is_box)
  seen = set()
  for key_path, box in leaves:
    path = "/".join(key.key for key in key_path)
    ending = "/".join(path.split("/")[-2:])
    expected = ("embed",) if path.endswith("/scale") else AXIS_NAMES[ending]
    assert box.names == expected, path
    assert len(box.names) == box.value.ndim, path
    seen.add(ending)
  assert len(leaves) == len(golden.gradients)


def test_activations_are_named_where_sharding_may_constrain_them(golden):
  named = []

  class Constrain(type(constraint.leave_free)):
    def __call__(self, x, axis_names, /):
      named.append(list(zip(axis_names, x.shape, strict=True)))
      return x

  model, variables = T5(golden.config, Constrain()), {"params": golden.params}
  expected = {
    ("batch", "length", "embed"),
    ("batch", "length", "heads", "kv"),
    ("batch", "length", "mlp"),
    ("batch", "length", "vocab"),
  }

  def decode_one(batch):
    encoded = model.apply(
      variables,
      batch["encoder_input_tokens"],
      batch["encoder_segment_ids"],
      enable_dropout=False,
      method=T5.encode,
    )
    cache = model.apply(
      variables,
      encoded,
      batch["encoder_segment_ids"],
      4,
      method=T5.start_decoding,
    )
    named.clear()
    first_tokens = jnp.zeros(len(encoded), jnp.int32)
    model.apply(variables, first_tokens, 0, cache, method=T5.decode_step)

  def score(batch):
    model.apply(variables, batch, enable_dropout=False)

  sizes = {
    "embed": golden.config.embed_dim,
    "heads": golden.config.num_heads,
    "kv": golden.config.head_dim,
    "mlp": golden.config.mlp_dim,
    "vocab": golden.config.vocab_size,
    "batch": len(golden.batch["encoder_input_tokens"]),
  }
  # Rows of the embedding too, which are looked up whole.
  expected |= {("vocab", "embed")}
  for run in (score, decode_one):
    named.clear()
    jax.eval_shape(run, golden.batch)
    assert {tuple(name for name, _ in axes) for axes in named} == expected
    for name, size in itertools.chain(*named):
      assert size == sizes.get(name, size)


def test_bfloat16_stays_near_float32(golden, score):
  exact = score(golden.config, golden.params, golden.batch)
  config = dataclasses.replace(golden.config, dtype="bfloat16")
  rounded = score(config, golden.params, golden.batch)
  assert rounded.dtype == jnp.float32
  is_target = golden.arrays["decoder_target_tokens"] > 0
  error = np.linalg.norm((rounded - exact)[is_target])
  share = error / np.linalg.norm(exact[is_target])
  # One rounding to bfloat16 is at most 2**-8 off; there are some twenty.
  assert 1e-4 < share < 0.03


def test_dropout_asks_for_a_key(golden):
  model = T5(dataclasses.replace(golden.config, dropout_rate=0.1))
  with pytest.raises(flax.errors.InvalidRngError, match="dropout"):
    jax.eval_shape(
      lambda batch: model.apply(
        {"params": golden.params}, batch, enable_dropout=True
      ),
      golden.batch,
    )
