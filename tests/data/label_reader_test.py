"""Tests of data/label_reader.py: one way for labels, targets, predictions."""

import pytest
from small_vocabulary import make_vocabulary

from distill_jax.data import vocab
from distill_jax.data.label_reader import LabelReader, find_alike
from distill_jax.errors import UserError

_SHIPPED = vocab.load_vocabulary(None)
_BYTES = vocab.load_vocabulary(vocab.BYTES)


@pytest.fixture(name="small")
def fixture_small(tmp_path):
  return make_vocabulary(tmp_path)


@pytest.mark.parametrize("vocabulary", [_SHIPPED, _BYTES], ids=["T5", "bytes"])
@pytest.mark.parametrize(
  "label", ["½", "…", "x²", "two  blanks", "a\ttab", "zero\u200bwidth", "YES"]
)
def test_a_label_equals_what_its_ids_are_decoded_to(vocabulary, label):
  decoded = vocabulary.decode(vocabulary.encode(label))
  labels = LabelReader("exact_match", (label, "no"), vocabulary)
  assert labels.read(label) == labels.read_prediction(decoded) == label
  assert labels.read("no") == "no"
  open_set = LabelReader("exact_match", None, vocabulary)
  assert open_set.read(label) == open_set.read_prediction(decoded) is not None
  assert open_set.read(label) != open_set.read("no")


@pytest.mark.parametrize(
  "text, label",
  [("YES", "yes"), ("Yes.", "yes"), ("maybe", None), ("", None)],
)
def test_gold_labels_of_a_closed_set(text, label):
  labels = LabelReader("exact_match", ("yes", "no"), _SHIPPED)
  assert labels.read(text) == labels.read_prediction(text) == label


def test_equations_are_read_by_value():
  labels = LabelReader("equation", None, _SHIPPED)
  assert labels.read("8.8 - 5.2") == labels.read_prediction("3.6") is not None
  assert labels.read("2 * x") is None


def test_what_holds_an_unknown_piece_equals_nothing(small):
  labels = LabelReader("exact_match", None, small)
  for gold in ("<", "⁇", "??", "a < b", "a ⁇ b"):
    assert labels.read(gold) is not None
    # What an unknown id in its place is decoded to.
    for ids in ([small.unk_id], small.encode("a < b")):
      assert labels.read_prediction(small.decode(ids)) is None
  assert labels.read_prediction("??") == labels.read("⁇")


def test_two_labels_that_cannot_be_spelled_are_refused(small):
  assert find_alike(["yes", "<", "yes", ">"], small) == ("<", ">")
  with pytest.raises(UserError, match="'<' and '>' have the .* spell '<', '>'"):
    LabelReader("exact_match", ("<", "yes", ">"), small)
  for vocabulary in (_SHIPPED, _BYTES):
    assert find_alike(["<", ">"], vocabulary) is None
    LabelReader("exact_match", ("<", "yes", ">"), vocabulary)
  # One of the kind can be told from the others.
  LabelReader("exact_match", ("<", "yes"), small)


@pytest.mark.parametrize(
  "labels, told",
  [
    (("x²", "x2"), "'x²' and 'x2' have the same token ids: the .* rewrites"),
    (("a b", "a  b"), "'a b' and 'a  b' have the same token ids"),
    (("no", "\t"), "'\\\\t' is an empty text"),
  ],
)
def test_labels_that_the_vocabulary_makes_one_are_refused(small, labels, told):
  with pytest.raises(UserError, match=told):
    LabelReader("exact_match", labels, small)


def test_labels_that_the_equality_makes_one_are_refused():
  with pytest.raises(UserError, match="'a b' and 'a  b' are one answer"):
    LabelReader("exact_match", ("a b", "a  b"), _BYTES)
  LabelReader("exact_match", ("us", "US"), _BYTES)


def test_a_vocabulary_that_folds_case(tmp_path):
  folding = make_vocabulary(tmp_path, "nmt_nfkc_cf")
  labels = LabelReader("exact_match", ("Yes", "NO"), folding)
  decoded = folding.decode(folding.encode("Yes"))
  assert decoded == "yes"
  assert labels.read_prediction(decoded) == "Yes"
  with pytest.raises(UserError, match="'us' and 'US' have the same token ids"):
    LabelReader("exact_match", ("us", "US"), folding)


def test_the_choice_that_was_ranked_first(small):
  labels = LabelReader("exact_match", None, small)
  assert labels.read_choice("<", ("<", "yes")) == labels.read("<")
  # Which of two with equal ids is meant, no score says.
  assert labels.read_choice("<", ("<", "yes", ">")) is None
  assert labels.read_choice("yes", ("<", "yes", ">")) == labels.read("yes")
  for choices in (("yes", "no", "yes"), ("yes", "yes "), ("x²", "x2")):
    assert labels.read_choice(choices[0], choices) is not None
