"""A sentencepiece model as `tokenizer.json`, which transformers loads as it is.

transformers' own T5Tokenizer takes every `spiece.model` for a unigram model
without byte pieces, as T5's is; with the small BPE models of
`scripts/train_vocab.py` it would split words otherwise than the student
learned, and say nothing.
"""

import base64
import json
import pathlib
import re
from collections.abc import Iterator
from typing import Any

import numpy as np
from sentencepiece import sentencepiece_model_pb2

from distill_jax.checkpoint import tokenizer_proof
from distill_jax.data import vocab
from distill_jax.errors import UserError

_SPACE = "▁"
# Stands for a sign to keep while others become blanks. A private-use character.
_KEPT_SPACE = "\U0010fffd"
_SENTINELS = 100
_ANY = 2**31 - 1
_SENTINEL = re.compile(rf"{_SPACE}?<extra_id_\d+>")
# Where a written-out byte piece, "<0x41>", is cut so that it is no byte: a
# regular expression for transformers, and one for the pieces the cut may break.
_BYTE_CUTS = (
  (r"<(?=0x[0-9A-F]{2}>)", "<0"),
  (r"(?<=<)0(?=x[0-9A-F]{2}>)", "0x"),
  (r"(?<=<0x[0-9A-F])[0-9A-F](?=>)", "[0-9A-F]>"),
)
VOCABULARY = "spiece.model"
_TOKENIZER_CONFIG = "tokenizer_config.json"
_SPECIAL_TOKENS = "special_tokens_map.json"
# What a conversion writes of a vocabulary.
FILES = (VOCABULARY, "tokenizer.json", _TOKENIZER_CONFIG, _SPECIAL_TOKENS)


def make_tokenizer(model_path: pathlib.Path, vocab_size: int) -> dict[str, Any]:
  """Translates a sentencepiece model for the `tokenizers` library.

  Args:
    model_path: the model, with T5's special ids.
    vocab_size: rows of the embedding; T5's 100 sentinels `<extra_id_0>` ... get
      the ids behind the pieces if there are 100 rows for them.

  Returns:
    The content of `tokenizer.json`, proven to give the ids of training.

  Raises:
    UserError: the file is no sentencepiece model of a kind that T5 uses, or
      `tokenizers` would split a text otherwise.
  """
  proto = _read_model(model_path)
  content = _translate(proto, model_path, vocab_size)
  tokenizer_proof.check(content, proto, model_path)
  return content


def _read_model(model_path: pathlib.Path) -> Any:
  proto: Any = sentencepiece_model_pb2.ModelProto()  # pyright: ignore[reportAttributeAccessIssue]: made at run time
  try:
    proto.ParseFromString(model_path.read_bytes())
  except Exception as error:  # protobuf's own class, of no public base
    raise UserError(f"{model_path} is no sentencepiece model.") from error
  return proto


def _translate(
  proto: Any, model_path: pathlib.Path, vocab_size: int
) -> dict[str, Any]:
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
  has_sentinels = any(_SENTINEL.fullmatch(piece) for piece, _ in pieces)
  if vocab_size >= len(pieces) + _SENTINELS and not has_sentinels:
    # T5 counts them from the end.
    last = len(pieces) + _SENTINELS - 1
    specials += [(last - i, f"<extra_id_{i}>") for i in range(_SENTINELS)]
  end = pieces[vocab.EOS_ID][0]
  is_suffix = trainer.treat_whitespace_as_suffix
  spec = proto.normalizer_spec
  # sentencepiece drops the blank it has put first, or all that lead.
  leading = (
    _ANY if spec.remove_extra_whitespaces else int(spec.add_dummy_prefix)
  )
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
    "normalizer": _make_normalizer(proto, is_suffix),
    "pre_tokenizer": _make_pre_tokenizer(proto),
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
        {"type": "Strip", "content": " ", "start": leading, "stop": 0},
      ],
    },
    "model": kinds[trainer.model_type](proto),
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
    names = ["<pad>", "</s>", "<unk>"]
  elif model_path is not None:
    tokenizer = make_tokenizer(model_path, vocab_size)
    (folder / "tokenizer.json").write_text(
      json.dumps(tokenizer, ensure_ascii=False), encoding="utf-8"
    )
    (folder / VOCABULARY).write_bytes(model_path.read_bytes())
    settings = {
      "tokenizer_class": "PreTrainedTokenizerFast",
      # `generate` refuses the token types that it would give, too.
      "model_input_names": ["input_ids", "attention_mask"],
    }
    names = [token["content"] for token in tokenizer["added_tokens"][:3]]
  else:
    return
  special_tokens = {
    "eos_token": names[vocab.EOS_ID],
    "pad_token": names[vocab.PAD_ID],
    "unk_token": names[vocab.UNK_ID],
  }
  settings |= special_tokens | {"clean_up_tokenization_spaces": False}
  if not uses_bytes:
    (folder / _SPECIAL_TOKENS).write_text(
      json.dumps(special_tokens, indent=2) + "\n", encoding="utf-8"
    )
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


