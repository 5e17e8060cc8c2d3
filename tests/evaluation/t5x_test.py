"""Scores of given targets against those of T5X, from its checkpoint."""

import jax
import numpy as np
import t5x_fixtures
from synthetic_cache import make_task_info

from distill_jax.data import vocab
from distill_jax.data.token_cache import Example
from distill_jax.evaluation.evaluator import Evaluator
from distill_jax.model.t5.t5 import T5
from distill_jax.partitioning import mesh as mesh_lib

pytestmark = t5x_fixtures.MARKS


def test_sequence_scores():
  config, params = t5x_fixtures.open_checkpoint()
  arrays = t5x_fixtures.load_arrays("forward.npz")
  inputs = arrays["encoder_input_tokens"]
  targets = arrays["decoder_target_tokens"]
  examples = [
    Example("", row[row > 0], target[target > 0], "", "")
    for row, target in zip(inputs, targets, strict=True)
  ]
  # Two batches, the second half padding.
  evaluator = Evaluator(
    T5(config),
    mesh_lib.make_mesh({}, jax.devices()[:1]),
    vocab.load_vocabulary(vocab.BYTES),
    {"inputs": inputs.shape[1], "targets": targets.shape[1]},
    batch_rows=3,
  )
  scores, counts = evaluator.compute_log_likelihoods(
    params, examples, make_task_info("label")
  )
  np.testing.assert_allclose(scores, arrays["sequence_scores"], rtol=1e-5)
  assert counts.tolist() == [12, 12, 6, 3]
