"""Tests of answers/equality.py."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distill_jax.answers import equality


@pytest.mark.parametrize(
  "a, b",
  [
    ("Paris", "Paris."),
    ("Paris", "paris"),
    ("Paris", '"Paris."'),
    ("Paris", " Paris\t"),
    ("New  York", "new york"),
    ("…", "..."),
    ("Ａ１", "a1"),
    ("ﬁne", "fine"),
    ("e\u0301", "\u00e9"),
    ("a\u00a0b", "a b"),
    (".", "."),
    ("C++", "c++"),
  ],
)
def test_equal_texts(a, b):
  assert equality.labels_equal(a, b, "exact_match")
  assert equality.labels_equal(b, a, "exact_match")


@pytest.mark.parametrize(
  "a, b",
  [
    ("Paris", "Pari"),
    ("C++", "C"),
    ("C#", "C"),
    ("-1", "1"),
    ("", ""),
    ("10²", "102"),
    ("1½", "11⁄2"),
    ("m³", "m3"),
    ("①", "1"),
    ("H₂O", "H2O"),
  ],
)
def test_different_texts(a, b):
  assert not equality.labels_equal(a, b, "exact_match")


@pytest.mark.parametrize("other", ["3.6", "18 / 5", "7.2 * 0.5", "3.60"])
def test_equations_are_compared_by_exact_value(other):
  assert equality.labels_equal("8.8 - 5.2", other, "equation")
  assert not equality.labels_equal("8.8 - 5.3", other, "equation")


def test_an_equation_without_value_equals_nothing():
  assert equality.make_key("2 * x", "equation") is None
  assert not equality.labels_equal("2 * x", "2 * x", "equation")


@pytest.mark.parametrize(
  "text, label",
  [
    ("yes", "yes"),
    ("YES", "yes"),
    ("Yes.", "yes"),
    ("maybe", None),
    ("", None),
    ("yes no", None),
  ],
)
def test_member_of_a_closed_set(text, label):
  assert equality.make_key(text, "exact_match", ("yes", "no")) == label


def test_labels_that_differ_in_case_alone_are_told_apart_by_spelling():
  labels = ("us", "US")
  for label in labels:
    assert equality.make_key(label, "exact_match", labels) == label
  assert equality.make_key("Us", "exact_match", labels) is None


@given(st.text(max_size=20))
def test_normalizing_twice_is_normalizing_once(text):
  once = equality.normalize(text)
  assert equality.normalize(once) == once


@given(
  st.lists(st.text(min_size=1, max_size=8), min_size=1, max_size=6),
)
def test_every_label_of_a_set_is_found(labels):
  labels = [label for label in labels if equality.normalize(label)]
  for label in labels:
    found = equality.make_key(label, "exact_match", labels)
    assert found is not None
    assert equality.normalize(str(found)) == equality.normalize(label)
