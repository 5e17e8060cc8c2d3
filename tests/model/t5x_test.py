"""The model against numbers that T5X itself computed, from its checkpoints."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import t5_batch
import t5x_fixtures
from flax import traverse_util

from distill_jax.model.t5.t5 import T5

pytestmark = t5x_fixtures.MARKS


def _score(config, params, batch):
  """Returns the logits; rows are single examples unless ids say otherwise."""

  def get_segments(side, tokens):
    ids = batch.get(f"{side}_segment_ids", batch[tokens] > 0)
    return ids.astype(np.int32)

  return jax.jit(T5(config).apply, static_argnames="enable_dropout")(
    {"params": params},
    t5_batch.make_batch(
      batch["encoder_input_tokens"],
      batch["decoder_input_tokens"],
      get_segments("encoder", "encoder_input_tokens"),
      get_segments("decoder", "decoder_target_tokens"),
    ),
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


@pytest.mark.parametrize(
  "checkpoint,arrays",
  [
    (t5x_fixtures.LEGACY, "forward.npz"),
    (t5x_fixtures.ORBAX, "forward.npz"),
    (t5x_fixtures.LEGACY, "packed.npz"),
    (t5x_fixtures.LEGACY_1_0, "v1_0/forward.npz"),
  ],
  ids=["legacy", "orbax", "packed", "v1_0"],
)
def test_logits_and_losses(checkpoint, arrays):
  batch = t5x_fixtures.load_arrays(arrays)
  config, params = t5x_fixtures.open_checkpoint(checkpoint)
  logits = _score(config, params, batch)
  is_target = batch["decoder_loss_weights"] > 0
  np.testing.assert_allclose(
    logits[is_target], batch["logits"][is_target], rtol=1e-5, atol=1e-5
  )
  loss, z_loss = _sum_losses(logits, batch)
  np.testing.assert_allclose(loss, batch["loss"], rtol=1e-5)
  np.testing.assert_allclose(z_loss, batch["z_loss"], rtol=1e-5)


def test_encoder_output():
  batch = t5x_fixtures.load_arrays("forward.npz")
  tokens = batch["encoder_input_tokens"]
  config, params = t5x_fixtures.open_checkpoint()
  encoded = jax.jit(
    lambda *inputs: T5(config).apply(
      {"params": params}, *inputs, enable_dropout=False, method=T5.encode
    )
  )(tokens, (tokens > 0).astype(np.int32))
  np.testing.assert_allclose(
    encoded[tokens > 0], batch["encoder_output"][tokens > 0], atol=1e-5
  )


def test_gradient_norms():
  batch = t5x_fixtures.load_arrays("forward.npz")
  config, params = t5x_fixtures.open_checkpoint()
  gradients = jax.jit(
    jax.grad(
      lambda params: _sum_losses(_score(config, params, batch), batch)[0]
    )
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
  config, params = t5x_fixtures.open_checkpoint(t5x_fixtures.SINGLE_FILE)
  batch = t5x_fixtures.load_arrays("test_t5_tiny/forward.npz")
  logits = _score(config, params, batch)
  np.testing.assert_allclose(
    logits[:, :, :64], batch["logits_first64"], rtol=1e-5, atol=1e-5
  )
  np.testing.assert_array_equal(logits.argmax(-1), batch["logits_argmax"])
  np.testing.assert_allclose(
    jax.nn.logsumexp(logits, axis=-1), batch["logits_logsumexp"], rtol=1e-5
  )
  loss, _ = _sum_losses(logits, batch)
  np.testing.assert_allclose(loss, batch["loss"], rtol=1e-5)
