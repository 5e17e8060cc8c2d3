"""Tests of data/tf/seqio_preprocessors.py."""

import pytest

from distill_jax.data import task_kinds, vocab

pytestmark = pytest.mark.tf

tf = pytest.importorskip("tensorflow")
seqio = pytest.importorskip("seqio")

from distill_jax.data.tf import seqio_preprocessors  # noqa: E402


def _make_dataset(**columns):
  return tf.data.Dataset.from_tensor_slices(columns)


def _make_features(path):
  vocabulary = (
    seqio.ByteVocabulary()
    if path == "bytes"
    else seqio.SentencePieceVocabulary(vocab.load_vocabulary(path).path, 0)
  )
  feature = seqio.Feature(vocabulary)
  return {"inputs": feature, "targets": feature}


def test_only_rows_with_every_part_of_the_target_are_kept():
  dataset = _make_dataset(
    id=["0", "1", "2", "3"],
    input=["a", "b", "c", "d"],
    label=["1", "2", "", "4"],
    has_label=[True, True, False, True],
    rationale=["so", "", "so", ""],
    has_rationale=[True, False, True, True],
    weight=[1.0, 1.0, 1.0, 2.5],
  )
  rows = seqio_preprocessors.make_inputs_and_targets(
    dataset, task_kinds.KINDS["joint"]
  )
  assert list(rows.as_numpy_iterator()) == [
    {
      "id": b"0",
      "inputs": b"predict: a",
      "targets": b"so answer: 1",
      "loss_weight": 1.0,
    },
    {
      "id": b"3",
      "inputs": b"predict: d",
      "targets": b" answer: 4",
      "loss_weight": 2.5,
    },
  ]


_INPUTS = [
  "ava has 12 apples .",
  "a premise .</s>a hypothesis .",
  "</s>",
  "a</s></s>b</s>",
  "< /s> is </ s> not one",
  "Ω 東京</s>\U0001f600",
  "",
]


@pytest.mark.parametrize("path", [None, "bytes"])
def test_tokens_are_those_of_the_vocabulary_without_tensorflow(path):
  vocabulary = vocab.load_vocabulary(path)
  dataset = _make_dataset(inputs=_INPUTS, targets=_INPUTS[::-1])
  rows = seqio_preprocessors.tokenize(dataset, _make_features(path))
  for row, inputs, targets in zip(
    rows.as_numpy_iterator(), _INPUTS, _INPUTS[::-1], strict=True
  ):
    assert row["inputs"].tolist() == vocabulary.encode_inputs(inputs)
    # A target is text to the end: what looks like EOS is none.
    assert row["targets"].tolist() == vocabulary.encode(targets)
    assert row["inputs_pretokenized"].decode() == inputs
    assert row["targets_pretokenized"].decode() == targets
    assert row["inputs"].dtype == row["targets"].dtype == "int32"


def test_a_hypothesis_follows_its_premise_after_one_eos():
  vocabulary = vocab.load_vocabulary(None)
  dataset = _make_dataset(inputs=["ava has 12</s>apples ."], targets=["1"])
  features = _make_features(None)
  (row,) = seqio_preprocessors.tokenize(dataset, features).as_numpy_iterator()
  assert row["inputs"].tolist() == [
    *vocabulary.encode("ava has 12"),
    1,
    *vocabulary.encode("apples ."),
  ]
