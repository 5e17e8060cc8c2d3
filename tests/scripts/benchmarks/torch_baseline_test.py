"""Tests of scripts/benchmarks/torch_baseline.py."""

import argparse
import dataclasses

import pytest

pytest.importorskip("torch", reason="the baseline is PyTorch's")
pytest.importorskip("transformers", reason="the baseline is transformers'")

import torch
from script_import import import_script
from synthetic_cache import make_cache

from distill_jax.model.t5.config import T5Config
from distill_jax.model.t5.t5 import T5
from distill_jax.training import state as state_lib

torch_baseline = import_script("torch_baseline")
benchmark_data = import_script("benchmark_data")

_CONFIG = T5Config(
  vocab_size=48,
  embed_dim=16,
  num_heads=2,
  head_dim=8,
  mlp_dim=24,
  num_encoder_layers=2,
  num_decoder_layers=2,
)
_CPU = torch.device("cpu")


def _make_options(**changes):
  defaults = {
    "steps": 2,
    "warmup_steps": 1,
    "compile": False,
    "dtype": "float32",
    "batch": 2,
    "row_inputs": 5,
    "tokens": 3,
  }
  return argparse.Namespace(**(defaults | changes))


@pytest.mark.parametrize("tied", [False, True])
def test_the_model_has_our_parameters(tied):
  config = dataclasses.replace(_CONFIG, tie_embeddings=tied)
  model = torch_baseline.make_model(dataclasses.asdict(config), "sdpa")
  abstract, _ = state_lib.abstract_params(T5(config))
  num_params = sum(weight.numel() for weight in model.parameters())
  assert num_params == state_lib.count_params(abstract)
  # Untied, logits are not divided by sqrt(d_model); tied, they are.
  assert model.config.scale_decoder_outputs == tied


def test_lengths_that_differ_are_noticed():
  def make_row(kind, num_inputs):
    return {"kind": kind, "inputs": [3] * num_inputs, "targets": [4]}

  alike = [make_row("label", 2), make_row("label", 5), make_row("rationale", 5)]
  assert not torch_baseline.lengths_differ([alike, alike[1:]])
  assert torch_baseline.lengths_differ([alike, alike[:1]])


def test_training_takes_every_exported_row(tmp_path):
  path = tmp_path / "examples.jsonl"
  cache = make_cache(tmp_path, 12, num_rationales=10)
  benchmark_data.export_examples(path, _CONFIG, cache, 4, 3)
  sizes, steps = torch_baseline.baseline_arguments.read_examples(path)
  model = torch_baseline.make_model(sizes, "sdpa")
  measured = torch_baseline.measure_training(
    model, steps, _make_options(), _CPU
  )
  seconds = measured["seconds_per_step"]
  assert measured["examples_per_step"] == 4
  assert measured["sequences_per_second"] * seconds == pytest.approx(
    sum(len(rows) for rows in steps[1:]) / 2
  )
  assert 0 < measured["padding_share"] < 1
  assert measured["loss"] > 0


def test_compiling_alone_is_for_lengths_that_differ(tmp_path, monkeypatch):
  path = tmp_path / "examples.jsonl"
  cache = make_cache(tmp_path, 12, num_rationales=10)
  benchmark_data.export_examples(path, _CONFIG, cache, 4, 3)
  sizes, steps = torch_baseline.baseline_arguments.read_examples(path)
  model = torch_baseline.make_model(sizes, "sdpa")
  dynamic = []

  def compile_block(self, **options):  # torch's own is slow
    dynamic.append(options["dynamic"])

  monkeypatch.setattr(torch.nn.Module, "compile", compile_block)
  torch_baseline.compile_only(model, steps, _make_options(), _CPU)
  assert dynamic == [True] * 4
  assert all(weight.grad is not None for weight in model.parameters())
  with pytest.raises(SystemExit, match="one length"):
    torch_baseline.compile_only(model, [[]], _make_options(), _CPU)


def test_decoding_makes_every_token():
  model = torch_baseline.make_model(dataclasses.asdict(_CONFIG), "eager")
  measured = torch_baseline.measure_decoding(
    model, _CONFIG.vocab_size, _make_options(), _CPU
  )
  seconds = measured["seconds_per_step"]
  assert measured["tokens_per_second"] * seconds == pytest.approx(6)
