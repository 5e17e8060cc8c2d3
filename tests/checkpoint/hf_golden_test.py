"""Models that transformers saved, against what it computed with them."""

import functools
import json
import shutil

import hf_golden
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from distill_jax.checkpoint import hf
from distill_jax.decoding.beam import beam_decode
from distill_jax.decoding.greedy import greedy_decode
from distill_jax.errors import UserError
from distill_jax.model.t5.t5 import T5


@pytest.fixture(params=hf_golden.VARIANTS)
def golden(request):
  """A model of transformers, as `hf_golden.load` returns it."""
  return hf_golden.load(request.param)


@functools.partial(jax.jit, static_argnums=0)
def _differentiate(config, params, batch, targets):
  def compute_loss(params):
    logits = T5(config).apply({"params": params}, batch, enable_dropout=False)
    log_probs = jax.nn.log_softmax(logits)
    picked = jnp.take_along_axis(log_probs, targets[:, :, None], axis=2)
    return -jnp.mean(picked[:, :, 0], where=targets > 0), logits

  return jax.value_and_grad(compute_loss, has_aux=True)(params)


def test_logits_loss_and_every_gradient(golden):
  targets = golden.arrays["decoder_target_tokens"]
  (loss, logits), gradients = _differentiate(
    golden.config, golden.params, golden.batch, targets
  )
  is_target = targets > 0
  np.testing.assert_allclose(
    logits[is_target], golden.arrays["logits"][is_target], rtol=0, atol=1e-4
  )
  np.testing.assert_allclose(loss, golden.arrays["loss"], rtol=1e-5)
  gradients = traverse_util.flatten_dict(gradients, sep="/")
  num_stored = sum(name.startswith("grad/") for name in golden.arrays)
  assert len(gradients) == len(golden.gradients) == num_stored
  for path, expected in golden.gradients.items():
    error = np.linalg.norm(gradients[path] - expected)
    assert error < 1e-4 * np.linalg.norm(expected), path


def test_greedy_tokens(golden):
  tokens = hf_golden.decode(
    golden, greedy_decode, eos_id=int(golden.arrays["eos_id"])
  )
  np.testing.assert_array_equal(tokens, golden.arrays["greedy_tokens"])


def test_beams_without_an_end(golden):
  tokens, scores = _search(golden, eos_id=-1)
  np.testing.assert_array_equal(tokens, golden.arrays["beam_tokens"])
  np.testing.assert_allclose(
    scores, golden.arrays["beam_scores"], rtol=1e-5, atol=1e-4
  )


def test_beams_that_end(golden):
  """What transformers found ended, we found too, or better.

  Both extend the same beams. But transformers drops an ended sequence that
  ranks below them, and takes those cut at the last step for ended.
  """
  eos_id = int(golden.arrays["eos_id"])
  tokens, scores = _search(golden, eos_id=eos_id)
  expected_tokens = golden.arrays["ended_beam_tokens"]
  expected_scores = golden.arrays["ended_beam_scores"]
  num_compared = 0
  for row, rank in np.ndindex(*scores.shape):
    sequence = expected_tokens[row, rank]
    score = expected_scores[row, rank]
    if eos_id not in sequence:
      continue
    found = (tokens[row] == sequence).all(axis=1)
    if found.any():
      np.testing.assert_allclose(scores[row][found], [score], rtol=1e-5)
      num_compared += 1
    else:
      assert (scores[row] > score).all()
      assert (tokens[row] == eos_id).any(axis=1).all()
  assert num_compared >= 3


def _search(golden, *, eos_id):
  tokens, scores = hf_golden.decode(
    golden,
    beam_decode,
    num_beams=golden.arrays["beam_tokens"].shape[1],
    length_penalty=0.0,
    eos_id=eos_id,
  )
  return np.asarray(tokens), np.asarray(scores)


@pytest.mark.parametrize("variant", hf_golden.VARIANTS)
def test_transformers_5_says_every_t5_is_tied(variant, tmp_path):
  """It does so whatever it saves; the goldens say what transformers 4 said."""
  saved = hf_golden.FOLDER / variant
  shutil.copyfile(saved / "model.safetensors", tmp_path / "model.safetensors")
  hf_config = json.loads((saved / "config.json").read_text())
  hf_config["tie_word_embeddings"] = True
  if variant == "umt5":
    # 5.23 leaves open whether its logits are divided, 5.24 states it.
    (tmp_path / "config.json").write_text(json.dumps(hf_config))
    with pytest.raises(UserError, match="scale_decoder_outputs false if"):
      hf.open_hf(tmp_path)
    hf_config["scale_decoder_outputs"] = False
  (tmp_path / "config.json").write_text(json.dumps(hf_config))
  assert hf.open_hf(tmp_path).config == hf.open_hf(saved).config
