"""Tests of data/vocab.py."""

import hashlib
import pathlib
import shutil

import numpy as np
import pytest
import sentencepiece
from small_vocabulary import make_model, make_vocabulary

from distill_jax.data import vocab
from distill_jax.data.sources import word_problems
from distill_jax.errors import UserError

_SHIPPED = pathlib.Path(vocab.__file__).with_name("word_problems.model")
_TEXTS = (
  "predict: ava has 12 apples . how many apples does ava have now ?",
  "( 12 + 5 ) * 3",
  "(84.0 / 2.0)",
  "two\nlines  and   spaces ",
  "Großbuchstaben, 東京, \U0001f600 and ﬁ",
  "",
  " ",
)


@pytest.fixture(params=[None, "bytes"])
def vocabulary(request):
  return vocab.load_vocabulary(request.param)


def test_shipped_vocabulary():
  shipped = vocab.load_vocabulary(None)
  assert shipped.path == str(_SHIPPED)
  assert shipped.sha256 == hashlib.sha256(_SHIPPED.read_bytes()).hexdigest()
  assert shipped.size == 800
  assert (shipped.pad_id, shipped.eos_id, shipped.unk_id) == (0, 1, 2)
  assert _SHIPPED.stat().st_size < 300_000


def test_shipped_vocabulary_has_each_number_as_one_piece():
  shipped = vocab.load_vocabulary(None)
  for number in range(100):
    (number_id,) = shipped.encode(str(number))
    assert number_id in shipped.encode(f"predict: it is day {number} .")
    assert number_id in shipped.encode(f"( 12 + {number} ) * 3")


def test_byte_vocabulary():
  byte_vocabulary = vocab.load_vocabulary("bytes")
  assert byte_vocabulary.size == 384
  assert byte_vocabulary.path is None
  assert byte_vocabulary.encode("aé") == [97 + 3, 0xC3 + 3, 0xA9 + 3]


@pytest.mark.parametrize(
  "text",
  [
    "ava has 12 apples .",
    "Anything at all: 東京 \U0001f600 é",
    "( 100 - 7 ) / 3 = 31",
  ],
)
def test_decode_inverts_encode(vocabulary, text):
  ids = vocabulary.encode(text)
  assert all(vocabulary.unk_id < token_id < vocabulary.size for token_id in ids)
  assert vocabulary.decode(ids) == text


def test_decode_inverts_encode_on_word_problems():
  shipped = vocab.load_vocabulary(None)
  for record in word_problems.make_records("test", num_test_examples=200):
    for text in (record.input, record.rationale, record.label):
      assert shipped.decode(shipped.encode(text)) == text


def test_decode_stops_at_eos_and_drops_padding(vocabulary):
  ids = vocabulary.encode("12 + 5")
  padded = [0, ids[0], 0, *ids[1:], 1, *vocabulary.encode("left out"), 0]
  assert vocabulary.decode(padded) == "12 + 5"
  assert vocabulary.decode(np.asarray(padded, np.int32)) == "12 + 5"
  assert vocabulary.decode([]) == vocabulary.decode([0, 1, 5]) == ""


def test_decode_takes_ids_out_of_range_as_unknown(vocabulary):
  ids = vocabulary.encode("5")
  unknown = vocabulary.decode([2])
  for token_id in (vocabulary.size, 32127, -1):
    decoded = vocabulary.decode([*ids, token_id])
    assert decoded == vocabulary.decode([*ids, 2])
    assert decoded.replace(unknown, "") == "5"


def test_encode_inputs_makes_eos_of_its_name(vocabulary):
  premise, hypothesis = "A man sleeps.", "He is awake."
  assert vocabulary.encode_inputs(f"{premise}</s>{hypothesis}") == [
    *vocabulary.encode(premise),
    1,
    *vocabulary.encode(hypothesis),
  ]
  assert vocabulary.encode_inputs("</s></s>") == [1, 1]
  assert vocabulary.encode_inputs(premise) == vocabulary.encode(premise)
  assert 1 not in vocabulary.encode("a</s>b")


def test_folder_with_spiece_model(tmp_path):
  shutil.copy(_SHIPPED, tmp_path / "spiece.model")
  in_folder = vocab.load_vocabulary(str(tmp_path))
  assert in_folder.path == str(tmp_path / "spiece.model")
  assert in_folder.sha256 == vocab.load_vocabulary(None).sha256


@pytest.mark.parametrize(
  "content", [b"", b"no model\n" * 50, bytes(100), _SHIPPED.read_bytes()[:-100]]
)
def test_file_that_is_no_model(tmp_path, content):
  path = tmp_path / "broken.model"
  path.write_bytes(content)
  with pytest.raises(UserError, match="broken.model is not a sentencepiece"):
    vocab.load_vocabulary(str(path))


