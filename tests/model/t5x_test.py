"""The model against numbers that T5X itself computed, from its checkpoints."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tensorstore
from flax import serialization, traverse_util

from distill_jax.model.config import T5Config
from distill_jax.model.t5 import T5

FIXTURES = pathlib.Path(__file__).parents[2].parent / "shared/fixtures/t5x_tiny"
pytestmark = [
  pytest.mark.shared,
  pytest.mark.skipif(
    not FIXTURES.exists(), reason="no T5X fixtures beside this checkout"
  ),
]
V1_1 = T5Config(
  vocab_size=384,
  embed_dim=64,
  num_heads=4,
  head_dim=16,
  mlp_dim=128,
  num_encoder_layers=2,
  num_decoder_layers=2,
  dropout_rate=0.0,
)
V1_0 = T5Config(
  vocab_size=384,
  embed_dim=64,
  num_heads=4,
  head_dim=16,
  mlp_dim=128,
  num_encoder_layers=2,
  num_decoder_layers=2,
  mlp_activations=("relu",),
  tie_embeddings=True,
  dropout_rate=0.0,
)


def _restore(folder):
  """Reads the target arrays of a legacy checkpoint: a zarr folder each."""
  params = {}
  for path in folder.glob("target.*"):
    spec = {"driver": "zarr", "kvstore": {"driver": "file", "path": str(path)}}
    array = tensorstore.open(spec).result().read().result()
    params[tuple(path.name.split(".")[1:])] = array
  return traverse_util.unflatten_dict(params)


def _score(config, params, batch):
  """Returns the logits; rows are single examples unless ids say otherwise."""

  def get_segments(side, tokens):
    ids = batch.get(f"{side}_segment_ids", batch[tokens] > 0)
    return ids.astype(np.int32)

  return jax.jit(T5(config).apply, static_argnames="enable_dropout")(
    {"params": params},
    batch["encoder_input_tokens"],
    batch["decoder_input_tokens"],
    get_segments("encoder", "encoder_input_tokens"),
    get_segments("decoder", "decoder_target_tokens"),
    enable_dropout=False,
  )


def _sum_losses(logits, batch):
  """Returns T5X's loss and its z-loss part, summed over real targets."""
  log_z = jax.nn.logsumexp(logits, axis=-1)
  target_logits = jnp.take_along_axis(
    logits, batch["decoder_target_tokens"][:, :, None], axis=2
  )[:, :, 0]
  is_target = batch["decoder_loss_weights"] > 0
  z_loss = 1e-4 * jnp.sum(log_z**2, where=is_target)
  return jnp.sum(log_z - target_logits, where=is_target) + z_loss, z_loss


def _load(name):
  with np.load(FIXTURES / name) as file:
    return dict(file)


@pytest.mark.parametrize(
  "config,checkpoint,arrays",
  [
    (V1_1, "legacy", "forward.npz"),
    (V1_1, "legacy", "packed.npz"),
    (V1_0, "v1_0/legacy", "v1_0/forward.npz"),
  ],
  ids=["v1_1", "packed", "v1_0"],
)
def test_logits_and_losses(config, checkpoint, arrays):
  batch = _load(arrays)
  params = _restore(FIXTURES / checkpoint / "checkpoint_1000")
  logits = _score(config, params, batch)
  is_target = batch["decoder_loss_weights"] > 0
  np.testing.assert_allclose(
    logits[is_target], batch["logits"][is_target], rtol=1e-5, atol=1e-5
  )
  loss, z_loss = _sum_losses(logits, batch)
  np.testing.assert_allclose(loss, batch["loss"], rtol=1e-5)
  np.testing.assert_allclose(z_loss, batch["z_loss"], rtol=1e-5)


def test_encoder_output():
  batch = _load("forward.npz")
  tokens = batch["encoder_input_tokens"]
  params = _restore(FIXTURES / "legacy/checkpoint_1000")
  encoded = jax.jit(
    lambda *inputs: T5(V1_1).apply(
      {"params": params}, *inputs, enable_dropout=False, method=T5.encode
    )
  )(tokens, (tokens > 0).astype(np.int32))
  np.testing.assert_allclose(
    encoded[tokens > 0], batch["encoder_output"][tokens > 0], atol=1e-5
  )


def test_gradient_norms():
  batch = _load("forward.npz")
  params = _restore(FIXTURES / "legacy/checkpoint_1000")
  gradients = jax.jit(
    jax.grad(lambda params: _sum_losses(_score(V1_1, params, batch), batch)[0])
  )(params)
  gradients = traverse_util.flatten_dict(gradients, sep="/")
  assert len(gradients) == 52
  for path, gradient in gradients.items():
    np.testing.assert_allclose(
      np.linalg.norm(gradient),
      batch[f"grad_norm/{path}"],
      rtol=1e-4,
      err_msg=path,
    )


def test_the_single_file_checkpoint_of_t5x():
  checkpoint = FIXTURES / "test_t5_tiny/test_t5_tiny.checkpoint_0"
  restored = serialization.msgpack_restore(checkpoint.read_bytes())
  config = T5Config(
    vocab_size=32128,
    embed_dim=8,
    num_heads=4,
    head_dim=3,
    mlp_dim=16,
    num_encoder_layers=2,
    num_decoder_layers=2,
    dropout_rate=0.0,
  )
  batch = _load("test_t5_tiny/forward.npz")
  logits = _score(config, restored["optimizer"]["target"], batch)
  np.testing.assert_allclose(
    logits[:, :, :64], batch["logits_first64"], rtol=1e-5, atol=1e-5
  )
  np.testing.assert_array_equal(logits.argmax(-1), batch["logits_argmax"])
  np.testing.assert_allclose(
    jax.nn.logsumexp(logits, axis=-1), batch["logits_logsumexp"], rtol=1e-5
  )
  loss, _ = _sum_losses(logits, batch)
  np.testing.assert_allclose(loss, batch["loss"], rtol=1e-5)
