"""Token ids of a text and back: a sentencepiece model, or ByT5's bytes.

Owns everything the project knows about sentencepiece at run time. Knows no
SeqIO and no TensorFlow, yet gives the same ids as
`seqio.SentencePieceVocabulary` and `seqio.ByteVocabulary`.
"""

import abc
import hashlib
import itertools
import pathlib
from collections.abc import Iterable

import sentencepiece

from distill_jax.errors import UserError

BYTES = "bytes"
# T5's ids; the model, the decoder's first token and every cache rely on them.
PAD_ID, EOS_ID, UNK_ID = 0, 1, 2
EOS_TEXT = "</s>"
# What a blank is in sentencepiece's normalized texts.
_BLANK = "\N{LOWER ONE EIGHTH BLOCK}"

_SHIPPED_MODEL = pathlib.Path(__file__).with_name("word_problems.model")
# T5's sentinels, ids above its pieces.
_NUM_EXTRA_IDS = 100
_MODEL_IN_FOLDER = "spiece.model"


class Vocabulary(abc.ABC):
  """Text to ids and back.

  Attributes:
    size: all ids are below it.
    sha256: hex digest of what the vocabulary is made of.
    path: the model's file; None when the vocabulary is made of bytes.
    sentinel_ids: what stands for dropped spans of a text in span corruption,
      <extra_id_0> first; see `data.span_corruption`. No text is encoded to
      them, and they may lie above `size`: then they are ids of the embeddings.
  """

  pad_id = PAD_ID
  eos_id = EOS_ID
  unk_id = UNK_ID
  size: int
  sha256: str
  path: str | None
  sentinel_ids: tuple[int, ...]

  @abc.abstractmethod
  def encode(self, text: str) -> list[int]:
    """Returns the ids of `text`, without a final EOS."""

  def encode_inputs(self, text: str) -> list[int]:
    """Returns the ids of `text`, each literal "</s>" in it as the one id EOS.

    What lies between is encoded piece by piece, as Hugging Face's T5 tokenizer
    does with the authors' NLI inputs, premise + "</s>" + hypothesis.

    Args:
      text: an encoder input.

    Returns:
      Ids without a final EOS (beyond those the text spells out).
    """
    first, *rest = text.split(EOS_TEXT)
    ids = self.encode(first)
    for piece in rest:
      ids += [EOS_ID, *self.encode(piece)]
    return ids

  def decode(self, ids: Iterable[int]) -> str:
    """Returns the text of `ids` up to the first EOS.

    Args:
      ids: ids as a model predicts them. Padding is dropped; ids outside the
        vocabulary (embeddings are often larger than it) count as unknown.

    Returns:
      The text; an unknown id is " ⁇ " with sentencepiece and nothing with
      bytes, as in SeqIO.
    """
    kept = []
    for token_id in ids:
      if token_id == EOS_ID:
        break
      kept.append(int(token_id) if 0 <= token_id < self.size else UNK_ID)
    return self._decode(kept)

  def normalize(self, text: str) -> str:
    """Returns the text as the vocabulary rewrites it before it is encoded.

    What is decoded was normalized, so a text is compared with it like this.
    """
    return text

  def find_unknown(self, text: str) -> list[str]:
    """Returns the pieces of a text that are encoded as the unknown id.

    Args:
      text: an input or a target. Literal "</s>" are left out, as in
        `encode_inputs`.

    Returns:
      One piece for each unknown id, in order, repetitions kept.
    """
    del text
    return []

  def holds_unknown(self, decoded: str) -> bool:
    """Tells whether a decoded text holds what an unknown id is decoded to."""
    surface = self._decode([UNK_ID]).strip()
    return bool(surface) and surface in decoded

  def restore_text(self, ids: Iterable[int], text: str) -> str:
    """Returns the text that ids were made from.

    Args:
      ids: of a target.
      text: its text as the data set has it, which decoding may not give back:
        ids hold neither what the vocabulary cannot spell nor what it rewrites.

    Returns:
      `text`; what the ids are decoded to where they are not those of `text`, as
      in a task whose preprocessors changed them or kept no text.
    """
    own = [int(token_id) for token_id in ids]
    if own[-1:] == [EOS_ID]:
      own.pop()
    return text if own == self.encode(text) else self.decode(own)

  @abc.abstractmethod
  def _decode(self, ids: list[int]) -> str:
    """Returns the text of ids in range without EOS; drops padding."""


