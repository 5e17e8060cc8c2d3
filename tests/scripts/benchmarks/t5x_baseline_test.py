"""Tests of scripts/benchmarks/t5x_baseline.py."""

import argparse

import pytest

pytest.importorskip("t5x", reason="T5X is in no package index")

import jax
from script_import import import_script

t5x_baseline = import_script("t5x_baseline")

_SIZES = {
  "vocab_size": 48,
  "embed_dim": 16,
  "num_heads": 2,
  "head_dim": 8,
  "mlp_dim": 24,
  "num_encoder_layers": 2,
  "num_decoder_layers": 2,
  "mlp_activations": ["gelu", "linear"],
  "tie_embeddings": False,
  "dropout_rate": 0.0,
}
_OPTIONS = argparse.Namespace(
  steps=3, warmup_steps=1, row_inputs=6, row_targets=4, batch=2, tokens=3
)
_ROWS = [
  {"id": "a", "kind": "label", "inputs": [5, 6, 1], "targets": [7, 1]},
  {"id": "a", "kind": "rationale", "inputs": [8, 1], "targets": [9, 4, 1]},
]


@pytest.fixture(autouse=True)
def fixture_ranks_of_t5x():
  """Lets T5X's code promote ranks."""
  with jax.numpy_rank_promotion("allow"):
    yield


def test_rows_are_padded_and_targets_shifted():
  batch = t5x_baseline.make_batch(_ROWS, _OPTIONS)
  assert batch["encoder_input_tokens"][0].tolist() == [5, 6, 1, 0, 0, 0]
  assert batch["decoder_target_tokens"][1].tolist() == [9, 4, 1, 0]
  assert batch["decoder_input_tokens"][1].tolist() == [0, 9, 4, 1]
  assert batch["decoder_loss_weights"][0].tolist() == [1, 1, 0, 0]


def test_training_counts_what_it_trains_on():
  model = t5x_baseline.make_model(_SIZES, "float32")
  report = t5x_baseline.measure_training(model, [_ROWS] * 2, _OPTIONS)
  assert report["examples_per_step"] == 1
  assert report["padding_share"] == pytest.approx(1 - 10 / 20)
  seconds = report["seconds_per_step"]
  assert report["tokens_per_second"] == pytest.approx(10 / seconds)
  assert report["loss"] > 0


def test_decoding_goes_on_to_the_last_step():
  model = t5x_baseline.make_model(_SIZES, "float32")
  report = t5x_baseline.measure_decoding(model, 48, _OPTIONS)
  rate = report["tokens_per_second"] * report["seconds_per_step"]
  assert rate == pytest.approx(2 * 3)
