"""Tests of data/text_survey.py: what the texts of a cache hold is counted."""

import dataclasses
import json
import os

import numpy as np
import pytest
from small_vocabulary import make_vocabulary
from synthetic_cache import make_task_info

from distill_jax.data import text_survey, token_cache, vocab
from distill_jax.data.text_survey import (
  AlikeCount,
  OutsideCount,
  SharedCount,
  UnknownCount,
)

_LABEL = make_task_info("label", prefix="L: ")
_RATIONALE = make_task_info("rationale", prefix="R: ")
_BYTES = vocab.load_vocabulary(vocab.BYTES)


@pytest.fixture(name="small")
def fixture_small(tmp_path):
  return make_vocabulary(tmp_path)


def _make_example(vocabulary, info, index, question, target):
  inputs = info.inputs_prefix + question
  return token_cache.Example(
    f"{index}",
    np.asarray([*vocabulary.encode_inputs(inputs), 1], np.int32),
    np.asarray([*vocabulary.encode(target), 1], np.int32),
    inputs,
    target,
  )


def _make_cache(folder, vocabulary, tasks, texts):
  """Writes a cache; texts: (task, split) -> [(question, target), ...]."""
  rows = (
    (task, split, _make_example(vocabulary, tasks[task], index, *pair))
    for (task, split), pairs in texts.items()
    for index, pair in enumerate(pairs)
  )
  identity = token_cache.make_identity("mine", {}, vocabulary.sha256, [])
  path = folder / "cache"
  token_cache.write_cache(path, identity, tasks, rows, vocabulary.path)
  return token_cache.TokenCache(path)


def _survey(folder, vocabulary, tasks, texts):
  cache = _make_cache(folder, vocabulary, tasks, texts)
  return text_survey.make_survey(cache, vocabulary)


def test_unknown_ids_by_split_and_field(tmp_path, small):
  found = _survey(
    tmp_path,
    small,
    {"mine_label": _LABEL, "mine_rationale": _RATIONALE},
    {
      ("mine_label", "train"): [("is a < b", "<"), ("is b > a", ">")],
      ("mine_label", "test"): [("is c = c", "yes")],
      # The same inputs once more, with another prefix.
      ("mine_rationale", "train"): [
        ("is a < b", "因为 a < b"),
        ("is b > a", "so"),
      ],
    },
  )
  assert found.unknown == (
    UnknownCount("train", "inputs", 2, 2, 2, {"<": 1, ">": 1}),
    UnknownCount("train", "label", 2, 2, 2, {"<": 1, ">": 1}),
    UnknownCount("train", "rationale", 2, 1, 2, {"因为": 1, "<": 1}),
  )
  assert found.alike == (AlikeCount("mine_label", "labels", 1, ("<", ">")),)
  assert found.describe()[:3] == [
    "unknown ids in train inputs: 2, in 2 of 2 texts",
    "unknown ids in train label: 2, in 2 of 2 texts",
    "unknown ids in train rationale: 2, in 1 of 2 texts",
  ]
  warnings = found.make_warnings()
  assert warnings[0].startswith(
    "The vocabulary cannot spell 2 of 2 inputs of train: 2 unknown ids, for"
    " '<' (1), '>' (1). The student cannot see them. Bind VOCAB_PATH"
  )
  assert "for '<' (1), '>' (1). The student cannot write them" in warnings[1]
  assert "for '因为' (1), '<' (1)" in warnings[2]
  assert "the first '<' and '>'. No student" in warnings[3]


@pytest.mark.parametrize(
  "target", [("rationale", "label"), ("label", "rationale")]
)
def test_the_fields_of_a_joint_target(tmp_path, small, target):
  info = dataclasses.replace(make_task_info("joint"), target=target)
  text = {
    "rationale": "{ so } answer: <",
    "label": "< rationale: { so }",
  }[target[0]]
  found = _survey(
    tmp_path, small, {"mine": info}, {("mine", "train"): [("q", text)]}
  )
  assert {each.field: each.pieces for each in found.unknown} == {
    "rationale": {"{": 1, "}": 1},
    "label": {"<": 1},
  }