class SentencePieceVocabulary(Vocabulary):
  """A sentencepiece model with T5's special ids."""

  def __init__(self, path: pathlib.Path):
    """Loads the model.

    Args:
      path: file of the model.

    Raises:
      UserError: the file cannot be read, is no sentencepiece model, or has
        other special ids than T5's.
    """
    try:
      model = path.read_bytes()
    except OSError as error:
      raise UserError(
        f"Vocabulary {path} cannot be read ({error.strerror}). Give VOCAB_PATH"
        f" a sentencepiece model, a folder that holds {_MODEL_IN_FOLDER},"
        f' "{BYTES}", or leave it out for the vocabulary that ships.'
      ) from error
    self._processor = _load_processor(model, path)
    self.size = self._processor.get_piece_size()
    self.sha256 = hashlib.sha256(model).hexdigest()
    self.path = str(path)
    self.sentinel_ids = self._find_sentinels()

  def _find_sentinels(self) -> tuple[int, ...]:
    """Returns mT5's, which are pieces, or those that T5 has above its pieces.

    Source: SeqIO's `SentencePieceVocabulary`, whose 100 extra ids are counted
    down from the last, as are those of Hugging Face's T5 tokenizer.
    """
    for start in ("", _BLANK):
      ids = itertools.takewhile(
        lambda token_id: token_id != UNK_ID,
        (
          self._processor.piece_to_id(f"{start}<extra_id_{number}>")
          for number in itertools.count()
        ),
      )
      if found := tuple(ids):
        return found
    return tuple(range(self.size + _NUM_EXTRA_IDS - 1, self.size - 1, -1))

  def encode(self, text: str) -> list[int]:
    return self._processor.encode(text)

  def normalize(self, text: str) -> str:
    return self._processor.normalize(text).replace(_BLANK, " ").strip()

  def find_unknown(self, text: str) -> list[str]:
    found = []
    for part in text.split(EOS_TEXT):
      ids = self._processor.encode(part)
      if UNK_ID in ids:
        pieces = self._processor.encode(part, out_type=str)
        found += [
          piece
          for piece, token_id in zip(pieces, ids, strict=True)
          if token_id == UNK_ID
        ]
    return found

  def _decode(self, ids: list[int]) -> str:
    return self._processor.decode(ids)


class ByteVocabulary(Vocabulary):
  """ByT5's vocabulary: 3 special ids, 256 bytes, 125 ids never used in text.

  Source: ByT5 (arXiv 2105.13626) section 3.1; size 384 as in its checkpoints.
  """

  size = 3 + 256 + 125
  sha256 = hashlib.sha256(b"byt5").hexdigest()
  path = None
  # ByT5's own pretraining took the last bytes, from id 258 down, instead.
  sentinel_ids = tuple(range(size - 1, 3 + 256 - 1, -1))
  _first_byte_id = 3

  def encode(self, text: str) -> list[int]:
    return [byte + self._first_byte_id for byte in text.encode()]

  def _decode(self, ids: list[int]) -> str:
    offsets = (token_id - self._first_byte_id for token_id in ids)
    in_range = bytes(offset for offset in offsets if 0 <= offset < 256)
    # A prediction may end within a character.
    return in_range.decode(errors="ignore")


def load_vocabulary(path: str | None) -> Vocabulary:
  """Loads a vocabulary.

  Args:
    path: a sentencepiece model, a folder that holds `spiece.model`, "bytes" for
      ByT5's bytes, or None for the vocabulary that ships.

  Returns:
    The vocabulary.

  Raises:
    UserError: the file cannot be read, is no sentencepiece model, or has other
      special ids than T5's.
  """
  if path == BYTES:
    return ByteVocabulary()
  file = _SHIPPED_MODEL if path is None else pathlib.Path(path).expanduser()
  if file.is_dir():
    file /= _MODEL_IN_FOLDER
  return SentencePieceVocabulary(file)


def _load_processor(
  model: bytes, path: pathlib.Path
) -> sentencepiece.SentencePieceProcessor:
  try:
    processor = sentencepiece.SentencePieceProcessor()
    processor.load_from_serialized_proto(model)
  except RuntimeError as error:
    raise UserError(
      f"Vocabulary {path} is not a sentencepiece model ({len(model)} bytes)."
      " Published ones are called spiece.model; scripts/train_vocab.py makes a"
      " new one."
    ) from error
  found = (processor.pad_id(), processor.eos_id(), processor.unk_id())
  if found != (PAD_ID, EOS_ID, UNK_ID):
    raise UserError(
      f"Vocabulary {path} has pad, eos, unk = {found}; needed are"
      f" {(PAD_ID, EOS_ID, UNK_ID)} (-1: it has none). Make a model with"
      " scripts/train_vocab.py, or with sentencepiece's options --pad_id=0"
      " --eos_id=1 --unk_id=2 --bos_id=-1."
    )
  return processor
