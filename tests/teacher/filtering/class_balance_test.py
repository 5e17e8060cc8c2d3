"""Tests of class_balance.py; as a filter, in filters_test.py."""

import collections
import dataclasses

import pytest

from distill_jax.data.records import Record
from distill_jax.errors import UserError
from distill_jax.teacher.filtering.class_balance import balance_classes


def make_records(labels):
  return [
    Record(f"r{number}", f"Question {number}?", label, "because")
    for number, label in enumerate(labels)
  ]


@pytest.mark.parametrize(
  ("class_balance", "count"), [("over", 5), ("under", 2)]
)
def test_classes_become_equally_frequent(class_balance, count):
  records = make_records(["yes"] * 5 + ["no"] * 2 + [None])
  balanced = balance_classes(records, class_balance, "label", seed=0)
  found = collections.Counter(record.label for record in balanced)
  assert found == {"yes": count, "no": count, None: 1}
  assert len({record.id for record in balanced}) == len(balanced)
  assert balanced == balance_classes(records, class_balance, "label", seed=0)


def test_weights_make_classes_weigh_the_same():
  records = make_records(["yes"] * 3 + ["no"])
  balanced = balance_classes(records, "weights", "label", seed=0)
  weights = [record.weight for record in balanced]
  assert weights == pytest.approx([2 / 3, 2 / 3, 2 / 3, 2])


def test_weights_there_are_count():
  records = make_records(["yes", "yes", "no", None])
  records[0] = dataclasses.replace(records[0], weight=3.0)
  balanced = balance_classes(records, "weights", "label", seed=0)
  weights = [record.weight for record in balanced]
  # "yes" weighs 4 and "no" 1, on average 2.5.
  assert weights == pytest.approx([3 * 2.5 / 4, 2.5 / 4, 2.5, 1])


def test_free_text_is_no_class():
  records = make_records([str(number) for number in range(51)])
  with pytest.raises(UserError, match="51 different values, too many"):
    balance_classes(records, "over", "label", seed=0)


def test_equal_labels_are_one_class_whatever_their_order():
  records = make_records(["Paris", "paris.", "Rome", " PARIS "])
  balanced = balance_classes(records, "under", "label", seed=0)
  assert len(balanced) == 2
  backwards = balance_classes(records[::-1], "under", "label", seed=0)
  assert {r.label == "Rome" for r in backwards} == {True, False}
  weighed = balance_classes(records, "weights", "label", seed=0)
  assert [r.weight for r in weighed] == pytest.approx([2 / 3, 2 / 3, 2, 2 / 3])


def test_a_text_outside_the_label_set_is_its_own_class():
  records = make_records(["yes", "YES", "maybe"])
  balanced = balance_classes(
    records, "under", "label", seed=0, label_set=("yes", "no")
  )
  assert len(balanced) == 2
