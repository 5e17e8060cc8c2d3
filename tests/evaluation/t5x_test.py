"""Scores of given targets against those of T5X, from its checkpoint."""

import pathlib

import jax
import numpy as np
import pytest
import tensorstore
from flax import traverse_util
from synthetic_cache import make_task_info

from distill_jax.data import vocab
from distill_jax.data.token_cache import Example
from distill_jax.evaluation.evaluator import Evaluator
from distill_jax.model.config import T5Config
from distill_jax.model.t5 import T5
from distill_jax.partitioning import mesh as mesh_lib

FIXTURES = pathlib.Path(__file__).parents[2].parent / "shared/fixtures/t5x_tiny"
pytestmark = [
  pytest.mark.shared,
  pytest.mark.skipif(
    not FIXTURES.exists(), reason="no T5X fixtures beside this checkout"
  ),
]
CONFIG = T5Config(
  vocab_size=384,
  embed_dim=64,
  num_heads=4,
  head_dim=16,
  mlp_dim=128,
  num_encoder_layers=2,
  num_decoder_layers=2,
  dropout_rate=0.0,
)


def test_sequence_scores():
  params = {}
  for path in (FIXTURES / "legacy/checkpoint_1000").glob("target.*"):
    spec = {"driver": "zarr", "kvstore": {"driver": "file", "path": str(path)}}
    array = tensorstore.open(spec).result().read().result()
    params[tuple(path.name.split(".")[1:])] = array
  with np.load(FIXTURES / "forward.npz") as file:
    inputs = file["encoder_input_tokens"]
    targets = file["decoder_target_tokens"]
    expected = file["sequence_scores"]
  examples = [
    Example("", row[row > 0], target[target > 0], "", "")
    for row, target in zip(inputs, targets, strict=True)
  ]
  # Two batches, the second half padding.
  evaluator = Evaluator(
    T5(CONFIG),
    mesh_lib.make_mesh({}, jax.devices()[:1]),
    vocab.load_vocabulary(vocab.BYTES),
    {"inputs": inputs.shape[1], "targets": targets.shape[1]},
    batch_rows=3,
  )
  scores, counts = evaluator.compute_log_likelihoods(
    traverse_util.unflatten_dict(params), examples, make_task_info("label")
  )
  np.testing.assert_allclose(scores, expected, rtol=1e-5)
  assert counts.tolist() == [12, 12, 6, 3]
