"""Tests of hf_logits.py: every way of making logits is read as it is meant."""

import pathlib

import numpy as np
import pytest
import stored_models

from distill_jax.errors import UserError
from distill_jax.model.t5 import hf_logits

CONFIG = pathlib.Path("config.json")
EMBEDDING = np.arange(24, dtype=np.float32).reshape(6, 4)
HEAD = EMBEDDING[::-1].copy()


def choose(model_type, ties, scales, head, embedding=EMBEDDING):
  files = {"shared.weight": stored_models.wrap("shared.weight", embedding)}
  if head is not None:
    files["lm_head.weight"] = stored_models.wrap("lm_head.weight", head)
  stated = {"tie_word_embeddings": ties, "scale_decoder_outputs": scales}
  logits = hf_logits.choose_logits(model_type, stated, files, CONFIG)
  return None if logits is None else logits.read()


@pytest.mark.parametrize(
  ("model_type", "ties", "scales", "head", "expected"),
  [
    # As transformers 4 writes them.
    ("t5", None, None, None, None),
    ("t5", True, None, EMBEDDING, None),
    ("t5", False, None, HEAD, HEAD),
    ("mt5", False, None, HEAD, HEAD),
    ("umt5", False, None, HEAD, HEAD),
    # Fresh ones of transformers 5, whose logits come from the embedding.
    ("t5", True, True, None, None),
    ("t5", True, False, None, EMBEDDING),
    ("mt5", True, None, None, EMBEDDING),
    ("umt5", True, None, None, None),  # 5.23
    ("umt5", True, True, None, None),
    ("umt5", True, False, None, EMBEDDING),
    # Published ones, loaded and saved again by transformers 5.
    ("t5", True, False, HEAD, HEAD),
    ("t5", True, False, EMBEDDING, EMBEDDING),
    ("mt5", True, None, HEAD, HEAD),
    ("umt5", True, False, HEAD, HEAD),
    # A kernel of their own, and divided.
    ("t5", False, True, HEAD, HEAD / 2),
    ("umt5", False, True, HEAD, HEAD / 2),
    ("umt5", True, True, HEAD, HEAD / 2),
    ("umt5", None, True, HEAD, HEAD / 2),
  ],
)
def test_the_kernel_is_what_the_fields_state(
  model_type, ties, scales, head, expected
):
  found = choose(model_type, ties, scales, head)
  if expected is None:
    assert found is None
  else:
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(
  ("model_type", "ties", "scales", "head", "message"),
  [
    ("t5", True, None, HEAD, "lm_head.weight and shared.weight differ"),
    ("t5", True, True, HEAD, "lm_head.weight and shared.weight differ"),
    ("umt5", True, None, HEAD, "scale_decoder_outputs false if the logits"),
    ("umt5", None, None, HEAD, "scale_decoder_outputs false if the logits"),
    ("t5", False, None, None, "tie_word_embeddings false: .* no tensor lm_h"),
    ("mt5", None, None, None, "model_type mt5: .* no tensor lm_head"),
    ("mt5", True, True, HEAD, "an mT5 never divides"),
    ("t5", "no", None, HEAD, "tie_word_embeddings is 'no'"),
    ("t5", None, 1, HEAD, "scale_decoder_outputs is 1; true or false"),
  ],
)
def test_fields_that_leave_it_open_are_refused(
  model_type, ties, scales, head, message
):
  with pytest.raises(UserError, match=message):
    choose(model_type, ties, scales, head)


def test_a_divided_kernel_is_not_rounded_to_few_bits():
  found = choose("t5", False, True, HEAD[:, :3].astype(np.float16))
  assert found is not None
  assert found.dtype == np.float32
  np.testing.assert_allclose(found, HEAD[:, :3] / np.sqrt(3), rtol=1e-6)


@pytest.mark.parametrize("num_bytes", [1, 40, 2**26])
def test_tensors_are_compared_to_the_last_row(monkeypatch, num_bytes):
  monkeypatch.setattr(hf_logits, "_COMPARED_BYTES", num_bytes)
  other = EMBEDDING.copy()
  one = stored_models.wrap("one", EMBEDDING)
  assert hf_logits.are_equal(one, stored_models.wrap("other", other))
  other[-1, -1] += 1
  assert not hf_logits.are_equal(one, stored_models.wrap("other", other))
  assert not hf_logits.are_equal(one, stored_models.wrap("other", other[:5]))
