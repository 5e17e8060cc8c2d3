"""Whether `tokenizers` splits texts as a sentencepiece model does.

Text on which tokenizers of the two libraries are known to differ, and every
piece of the vocabulary, goes through both.
"""

import json
import logging
import pathlib
import random
import unicodedata
from collections.abc import Iterator, Mapping
from typing import Any

import tokenizers

from distill_jax.data import vocab
from distill_jax.errors import UserError

_log = logging.getLogger(__name__)
_TEXTS = (
  "",
  " ",
  "   ",
  "a",
  " a",
  "a ",
  "  two  spaces   and three  ",
  "\ttab\tand\nnewline\n",
  "\r\n a\r\n",
  "\x85a\x85",
  "\xa0no\xa0break\xa0",
  "\u3000ideographic\u2028line\u2029",
  "zero\u200bwidth\ufeff \u200b",
  "a\x00b\x07",
  "Größe, naïve, ½ ﬁne x² …",
  "e\u0301 and \u00e9",
  "日本語 and 日本 語。",
  "हिन्दी में, العربية, עברית, ไทย, 한국어",
  "🙂 👩\u200d💻 🇨🇭",
  "ALL CAPS lower MiXed",
  "0123456789 3.14 1,000 10-12 50%",
  "( 3 + 4 ) * 6 = 42",
  "{\"key\": [1, 2], 'x': <tag/>}",
  "▁a ▁ b▁",
  "<0x41> <0xE2><0x96><0x81> <0x4>",
  "don't \\ back|slash ~ ^ ` # @ $ & _ _ __",
  "aaaaaaaaaaaaaaaaaaaaaaaa",
  "https://example.org/a?b=c&d=%20",
  "a \x07 b \x07",
  "|---|---|---|",
  "| a | b |\n|:--|--:|\n",
  "==== ---- .... ____ **** ....",
  "Ah ▁bd",
)
# Texts of which normalizing leaves nothing.
_DROPPED = ("\x07", " \x07 ")
_PIECES_A_TEXT = 32
_JOINS = 2000
# sentencepiece's options that change how a text is split, and what T5 has.
_USUAL = {
  "normalizer_spec": {
    "add_dummy_prefix": True,
    "remove_extra_whitespaces": True,
    "escape_whitespaces": True,
  },
  "trainer_spec": {
    "treat_whitespace_as_suffix": False,
    "split_by_whitespace": True,
    "byte_fallback": False,
  },
}


def check(
  content: Mapping[str, Any], proto: Any, model_path: pathlib.Path
) -> None:
  """Compares the ids and the decoded text of many texts.

  A special token's own name within a text is left out: transformers takes it
  for the token, as with T5's own vocabulary, sentencepiece for letters.

  Args:
    content: of `tokenizer.json`.
    proto: the sentencepiece model.
    model_path: its file.

  Raises:
    UserError: names the first text that the two split differently, and the
      options of the model that are not T5's.
  """
  theirs = _load(content, proto, model_path)
  ours = vocab.load_vocabulary(str(model_path))
  names = {token["content"] for token in content["added_tokens"]}
  unusual, ties = _list_unusual_options(proto), []
  for text in _make_texts(proto):
    if any(name in text for name in names - {vocab.EOS_TEXT}):
      continue
    if vocab.EOS_TEXT in text and vocab.EOS_TEXT not in names:
      continue
    wanted, found = ours.encode_inputs(text), theirs.encode(text).ids[:-1]
    if wanted != found and sorted(wanted) == sorted(found) and not unusual:
      ties.append(text)
      continue
    if wanted != found:
      raise _make_error(model_path, proto, text, wanted, found)
    if {vocab.EOS_ID, vocab.UNK_ID} & set(wanted):
      continue  # transformers leaves them out, sentencepiece marks them.
    before, after = ours.decode(wanted), theirs.decode(found)
    if before != after:
      raise _make_error(model_path, proto, text, before, after)
  if ties:
    _log.warning(
      "%s has equally likely ways to split a text, of which transformers takes"
      " another than training in %d of those that were tried, such as %r. The"
      " pieces are the same, in another order.",
      model_path,
      len(ties),
      ties[0][:200],
    )
  if vocab.EOS_TEXT not in names:
    _log.warning(
      "%s names its end %r. A %s within an input, which this program takes for"
      " that end, is plain text in transformers: write the vocabulary's name"
      " there.",
      model_path,
      proto.pieces[vocab.EOS_ID].piece,
      vocab.EOS_TEXT,
    )


