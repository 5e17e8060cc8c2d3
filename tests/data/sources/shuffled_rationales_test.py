"""Tests of data/sources/shuffled_rationales.py."""

import collections
import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distill_jax.data.records import Record
from distill_jax.data.sources import animal_legs, shuffled_rationales


def _make_records(rationales):
  return [
    Record(f"{i}", f"q{i}", f"{i}", text, f"t{i}", "teacher", f"{i}")
    for i, text in enumerate(rationales)
  ]


def _list_rationales(records) -> list:
  return [record.rationale for record in records]


def test_only_rationales_move_and_none_stays():
  records = animal_legs.make_records("train", num_train_examples=125)
  shuffled = shuffled_rationales.shuffle(records)
  for before, after in zip(records, shuffled, strict=True):
    assert before.rationale != after.rationale
    assert before == dataclasses.replace(after, rationale=before.rationale)
  assert sorted(_list_rationales(records)) == sorted(_list_rationales(shuffled))
  assert shuffled == shuffled_rationales.shuffle(records)


def test_a_text_is_replaced_by_many_others():
  """Else the student could learn what stands for what."""
  records = animal_legs.make_records("train", num_train_examples=500)
  shuffled = shuffled_rationales.shuffle(records)
  others = collections.defaultdict(set)
  for before, after in zip(records, shuffled, strict=True):
    others[before.rationale].add(after.rationale)
  commonest = collections.Counter(_list_rationales(records)).most_common(8)
  assert all(len(others[text]) >= 8 for text, _ in commonest)


@given(st.lists(st.sampled_from(["a", "b", "c", "d", None]), max_size=30))
def test_no_text_stays_as_long_as_none_is_of_more_than_half(texts):
  shuffled = _list_rationales(shuffled_rationales.shuffle(_make_records(texts)))
  counts = collections.Counter(text for text in texts if text is not None)
  assert collections.Counter(shuffled) == collections.Counter(texts)
  for before, after in zip(texts, shuffled, strict=True):
    if before is None:
      assert after is None
    elif max(counts.values()) <= counts.total() / 2:
      assert after != before


@pytest.mark.parametrize("texts", [[], ["a"], ["a", "a", "a"], [None, "a"]])
def test_what_cannot_be_shuffled_stays(texts):
  records = _make_records(texts)
  assert shuffled_rationales.shuffle(records) == records