def test_ids_whose_text_was_not_kept_are_counted(tmp_path, small):
  info = make_task_info("label")
  example = _make_example(small, info, 0, "a < b { c", "<")
  example = dataclasses.replace(example, inputs_text="", targets_text="")
  identity = token_cache.make_identity("mine", {}, small.sha256, [])
  token_cache.write_cache(
    tmp_path / "cache", identity, {"t": info}, [("t", "dev", example)], None
  )
  cache = token_cache.TokenCache(tmp_path / "cache")
  found = text_survey.make_survey(cache, small)
  assert [(each.field, each.num_ids) for each in found.unknown] == [
    ("inputs", 2),
    ("label", 1),
  ]


@pytest.mark.parametrize("path", [vocab.BYTES, None])
def test_a_vocabulary_that_spells_anything(tmp_path, path):
  vocabulary = vocab.load_vocabulary(path)
  found = _survey(
    tmp_path,
    vocabulary,
    {"mine": _LABEL},
    {("mine", "train"): [("東京</s><{}", "<"), ("x", ">")]},
  )
  assert found == text_survey.Survey()
  assert found.describe() == ["unknown ids: none"]
  assert found.make_warnings() == []


@pytest.mark.parametrize(
  "metric, label_set, labels, outside",
  [
    (
      "exact_match",
      ("yes", "no"),
      ["yes", "YES", "No.", "maybe", "maybe", "", "no"],
      {"maybe": 2, "": 1},
    ),
    ("exact_match", None, ["yes", "any", ""], {"": 1}),
    ("equation", None, ["1 + 2", "2 * x", "3"], {"2 * x": 1}),
    ("exact_match", ("½", "no"), ["½", "1⁄2", "no"], {}),
  ],
)
def test_gold_labels_that_are_no_answer(
  tmp_path, metric, label_set, labels, outside
):
  info = dataclasses.replace(_LABEL, metric=metric, label_set=label_set)
  found = _survey(
    tmp_path,
    vocab.load_vocabulary(None),
    {"mine": info},
    {("mine", "test"): [(f"q{i}", label) for i, label in enumerate(labels)]},
  )
  number = sum(outside.values())
  assert found.outside == (
    (OutsideCount("mine", "test", number, len(labels), outside),)
    if outside
    else ()
  )
  if "maybe" in outside:
    assert found.describe()[-2:] == [
      "labels of mine test that are no answer: 3 of 7",
      "labels of mine test that the label set spells otherwise: 2 of 7,"
      " 'YES' (1), 'No.' (1)",
    ]
    (warning,) = found.make_warnings()
    assert "3 of 7 labels of mine test are no answer of the task" in warning
    assert "'maybe' (2), '' (1). eval leaves them out" in warning


def test_choices_and_open_labels_that_have_the_same_ids(tmp_path, small):
  question = "which?\nAnswer Choices:\n(a) {}\n(b) yes\n(c) {}"
  found = _survey(
    tmp_path,
    small,
    {"mine": _LABEL},
    {
      ("mine", "train"): [
        (question.format("<", ">"), "yes"),
        (question.format("10²", "102"), "10²"),
        (question.format("no", "no"), "Yes"),
        (question.format("a", "b"), "102"),
      ]
    },
  )
  assert found.alike == (
    AlikeCount("mine", "labels", 1, ("10²", "102")),
    AlikeCount("mine", "choices", 2, ("<", ">")),
  )
  assert "2 questions of mine with choices" in found.make_warnings()[-1]


def test_inputs_that_splits_share(tmp_path):
  texts = {
    "train": ["one", "two", "Three  apples", "four", "one"],
    "validation": ["TWO", "five"],
    "test": ["one", "three apples ", "five", "six", "six"],
  }
  found = _survey(
    tmp_path,
    _BYTES,
    {"a_label": _LABEL, "a_rationale": _RATIONALE},
    {
      (task, split): [(text, "yes") for text in texts[split]]
      for task in ("a_label", "a_rationale")
      for split in texts
    },
  )
  assert found.shared == (
    SharedCount("validation", "train", 0, 1, 2, "TWO"),
    SharedCount("test", "train", 1, 2, 4, "one"),
    SharedCount("test", "validation", 1, 1, 4, "five"),
  )
  assert found.describe()[-2] == (
    "inputs of test that train has too: 1 of 4, 2 after normalizing blanks and"
    " case"
  )
  assert found.make_warnings()[1].startswith(
    "test shares 2 of its 4 inputs with train (1 exactly, the others but for"
    " blanks and case), the first 'one'. Scores on test are too high"
  )
  assert "What is chosen by validation is" in found.make_warnings()[2]


