"""A sentencepiece model as `tokenizer.json`, which transformers loads as it is.

Layer 2; imports data.vocab. transformers' own T5Tokenizer takes every
`spiece.model` for a unigram model without byte pieces, as T5's is; with the
small BPE models of `scripts/train_vocab.py` it would split words otherwise than
the student learned, and say nothing.
"""

import base64
import json
import pathlib
from collections.abc import Iterator
from typing import Any

from sentencepiece import sentencepiece_model_pb2

from distill_jax.data import vocab
from distill_jax.errors import UserError

_SPACE = "▁"
_SENTINELS = 100
VOCABULARY = "spiece.model"
_TOKENIZER_CONFIG = "tokenizer_config.json"


def make_tokenizer(model_path: pathlib.Path, vocab_size: int) -> dict[str, Any]:
  """Translates a sentencepiece model for the `tokenizers` library.

  Args:
    model_path: the model, with T5's special ids.
    vocab_size: rows of the embedding; T5's 100 sentinels `<extra_id_0>` ... get
      the ids behind the pieces where so many are left.

  Returns:
    The content of `tokenizer.json`.

  Raises:
    UserError: the file is no sentencepiece model of a kind that T5 uses.
  """
  proto: Any = sentencepiece_model_pb2.ModelProto()  # pyright: ignore[reportAttributeAccessIssue]: made at run time
  try:
    proto.ParseFromString(model_path.read_bytes())
  except Exception as error:  # protobuf's own class, of no public base
    raise UserError(f"{model_path} is no sentencepiece model.") from error
  pieces = [(piece.piece, piece.score) for piece in proto.pieces]
  trainer = proto.trainer_spec
  kinds = {trainer.UNIGRAM: _make_unigram, trainer.BPE: _make_bpe}
  if trainer.model_type not in kinds:
    raise UserError(
      f"{model_path} is a sentencepiece model of words or characters; unigram"
      " and BPE models have a form in transformers."
    )
  specials = [
    (vocab.PAD_ID, pieces[vocab.PAD_ID][0]),
    (vocab.EOS_ID, pieces[vocab.EOS_ID][0]),
    (vocab.UNK_ID, pieces[vocab.UNK_ID][0]),
  ]
  if vocab_size >= len(pieces) + _SENTINELS:
    # T5 counts them from the end.
    last = len(pieces) + _SENTINELS - 1
    specials += [(last - i, f"<extra_id_{i}>") for i in range(_SENTINELS)]
  end = pieces[vocab.EOS_ID][0]
  return {
    "version": "1.0",
    "truncation": None,
    "padding": None,
    "added_tokens": [
      {
        "id": token_id,
        "content": content,
        "single_word": False,
        "lstrip": False,
        "rstrip": False,
        "normalized": False,
        "special": True,
      }
      for token_id, content in sorted(specials)
    ],
    "normalizer": _make_normalizer(proto.normalizer_spec),
    "pre_tokenizer": {
      "type": "Metaspace",
      "replacement": _SPACE,
      "prepend_scheme": "always",
      "split": True,
    },
    "post_processor": {
      "type": "TemplateProcessing",
      "single": [_sequence("A"), _special(end)],
      "pair": [_sequence("A"), _special(end), _sequence("B"), _special(end)],
      "special_tokens": {
        end: {"id": end, "ids": [vocab.EOS_ID], "tokens": [end]}
      },
    },
    "decoder": {
      "type": "Sequence",
      "decoders": [
        {"type": "Replace", "pattern": {"String": _SPACE}, "content": " "},
        {"type": "ByteFallback"},
        {"type": "Fuse"},
        {"type": "Strip", "content": " ", "start": 1, "stop": 0},
      ],
    },
    "model": kinds[trainer.model_type](pieces, trainer.byte_fallback),
  }


