"""Tests of tokenizer_proof.py: a difference is found and named."""

import pathlib
import types

import pytest
from sentencepiece import sentencepiece_model_pb2

from distill_jax.checkpoint import hf_tokenizer, tokenizer_proof
from distill_jax.errors import UserError

SHIPPED = pathlib.Path(hf_tokenizer.__file__).parents[1] / (
  "data/word_problems.model"
)


@pytest.fixture(name="proto")
def fixture_proto():
  proto = sentencepiece_model_pb2.ModelProto()
  proto.ParseFromString(SHIPPED.read_bytes())
  return proto


@pytest.fixture(name="content")
def fixture_content():
  return hf_tokenizer.make_tokenizer(SHIPPED, 1024)


def test_the_same_ids_are_accepted(content, proto):
  tokenizer_proof.check(content, proto, SHIPPED)


def test_other_ids_are_refused_with_the_text(content, proto):
  content["normalizer"]["normalizers"].pop()
  with pytest.raises(
    UserError, match=r"of the text 'a' .*None of its options is unusual|byte_f"
  ):
    tokenizer_proof.check(content, proto, SHIPPED)


def test_other_text_is_refused(content, proto):
  content["decoder"]["decoders"].pop()
  with pytest.raises(UserError, match="of the text 'a' .* trained on 'a'"):
    tokenizer_proof.check(content, proto, SHIPPED)


def test_other_special_ids_are_refused(content, proto):
  content["added_tokens"][1]["content"] = "<end>"
  with pytest.raises(UserError, match="'<end>' of id 1 would have the id"):
    tokenizer_proof.check(content, proto, SHIPPED)


def test_what_the_library_refuses_is_refused(content, proto):
  content["model"]["type"] = "Words"
  with pytest.raises(UserError, match="the tokenizers library refuses"):
    tokenizer_proof.check(content, proto, SHIPPED)


class _Reversing:
  """A tokenizer that takes other ways to split one text."""

  def __init__(self, tokenizer, text):
    self._tokenizer, self._text = tokenizer, text

  def encode(self, text):
    encoding = self._tokenizer.encode(text)
    if text != self._text:
      return encoding
    *ids, end = encoding.ids
    return types.SimpleNamespace(ids=[*ids[::-1], end])

  def decode(self, ids):
    return self._tokenizer.decode(ids)


@pytest.mark.parametrize("is_usual", [True, False])
def test_ties_are_warned_of_or_refused(
  content, proto, monkeypatch, caplog, is_usual
):
  text = "|---|---|---|"
  load = tokenizer_proof._load
  monkeypatch.setattr(
    tokenizer_proof, "_load", lambda *args: _Reversing(load(*args), text)
  )
  proto.trainer_spec.byte_fallback = not is_usual
  if is_usual:
    tokenizer_proof.check(content, proto, SHIPPED)
    assert f"in 1 of those that were tried, such as {text!r}" in caplog.text
  else:
    with pytest.raises(UserError, match="of the text .*---"):
      tokenizer_proof.check(content, proto, SHIPPED)