def test_splits_that_share_nothing(tmp_path):
  found = _survey(
    tmp_path,
    _BYTES,
    {"a": _LABEL},
    {("a", "train"): [("one", "1")], ("a", "test"): [("two", "2")]},
  )
  assert found.shared == (SharedCount("test", "train", 0, 0, 1, ""),)
  assert found.make_warnings() == []


def _make_odd_cache(folder, vocabulary):
  info = dataclasses.replace(_LABEL, label_set=("yes", "no"))
  question = "a < b\nAnswer Choices:\n(a) <\n(b) >"
  return _make_cache(
    folder,
    vocabulary,
    {"mine": info, "open": _LABEL},
    {
      ("mine", "train"): [(question, "maybe")],
      ("open", "train"): [("q", "<"), ("p", ">")],
      ("mine", "test"): [(question, "YES")],
    },
  )


def test_the_counts_are_kept_beside_the_tokens(tmp_path, small, monkeypatch):
  cache = _make_odd_cache(tmp_path, small)
  found = text_survey.load_survey(cache)
  assert all(getattr(found, field.name) for field in dataclasses.fields(found))
  kept = json.loads((cache.path / "survey.json").read_text())
  assert kept["unknown"][0]["pieces"]
  monkeypatch.setattr(text_survey, "make_survey", None)
  # Opening a cache verifies its files, and this is none of those it had.
  again = token_cache.TokenCache(cache.path)
  assert text_survey.load_survey(again) == found


@pytest.mark.parametrize(
  "content", ["", "{", "[]", '{"format": 1}', '{"format": 2, "unknown": [1]}']
)
def test_counts_that_cannot_be_read_are_counted_again(tmp_path, small, content):
  cache = _make_odd_cache(tmp_path, small)
  (cache.path / "survey.json").write_text(content)
  found = text_survey.load_survey(cache)
  assert found.unknown
  assert json.loads((cache.path / "survey.json").read_text())["format"] == 2


def test_a_folder_that_cannot_be_written(tmp_path, small, monkeypatch):
  cache = _make_odd_cache(tmp_path, small)

  def fail(*_):
    raise OSError("read-only")

  monkeypatch.setattr(os, "replace", fail)
  assert text_survey.load_survey(cache).unknown
  assert not list(cache.path.glob("*.writing"))
  assert not (cache.path / "survey.json").exists()


def test_of_corrupted_texts_unknown_ids_are_counted_and_nothing_else(
  tmp_path, small
):
  texts = [("a b <extra_id_0> d", "<extra_id_0> c")] * 2
  ids = [[5, 6, 299, 8], [299, 7]], [[5, 2, 299, 8], [299, 2]]
  info = make_task_info("span_corruption")
  rows = [
    ("mine", split, token_cache.Example("0", *map(np.int32, each), *text))
    for split in ("train", "test")
    for each, text in zip(ids, texts, strict=True)
  ]
  identity = token_cache.make_identity("mine", {}, small.sha256, [])
  path = tmp_path / "cache"
  token_cache.write_cache(path, identity, {"mine": info}, rows, small.path)
  cache = token_cache.TokenCache(path)
  found = text_survey.make_survey(cache, small)
  unknown = found.unknown
  assert [
    (each.split, each.num_ids, each.num_texts, each.of_texts)
    for each in unknown
  ] == [("train", 2, 1, 2), ("test", 2, 1, 2)]
  assert found.outside == found.respelled == found.alike == found.shared == ()
  assert "1 of 2 inputs of train" in found.make_warnings()[0]
