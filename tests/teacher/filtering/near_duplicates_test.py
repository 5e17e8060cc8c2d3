"""Tests of near_duplicates.py; as a filter, in filters_test.py."""

from distill_jax.data.sources import word_problems
from distill_jax.teacher.filtering.near_duplicates import (
  drop_near_duplicates,
  list_ngrams,
)


def test_near_duplicates_against_all_pairs():
  records = word_problems.make_records("train", num_train_examples=400)

  def shingle(record):
    words = record.input.split()
    words = [word for word in words if word not in (".", "?")]
    return set(zip(words, words[1:], words[2:], strict=False))

  threshold = 0.5
  expected = []
  for record in records:
    a = shingle(record)
    if all(len(a & b) / len(a | b) < threshold for b in map(shingle, expected)):
      expected.append(record)
  kept = drop_near_duplicates(records, threshold)
  assert len(expected) < len(records)
  assert kept == expected


def test_ngrams_of_fewer_words_are_all_words():
  assert list_ngrams("A b c", 2) == [("a", "b"), ("b", "c")]
  assert list_ngrams("a b", 3) == [("a", "b")]
  assert list_ngrams("?!", 3) == []
