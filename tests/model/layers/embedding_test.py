import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding

from distill_jax.model.layers.embedding import Embedding
from distill_jax.partitioning import axes, sharding
from distill_jax.partitioning import mesh as mesh_lib


def _make_table(config):
  rng = np.random.default_rng(0)
  shape = (config.vocab_size, config.embed_dim)
  return rng.normal(size=shape).astype(np.float32)


def test_tokens_look_up_their_rows(config):
  table = _make_table(config)
  tokens = jnp.array([[3, 0, 31], [3, 7, 7]])
  actual = Embedding(config).apply({"params": {"embedding": table}}, tokens)
  np.testing.assert_array_equal(actual, table[np.asarray(tokens)])


def test_an_id_outside_the_table_is_loud(config):
  tokens = jnp.array([[31, 32]])
  variables = {"params": {"embedding": _make_table(config)}}
  vectors = Embedding(config).apply(variables, tokens)
  assert np.isfinite(vectors[0, 0]).all()
  assert np.isnan(vectors[0, 1]).all()


def test_tied_logits_are_scaled_products_in_float32(config):
  table = _make_table(config)
  x = np.random.default_rng(1).normal(size=(2, 3, 12)).astype(np.float32)
  logits = Embedding(config).apply(
    {"params": {"embedding": table}},
    jnp.asarray(x),
    method=Embedding.compute_logits,
  )
  np.testing.assert_allclose(
    logits, x @ table.T / np.sqrt(12), rtol=1e-5, atol=1e-6
  )


def test_bfloat16_activations_come_from_a_float32_table(config):
  config = dataclasses.replace(config, dtype="bfloat16")
  tokens = jnp.zeros((1, 1), jnp.int32)
  vectors, variables = Embedding(config).init_with_output(
    jax.random.key(0), tokens
  )
  assert vectors.dtype == jnp.bfloat16
  assert variables["params"]["embedding"].value.dtype == jnp.float32


def test_no_device_holds_the_whole_vocabulary(config):
  """Left to itself the compiler gathers it, and moves parts of rows about.

  In a train step it then warns of "involuntary full rematerialization", on
  standard error only; what it does shows in the program.
  """
  mesh = mesh_lib.make_mesh({"data": 2, "fsdp": 2, "model": 2})
  model = Embedding(config, sharding.make_constrain_fn(mesh))
  spec = axes.to_partition_spec(("vocab", "embed"), axes.PARAM_RULES, "")
  table = jax.device_put(_make_table(config), NamedSharding(mesh, spec))
  tokens = jax.device_put(
    np.ones((8, 6), np.int32), sharding.batch_sharding(mesh)
  )

  def compute(table, tokens):
    vectors = model.apply({"params": {"embedding": table}}, tokens)
    return model.constrain_fn(vectors, ("batch", "length", "embed"))

  def compute_loss(table, tokens):
    return jnp.sum(jnp.sin(compute(table, tokens)))

  # As in a train step, gradients lie where parameters do.
  differentiate = jax.jit(jax.grad(compute_loss), out_shardings=table.sharding)
  program = differentiate.lower(table, tokens).compile().as_text()
  # Each device looks 2 of 8 rows up in half of the vocabulary.
  assert "f32[2,6,12]" in program
  assert "f32[16,12]" in program
  assert "f32[32," not in program
  assert "collective-permute" not in program
