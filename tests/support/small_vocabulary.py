"""A sentencepiece model as small as T5's is large: no byte pieces, no "<"."""

import functools
import io
import pathlib

import sentencepiece

from distill_jax.data import vocab

_LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
_MARKS = ".,:;?!()+-*/=|"


@functools.cache
def make_model(normalization="nmt_nfkc", symbols=()):
  """Returns the bytes of a model that spells ASCII letters, digits and marks.

  As T5's it has neither byte pieces nor "<", "{" and "}". `symbols` are pieces
  besides.
  """
  written = io.BytesIO()
  sentencepiece.SentencePieceTrainer.train(
    sentence_iterator=iter([" ".join(_LETTERS + _MARKS)] * 4),
    model_writer=written,
    model_type="char",
    vocab_size=200,
    hard_vocab_limit=False,
    character_coverage=1.0,
    normalization_rule_name=normalization,
    pad_id=0,
    eos_id=1,
    unk_id=2,
    bos_id=-1,
    minloglevel=2,
    user_defined_symbols=list(symbols),
  )
  return written.getvalue()


def make_vocabulary(folder, normalization="nmt_nfkc"):
  """Writes such a model and loads it."""
  path = pathlib.Path(folder) / "small.model"
  path.write_bytes(make_model(normalization))
  return vocab.load_vocabulary(str(path))