def _make_unigram(proto: Any) -> dict[str, Any]:
  pieces = proto.pieces
  normal = [piece.score for piece in pieces if piece.type == piece.NORMAL]
  # sentencepiece begins its search for the best with FLT_MIN, which is above 0.
  best = np.float32(max([np.finfo(np.float32).tiny, *normal]))
  entries = []
  for number, piece in enumerate(pieces):
    text, score = piece.piece, piece.score
    if piece.type == piece.USER_DEFINED:
      # sentencepiece's own bonus, by the length in bytes.
      bonus = np.float32(len(text.encode())) * best
      score = float(np.float32(np.float64(bonus) - 0.1))
    entries.append([_hide(piece, number), score])
  return {
    "type": "Unigram",
    "unk_id": vocab.UNK_ID,
    "vocab": entries,
    "byte_fallback": proto.trainer_spec.byte_fallback,
  }


def _make_bpe(proto: Any) -> dict[str, Any]:
  pieces = proto.pieces
  ids = {_hide(piece, number): number for number, piece in enumerate(pieces)}
  model = {
    "type": "BPE",
    "dropout": None,
    "unk_token": pieces[vocab.UNK_ID].piece,
    "continuing_subword_prefix": None,
    "end_of_word_suffix": None,
    "fuse_unk": True,
    "byte_fallback": proto.trainer_spec.byte_fallback,
    "vocab": ids,
    "merges": list(_find_merges(pieces)),
  }
  if _list_user_defined(proto):
    # They stand alone by then, and no merges lead to them.
    model["ignore_merges"] = True
  return model


def _hide(piece: Any, number: int) -> str:
  """Returns a name for a piece, no text's where sentencepiece finds it in none.

  Blanks are replaced before pieces are looked for, so a name with a blank is
  never found.
  """
  is_special = number in (vocab.PAD_ID, vocab.EOS_ID, vocab.UNK_ID)
  if is_special or piece.type not in (piece.CONTROL, piece.UNUSED):
    return piece.piece
  return f"{piece.piece} "


def _find_merges(pieces: Any) -> Iterator[list[str]]:
  """Yields pairs of pieces that make another, the likeliest merge first.

  sentencepiece merges whatever makes the piece of the best score; a merge table
  that lists all the ways to each piece, in the order of scores, does the same.
  """
  found = [piece for piece in pieces if piece.type == piece.NORMAL]
  texts = {piece.piece for piece in found}
  for piece in sorted(found, key=lambda piece: -piece.score):
    text = piece.piece
    for cut in range(1, len(text)):
      left, right = text[:cut], text[cut:]
      if left in texts and right in texts:
        yield [left, right]


def _list_user_defined(proto: Any) -> list[str]:
  return [
    piece.piece for piece in proto.pieces if piece.type == piece.USER_DEFINED
  ]