def _load(
  content: Mapping[str, Any], proto: Any, model_path: pathlib.Path
) -> tokenizers.Tokenizer:
  try:
    tokenizer = tokenizers.Tokenizer.from_str(json.dumps(content))
  except Exception as error:  # the library raises no class of its own
    raise UserError(
      f"{model_path} cannot be exported: the tokenizers library refuses what"
      f" was made of it ({error}).{_describe_options(proto)}"
    ) from error
  for token in content["added_tokens"]:
    found = tokenizer.token_to_id(token["content"])
    if found != token["id"]:
      raise UserError(
        f"{model_path} cannot be exported: its token {token['content']!r} of id"
        f" {token['id']} would have the id {found} in transformers."
      )
  return tokenizer


def _make_texts(proto: Any) -> Iterator[str]:
  yield from _TEXTS
  if not (
    proto.trainer_spec.treat_whitespace_as_suffix
    and proto.normalizer_spec.remove_extra_whitespaces
  ):
    yield from _DROPPED  # There they are a blank in sentencepiece alone.
  yield f"a{vocab.EOS_TEXT}b {vocab.EOS_TEXT} c"
  texts = []
  symbols_as_written = [
    piece.piece for piece in proto.pieces if piece.type == piece.USER_DEFINED
  ]
  symbols = [text.replace("▁", " ") for text in symbols_as_written]
  for piece in proto.pieces:
    text = piece.piece.replace("▁", " ")
    texts.append(text)
    if piece.type in (piece.USER_DEFINED, piece.CONTROL, piece.UNUSED):
      yield from (text, f"a{text}b", f" a {text} b ", f"{text}{text}1{text}")
    else:
      yield text
    if piece.type == piece.USER_DEFINED and "▁" in piece.piece:
      # Its own sign, and no blank.
      yield from (piece.piece, f"a {piece.piece}b", f"a▁{piece.piece}b")
    if symbols:
      # Without a blank before it.
      yield f"{symbols[0]}{text}{symbols[0]}"
  for start in range(0, len(texts), _PIECES_A_TEXT):
    part = texts[start : start + _PIECES_A_TEXT]
    yield "".join(part)
    yield " ".join(part)
  keeps_sign = any("▁" in text for text in symbols_as_written)
  yield from _join_at_random(texts, keeps_sign)


def _join_at_random(texts: list[str], keeps_sign: bool) -> Iterator[str]:
  """Yields few pieces a text, often again and again.

  Repeated ones have ways to be split that are equally likely.

  Args:
    texts: of the pieces. Those that begin with a mark or a part of a syllable
      are left out: behind some letters they are known to differ.
    keeps_sign: whether some texts have "▁" for a blank.
  """
  whole = [text for text in texts if text and not _joins_before(text[0])]
  chooser = random.Random(0)
  for _ in range(_JOINS):
    chosen = chooser.choices(whole, k=chooser.randint(1, 6))
    separator = chooser.choice(("", "", " "))
    text = separator.join(chosen * chooser.choice((1, 1, 2, 3)))
    if keeps_sign and chooser.random() < 0.3:
      text = text.replace(" ", "▁")
    yield text


def _joins_before(letter: str) -> bool:
  is_jamo = "\u1100" <= letter <= "\u11ff" or letter in "\uff9e\uff9f"
  return is_jamo or unicodedata.category(letter) in ("Mn", "Mc", "Me", "Cf")


def _make_error(
  model_path: pathlib.Path, proto: Any, text: str, wanted: Any, found: Any
) -> UserError:
  return UserError(
    f"{model_path} cannot be exported to transformers exactly: of the text"
    f" {text[:200]!r} the model was trained on {repr(wanted)[:200]}, and"
    f" transformers would make {repr(found)[:200]}.{_describe_options(proto)}"
    " Write --to=orbax or --to=t5x, which keep the sentencepiece model as it"
    " is, or train with a vocabulary of scripts/train_vocab.py."
  )


def _describe_options(proto: Any) -> str:
  unusual = _list_unusual_options(proto)
  for kind in ("USER_DEFINED", "CONTROL", "UNUSED"):
    number = getattr(proto.pieces[0], kind)
    found = [piece.piece for piece in proto.pieces[3:] if piece.type == number]
    if found:
      shown = ", ".join(map(repr, found[:3]))
      unusual.append(f"pieces of type {kind} ({shown}; {len(found)} in all)")
  if not proto.normalizer_spec.precompiled_charsmap:
    unusual.append("no normalization")
  if proto.denormalizer_spec.precompiled_charsmap:
    unusual.append("denormalization")
  if not unusual:
    return " None of its options is unusual."
  return f" Unusual are its options {', '.join(unusual)}."


def _list_unusual_options(proto: Any) -> list[str]:
  return [
    f"{name}={str(getattr(getattr(proto, part), name)).lower()}"
    for part, options in _USUAL.items()
    for name, usual in options.items()
    if getattr(getattr(proto, part), name) != usual
  ]