def test_missing_model(tmp_path):
  with pytest.raises(UserError, match="none.model cannot be read"):
    vocab.load_vocabulary(str(tmp_path / "none.model"))
  with pytest.raises(UserError, match="spiece.model cannot be read"):
    vocab.load_vocabulary(str(tmp_path))


def test_other_special_ids_are_refused(tmp_path):
  prefix = tmp_path / "default_ids"
  # sentencepiece's own defaults: unk 0, bos 1, eos 2, no pad.
  sentencepiece.SentencePieceTrainer.train(
    sentence_iterator=iter(["a b c d", "b c d a"]),
    model_prefix=str(prefix),
    vocab_size=9,
    hard_vocab_limit=False,
    minloglevel=2,
  )
  with pytest.raises(UserError, match=r"pad, eos, unk = \(-1, 2, 0\)"):
    vocab.load_vocabulary(f"{prefix}.model")


@pytest.mark.tf
def test_same_ids_as_seqio_sentencepiece():
  seqio = pytest.importorskip("seqio")
  ours = vocab.load_vocabulary(None)
  theirs = seqio.SentencePieceVocabulary(ours.path)
  assert ours.size == theirs.vocab_size
  for text in _TEXTS:
    ids = ours.encode(text)
    assert ids == list(theirs.encode(text))
    assert ids == theirs.encode_tf(text).numpy().tolist()
    assert ours.decode(ids) == theirs.decode(ids)
  for ids in ([900, 409, 2, 1, 409], [409, 409]):
    assert ours.decode(ids) == theirs.decode(ids)


@pytest.mark.tf
def test_same_ids_as_seqio_bytes():
  seqio = pytest.importorskip("seqio")
  ours = vocab.load_vocabulary("bytes")
  theirs = seqio.ByteVocabulary(extra_ids=125)
  assert ours.size == theirs.vocab_size
  for text in _TEXTS:
    ids = ours.encode(text)
    assert ids == list(theirs.encode(text))
    assert ids == theirs.encode_tf(text).numpy().tolist()
    assert ours.decode(ids) == theirs.decode(ids)
  for ids in ([300, 68, 2, 1, 68], [0xC3 + 3], [258, 259]):
    assert ours.decode(ids) == theirs.decode(ids)


@pytest.mark.parametrize(
  "text, normalized",
  [
    ("½", "1⁄2"),
    ("x²  …\t", "x2 ..."),
    ("zero\u200bwidth", "zero width"),
    ("", ""),
  ],
)
def test_what_is_decoded_was_normalized(text, normalized):
  shipped = vocab.load_vocabulary(None)
  assert shipped.normalize(text) == normalized
  assert shipped.normalize(normalized) == normalized
  assert shipped.decode(shipped.encode(text)) == normalized
  assert vocab.load_vocabulary("bytes").normalize(text) == text


def test_unknown_pieces_are_found(vocabulary, tmp_path):
  text = "a < b, <>{}</s>東京 ½"
  assert vocabulary.find_unknown(text) == []
  assert not vocabulary.holds_unknown(
    vocabulary.decode(vocabulary.encode(text))
  )
  small = make_vocabulary(tmp_path)
  assert small.find_unknown(text) == ["<", "<>{}", "東京", "⁄"]
  assert small.encode_inputs(text).count(small.unk_id) == 4
  assert small.find_unknown("yes</s>no") == []
  assert small.holds_unknown(small.decode(small.encode("a < b")))
  assert not small.holds_unknown(small.decode(small.encode("a ⁇ b")))


def test_the_text_that_ids_were_made_from(tmp_path):
  small = make_vocabulary(tmp_path)
  for text in ("<", "½", "two  blanks", "yes", ""):
    ids = small.encode(text)
    assert small.restore_text([*ids, 1], text) == text
    assert small.restore_text(np.asarray(ids, np.int32), text) == text
  # A task whose preprocessors changed the ids, or kept no text.
  ids = [*small.encode("no"), 1]
  assert small.restore_text(ids, "yes") == "no"
  assert small.restore_text(ids, "") == "no"


def test_sentinels_are_counted_down_from_the_last_id(tmp_path):
  shipped = vocab.load_vocabulary(None)
  ids = shipped.sentinel_ids
  assert (len(ids), ids[0], ids[-1]) == (100, shipped.size + 99, shipped.size)
  assert vocab.load_vocabulary(vocab.BYTES).sentinel_ids == tuple(
    range(383, 258, -1)
  )
  names = [f"<extra_id_{number}>" for number in reversed(range(3))]
  for start in ("", "\N{LOWER ONE EIGHTH BLOCK}"):
    path = tmp_path / "named.model"
    symbols = [f"{start}{name}" for name in names]
    path.write_bytes(make_model(symbols=tuple(symbols)))
    assert vocab.load_vocabulary(str(path)).sentinel_ids == (5, 4, 3)