def _make_normalizer(proto: Any, is_suffix: bool) -> dict[str, Any]:
  spec = proto.normalizer_spec
  dummy: list[dict[str, Any]] = []
  if spec.add_dummy_prefix and is_suffix:
    dummy.append(_replace(r"(?m)(?<=.)\z", " "))
  elif spec.add_dummy_prefix:
    # "Metaspace" adds none where the text begins with its sign.
    dummy.append({"type": "Prepend", "prepend": " "})
  trims = spec.remove_extra_whitespaces
  # A text of which nothing is left gets the blank, too, unless it is trimmed.
  steps = [] if trims else list(dummy)
  behind = ""
  if spec.precompiled_charsmap:
    if spec.name.startswith("nmt_"):
      # Each becomes a blank; "Precompiled" makes one of the pair "\r\n".
      steps.append(_replace(r"\r", "\n"))
    # Where it begins a user-defined piece, the sign stays; else it is a blank.
    behind = "|".join(
      _escape(text[1:])
      for text in _list_user_defined(proto)
      if text.startswith(_SPACE) and len(text) > 1
    )
    if behind:
      steps.append(_replace(rf"{_SPACE}(?={behind})", _KEPT_SPACE))
    charsmap = base64.b64encode(spec.precompiled_charsmap).decode()
    steps.append({"type": "Precompiled", "precompiled_charsmap": charsmap})
  if trims:
    # As sentencepiece does; "Strip" would take away other white space, too.
    steps.append(_replace(rf"\A +|[ {_SPACE}]+\z", ""))
    steps.append(_replace(" {2,}", " "))
    steps += dummy
  if behind:
    steps.append(_replace(_KEPT_SPACE, _SPACE))
  return {"type": "Sequence", "normalizers": steps}


def _make_pre_tokenizer(proto: Any) -> dict[str, Any]:
  trainer = proto.trainer_spec
  is_suffix = trainer.treat_whitespace_as_suffix
  texts = [
    piece.piece
    for piece in proto.pieces
    if piece.type in (piece.NORMAL, piece.USER_DEFINED)
  ]
  # Words apart are quicker, and no other where no piece reaches over two.
  splits = not any(
    _SPACE in (text[:-1] if is_suffix else text[1:]) for text in texts
  )
  steps: list[dict[str, Any]] = [
    {
      "type": "Metaspace",
      "replacement": _SPACE,
      "prepend_scheme": "never",
      "split": splits and not is_suffix,
    }
  ]
  if splits and is_suffix:
    steps.append(_split({"String": _SPACE}, "MergedWithPrevious"))
  user_defined = _list_user_defined(proto)
  is_unigram = trainer.model_type == trainer.UNIGRAM
  if user_defined and not is_unigram:
    longest_first = sorted(user_defined, key=len, reverse=True)
    pattern = "|".join(map(_escape, longest_first))
    steps.append(_split({"Regex": pattern}, "Isolated"))
  if trainer.byte_fallback and (is_unigram or user_defined):
    for pattern, broken in _BYTE_CUTS:
      if not any(re.search(broken, text) for text in texts):
        steps.append(_split({"Regex": pattern}, "MergedWithPrevious"))
        break
  if len(steps) == 1:
    return steps[0]
  return {"type": "Sequence", "pretokenizers": steps}


def _escape(text: str) -> str:
  """Quotes a text for a regular expression of any dialect."""
  return "".join(f"\\x{{{ord(letter):x}}}" for letter in text)


def _replace(pattern: str, content: str) -> dict[str, Any]:
  return {"type": "Replace", "pattern": {"Regex": pattern}, "content": content}


def _split(pattern: dict[str, str], behavior: str) -> dict[str, Any]:
  return {
    "type": "Split",
    "pattern": pattern,
    "behavior": behavior,
    "invert": False,
  }


def _sequence(name: str) -> dict[str, Any]:
  return {"Sequence": {"id": name, "type_id": 0}}


def _special(token: str) -> dict[str, Any]:
  return {"SpecialToken": {"id": token, "type_id": 0}}
