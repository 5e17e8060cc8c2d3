"""Larger models, to and fro between transformers and our formats, with torch.

What needs no torch is in hf_golden_test.py.
"""

import importlib.util
import itertools
import json
import pathlib

import hf_golden
import jax
import numpy as np
import pytest

from distill_jax.checkpoint import hf
from distill_jax.data.vocab import ByteVocabulary
from distill_jax.decoding.greedy import greedy_decode
from distill_jax.model.t5 import T5

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.reference

_ROOT = pathlib.Path(__file__).parents[2]
_QUESTIONS = (
  _ROOT.parent / "shared/data/distilling_step_by_step/cqa/cqa_test.json"
)
# No two are equal, so that a transposed kernel cannot pass for another.
SIZES = {
  "vocab_size": 384,
  "d_model": 64,
  "d_kv": 12,
  "d_ff": 160,
  "num_heads": 6,
}


def _import_script():
  path = _ROOT / "scripts" / "make_golden.py"
  spec = importlib.util.spec_from_file_location("make_golden", path)
  assert spec is not None and spec.loader is not None
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


make_golden = _import_script()


@pytest.fixture(params=hf_golden.VARIANTS)
def original(request, tmp_path):
  """A model of transformers, and what our reader opens of it."""
  model = make_golden.make_model(make_golden.VARIANTS[request.param], SIZES)
  model.save_pretrained(tmp_path / "original")
  return model, hf.open_hf(tmp_path / "original")


def _make_inputs(seed=0):
  """Draws the arguments of a forward pass, rows of unequal lengths."""
  rng = np.random.default_rng(seed)
  tokens = make_golden.make_tokens((24, 9, 1), SIZES["vocab_size"], rng)
  targets = make_golden.make_tokens((7, 12, 3), SIZES["vocab_size"], rng)
  return {
    "input_ids": torch.from_numpy(tokens),
    "attention_mask": torch.from_numpy((tokens > 0).astype(np.int64)),
    "labels": torch.from_numpy(np.where(targets > 0, targets, -100)),
  }


@pytest.mark.parametrize("shard_bytes", [2**30, 50_000])
def test_what_we_export_is_the_original(original, tmp_path, shard_bytes):
  model, stored = original
  folder = tmp_path / "exported"
  folder.mkdir()
  hf.write_hf(
    folder, stored.config, stored.tensors, np.dtype(np.float32), shard_bytes
  )
  num_files = len(list(folder.glob("*.safetensors")))
  assert (num_files > 1) == (shard_bytes == 50_000)
  exported = transformers.AutoModelForSeq2SeqLM.from_pretrained(folder).eval()
  # transformers 5 forgets it on loading: see `make_golden.untie`.
  exported.config.tie_word_embeddings = stored.config.tie_embeddings
  weights, expected = exported.state_dict(), model.state_dict()
  assert weights.keys() == expected.keys()
  for name, weight in expected.items():
    assert torch.equal(weights[name], weight), name
  with torch.no_grad():
    inputs = _make_inputs()
    output, expected = exported(**inputs), model(**inputs)
  assert torch.equal(output.logits, expected.logits)
  assert torch.equal(output.loss, expected.loss)


def test_logits_are_those_of_torch(original):
  model, stored = original
  inputs = _make_inputs()
  with torch.no_grad():
    expected = model(**inputs).logits.numpy()
  tokens = inputs["input_ids"].numpy().astype(np.int32)
  targets = np.maximum(inputs["labels"].numpy(), 0).astype(np.int32)
  batch = (
    tokens,
    np.pad(targets, ((0, 0), (1, 0)))[:, :-1],
    (tokens > 0).astype(np.int32),
    (targets > 0).astype(np.int32),
  )
  logits = jax.jit(
    lambda params, batch: T5(stored.config).apply(
      {"params": params}, *batch, enable_dropout=False
    )
  )(hf_golden.read_params(stored), batch)
  is_target = targets > 0
  np.testing.assert_allclose(
    np.asarray(logits)[is_target], expected[is_target], rtol=0, atol=1e-4
  )


@pytest.mark.shared
@pytest.mark.skipif(
  not _QUESTIONS.exists(), reason="no official data beside this checkout"
)
def test_greedy_tokens_on_real_questions_are_those_of_torch(original):
  model, stored = original
  vocabulary = ByteVocabulary()
  with _QUESTIONS.open(encoding="utf-8") as file:
    rows = [
      vocabulary.encode_inputs(json.loads(line)["question"])
      for line in itertools.islice(file, 6)
    ]
  tokens = np.zeros((len(rows), max(map(len, rows))), np.int32)
  for row, ids in zip(tokens, rows, strict=True):
    row[: len(ids)] = ids
  num_steps = 16
  inputs = torch.from_numpy(tokens.astype(np.int64))
  generated = model.generate(
    inputs,
    attention_mask=(inputs > 0).long(),
    max_new_tokens=num_steps,
    do_sample=False,
    pad_token_id=0,
    use_cache=False,  # See make_golden.py.
  )
  expected = np.zeros((len(rows), num_steps), np.int32)
  expected[:, : generated.shape[1] - 1] = generated[:, 1:]
  found = hf_golden.decode_tokens(
    stored.config,
    hf_golden.read_params(stored),
    tokens,
    num_steps,
    greedy_decode,
  )
  np.testing.assert_array_equal(found, expected)
  # Not one token repeated, nor one answer to all.
  assert len(np.unique(expected)) > 3