def write_tokenizer(
  folder: pathlib.Path,
  model_path: pathlib.Path | None,
  uses_bytes: bool,
  vocab_size: int,
) -> None:
  """Adds what transformers' `AutoTokenizer` needs beside the weights.

  Args:
    folder: a folder that `hf.write_hf` wrote.
    model_path: sentencepiece model to copy and translate; None: none.
    uses_bytes: the vocabulary is ByT5's.
    vocab_size: rows of the embedding.

  Raises:
    UserError: see `make_tokenizer`.
  """
  if uses_bytes:
    settings = {"tokenizer_class": "ByT5Tokenizer", "extra_ids": 125}
  elif model_path is not None:
    tokenizer = make_tokenizer(model_path, vocab_size)
    (folder / "tokenizer.json").write_text(
      json.dumps(tokenizer, ensure_ascii=False), encoding="utf-8"
    )
    (folder / VOCABULARY).write_bytes(model_path.read_bytes())
    settings = {"tokenizer_class": "PreTrainedTokenizerFast"}
  else:
    return
  settings |= {
    "eos_token": "</s>",
    "pad_token": "<pad>",
    "unk_token": "<unk>",
    "clean_up_tokenization_spaces": False,
  }
  (folder / _TOKENIZER_CONFIG).write_text(
    json.dumps(settings, indent=2) + "\n", encoding="utf-8"
  )


def keep_vocabulary(
  folder: pathlib.Path, model_path: pathlib.Path | None, uses_bytes: bool
) -> None:
  """Puts the vocabulary beside a checkpoint that is not Hugging Face's.

  Args:
    folder: of the checkpoint.
    model_path: sentencepiece model to copy; None: none.
    uses_bytes: the vocabulary is ByT5's.
  """
  if uses_bytes:
    write_tokenizer(folder, None, True, 0)
  elif model_path is not None:
    (folder / VOCABULARY).write_bytes(model_path.read_bytes())


def find_vocabulary(
  *folders: pathlib.Path,
) -> tuple[pathlib.Path | None, bool]:
  """Finds the vocabulary that was put beside a checkpoint.

  Args:
    *folders: to look in, the first that has one counts.

  Returns:
    The sentencepiece model or None, and whether the vocabulary is ByT5's bytes.

  Raises:
    UserError: a `tokenizer_config.json` cannot be read.
  """
  for folder in folders:
    if (folder / VOCABULARY).is_file():
      return folder / VOCABULARY, False
    path = folder / _TOKENIZER_CONFIG
    if path.is_file():
      try:
        settings = json.loads(path.read_text(encoding="utf-8"))
        name = str(settings.get("tokenizer_class"))
      except (OSError, ValueError, AttributeError, RecursionError) as error:
        raise UserError(f"{path} cannot be read: {error}") from error
      if name.startswith("ByT5"):
        return None, True
  return None, False


def _make_unigram(
  pieces: list[tuple[str, float]], byte_fallback: bool
) -> dict[str, Any]:
  return {
    "type": "Unigram",
    "unk_id": vocab.UNK_ID,
    "vocab": [[piece, score] for piece, score in pieces],
    "byte_fallback": byte_fallback,
  }


def _make_bpe(
  pieces: list[tuple[str, float]], byte_fallback: bool
) -> dict[str, Any]:
  ids = {piece: number for number, (piece, _) in enumerate(pieces)}
  return {
    "type": "BPE",
    "dropout": None,
    "unk_token": pieces[vocab.UNK_ID][0],
    "continuing_subword_prefix": None,
    "end_of_word_suffix": None,
    "fuse_unk": True,
    "byte_fallback": byte_fallback,
    "vocab": ids,
    "merges": list(_find_merges(pieces, ids)),
  }


def _find_merges(
  pieces: list[tuple[str, float]], ids: dict[str, int]
) -> Iterator[list[str]]:
  """Yields pairs of pieces that make another, the likeliest merge first.

  sentencepiece merges whatever makes the piece of the best score; a merge table
  that lists all the ways to each piece, in the order of scores, does the same.
  """
  for piece, _ in sorted(pieces, key=lambda entry: -entry[1]):
    for cut in range(1, len(piece)):
      left, right = piece[:cut], piece[cut:]
      if left in ids and right in ids:
        yield [left, right]


def _make_normalizer(spec: Any) -> dict[str, Any]:
  steps: list[dict[str, Any]] = []
  if spec.precompiled_charsmap:
    charsmap = base64.b64encode(spec.precompiled_charsmap).decode()
    steps.append({"type": "Precompiled", "precompiled_charsmap": charsmap})
  if spec.remove_extra_whitespaces:
    steps.append({"type": "Strip", "strip_left": True, "strip_right": True})
    steps.append(
      {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "}
    )
  return {"type": "Sequence", "normalizers": steps}


def _sequence(name: str) -> dict[str, Any]:
  return {"Sequence": {"id": name, "type_id": 0}}


def _special(token: str) -> dict[str, Any]:
  return {"SpecialToken": {"id": token, "type_id": 0}}
