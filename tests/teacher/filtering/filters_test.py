"""Tests of teacher/filtering/filters.py.

On small records and on the real release.
"""

import collections
import dataclasses
import sys
import time

import official_release
import pytest

from distill_jax.data.records import Record
from distill_jax.data.sources import official
from distill_jax.errors import UserError
from distill_jax.teacher.filtering import filters
from distill_jax.teacher.filtering.filters import FilterConfig, FilterCount

_LONG = "One two three four five six seven."


def _record(number=0, **fields):
  fields = {
    "input": f"Question {number}?",
    "label": "yes",
    "rationale": _LONG,
    "teacher_label": "yes",
    "status": "ok",
  } | fields
  return Record(id=f"r{number}", **fields)


def _apply(records, **fields):
  """Returns the kept records' numbers and the counts."""
  kept, counts = filters.apply_filters(records, FilterConfig(**fields))
  return [int(record.id.removeprefix("r")) for record in kept], counts


def _is_kept(filter_fields, **fields):
  return bool(_apply([_record(**fields)], **filter_fields)[0])


def test_by_default_all_is_kept():
  records = [_record(0), _record(1, label=None, rationale="", status=None)]
  assert filters.apply_filters(records, FilterConfig()) == (records, [])


def test_filters_apply_in_order_and_count_rows():
  records = [
    _record(0),
    _record(1, teacher_label=None, status="no_marker"),
    _record(2, teacher_label="no", rationale=""),
    _record(3, rationale=" "),
    _record(4, rationale="Too short."),
    _record(5, rationale="Question 5? Question 5? Question 5? Question 5?"),
    _record(6, input=_LONG),
    _record(7, meta={"confidence": 0.2}),
    _record(8, input="Question 0?"),
    _record(9, teacher_label="no", label="no"),
    _record(10),
  ]
  records = [
    dataclasses.replace(record, meta={"confidence": 1.0, **record.meta})
    for record in records
  ]
  kept, counts = _apply(
    records,
    answer_form="closed_set",
    labels=("yes", "no"),
    drop_label_not_parsed=True,
    drop_label_disagrees_with_gold=True,
    drop_empty_rationale=True,
    min_rationale_words=5,
    max_question_share=0.9,
    max_loop_share=0.5,
    drop_contradictions=True,
    min_confidence=0.5,
    near_duplicate_threshold=0.9,
    class_balance="under",
  )
  assert counts == [
    FilterCount("label_not_parsed", 11, 10),
    FilterCount("label_disagrees_with_gold", 10, 9),
    FilterCount("rationale_empty", 9, 8),
    FilterCount("rationale_too_short", 8, 7),
    FilterCount("rationale_repeats_question", 7, 6),
    FilterCount("rationale_loops", 6, 5),
    FilterCount("rationale_contradicts_label", 5, 5),
    FilterCount("low_agreement", 5, 4),
    FilterCount("near_duplicates", 4, 3),
    FilterCount("class_balance", 3, 2),
  ]
  assert len(kept) == 2 and 9 in kept


@pytest.mark.parametrize(
  "label, status, is_kept",
  [
    ("yes", "ok", True),
    ("yes", "empty_rationale", True),
    ("yes", "truncated", True),
    ("yes", "ambiguous", False),
    ("neutral.\n\nPre", "outside_label_set", False),
    (" ", "ok", False),
    (None, "no_marker", False),
    (None, None, False),
  ],
)
def test_label_not_parsed(label, status, is_kept):
  config = {"drop_label_not_parsed": True}
  assert _is_kept(config, teacher_label=label, status=status) == is_kept


@pytest.mark.parametrize(
  "form, gold, label, is_kept",
  [
    ("closed_set", "yes", "yes", True),
    ("closed_set", "yes", "no", False),
    ("closed_set", "yes", None, False),
    ("closed_set", None, "no", True),
    ("equation", "( 6.0 * 7.0 )", "42", True),
    ("equation", "( 6.0 * 7.0 )", "43", False),
    ("equation", "x", "x", False),
    ("free_text", "42", "6 * 7", False),
    ("free_text", "Paris", "Paris.", True),
    ("free_text", "New York", '"new  york"', True),
    ("closed_set", "YES", "yes", True),
    ("closed_set", "maybe", "maybe", False),
    ("equation", "3.6", "8.8 - 5.2", True),
  ],
)
def test_label_disagrees_with_gold(form, gold, label, is_kept):
  config = {"drop_label_disagrees_with_gold": True, "answer_form": form}
  if form == "closed_set":
    config["labels"] = ("yes", "no")
  assert _is_kept(config, label=gold, teacher_label=label) == is_kept


def test_options_that_differ_in_case_are_different_labels():
  config = {
    "drop_label_disagrees_with_gold": True,
    "answer_form": "choice_letter",
  }
  for options, is_kept in ((["US", "us"], False), (["US", "them"], True)):
    fields = {
      "label": "US",
      "teacher_label": "us",
      "meta": {"choices": options},
    }
    assert _is_kept(config, **fields) == is_kept


@pytest.mark.parametrize(
  "form, gold, is_usable",
  [
    ("closed_set", "YES.", True),
    ("closed_set", "maybe", False),
    ("equation", "( 1.0 + 2.0 )", True),
    ("equation", "three", False),
    ("choice_letter", "Zoo", True),
    ("choice_letter", "park", False),
    ("free_text", "anything", True),
    ("free_text", " ", False),
  ],
)
def test_gold_labels_that_no_answer_equals(form, gold, is_usable):
  config = FilterConfig(
    answer_form=form, labels=("yes", "no") if form == "closed_set" else ()
  )
  record = _record(label=gold, meta={"choices": ["zoo", "desk"]})
  assert filters.is_gold_usable(record, config) == is_usable


def test_empty_and_short_rationales():
  for rationale, is_kept in ((None, False), (" \n", False), ("x", True)):
    config = {"drop_empty_rationale": True}
    assert _is_kept(config, rationale=rationale) == is_kept
  for rationale, is_kept in ((None, False), ("a b", False), ("a b c", True)):
    config = {"min_rationale_words": 3}
    assert _is_kept(config, rationale=rationale) == is_kept


@pytest.mark.parametrize(
  "rationale, share",
  [
    ("A man walks a big dog.", 1.0),
    ("a man, walks a BIG dog", 1.0),
    ("A man walks a cat.", 2 / 3),
    ("Dog big a walks man a.", 0.0),
    ("big dog", 1.0),
    ("big cat", 0.0),
    ("...", 0.0),
    (None, 0.0),
  ],
)
def test_rationale_repeats_question(rationale, share):
  for limit, is_kept in ((share, True), (share - 0.01, False)):
    if limit >= 0:
      config = {"max_question_share": limit}
      text = "A man walks a big dog in a park."
      assert _is_kept(config, input=text, rationale=rationale) == is_kept


@pytest.mark.parametrize(
  "rationale, share",
  [
    (_LONG, 0.0),
    ("a b c d a b c d", 1 / 5),
    ("no no no no no no no", 3 / 4),
    ("a b", 0.0),
    (None, 0.0),
  ],
)
def test_rationale_loops(rationale, share):
  for limit, is_kept in ((share + 1e-9, True), (share - 0.01, False)):
    if limit >= 0:
      config = {"max_loop_share": limit}
      assert _is_kept(config, rationale=rationale) == is_kept


_OPTIONS = ["bus", "river bank", "bank", "theatre", "box", "bus stop", "dress"]


@pytest.mark.parametrize(
  "rationale, label, is_kept",
  [
    ("Of the above choices, only a theatre.", "bus", False),
    ("Not a theatre. Of the above, only Buses.", "bus", True),
    ("A bus or a theatre.", "bus", True),
    ("Nothing is named.", "bus", True),
    # The longer option is meant where both fit.
    ("Only river banks.", "bank", False),
    ("Only river banks.", "river bank", True),
    ("Only a bus stop.", "bus", False),
    ("Only a bus stop.", "bus stop", True),
    ("A box, then dresses.", "dress", True),
    ("A dress, then boxes.", "box", True),
    ("It is busy.", "theatre", True),
    ("Only a theatre.", None, True),
    ("Only a theatre.", " ", True),
    (None, "bus", True),
  ],
)
def test_contradictions_of_options(rationale, label, is_kept):
  config = {"drop_contradictions": True, "answer_form": "choice_letter"}
  fields = {"rationale": rationale, "teacher_label": label}
  assert _is_kept(config, meta={"choices": _OPTIONS}, **fields) == is_kept
  # Read out of the input where meta does not hold them.
  lines = [
    f"({letter}) {option}"
    for letter, option in zip("abcdefg", _OPTIONS, strict=True)
  ]
  text = "\n".join(["Which?", "Answer Choices:", *lines])
  assert _is_kept(config, input=text, **fields) == is_kept
  # From the closed set.
  config |= {"answer_form": "closed_set", "labels": tuple(_OPTIONS)}
  assert _is_kept(config, **fields) == is_kept


@pytest.mark.parametrize(
  "rationale, label, is_kept",
  [
    ("So 84 / 2 = 42.", "(84 / 2)", True),
    ("So 84 / 2 = 43.", "(84 / 2)", False),
    ("Then 2 + 2 = 4. So 4 * 3 = 12 apples.", "(2 + 2) * 3", True),
    ("Then 2 + 2 = 4. So 4 * 3 = 12 apples.", "2 + 2", False),
    ("So 900 + 100 = $1,000.", "900 + 100", True),
    ("So 10 / 3 = 3.33.", "10 / 3", True),
    ("So 20 / 3 = 6.66.", "20 / 3", True),
    ("So 20 / 3 = 6.68.", "20 / 3", False),
    # Off by a few thousandths is another number.
    ("So 1650 * 87 = 143050.", "1650 * 87", False),
    ("So 8.8 - 5.2 = 3.6.", "8.8 - 5.2", True),
    ("So 40 + 2 = 42, of course.", "40 + 2", True),
    ("So 3 − 5 = −2.", "3 - 5", True),
    # What may mean another number contradicts nothing.
    ("So it is = 2,3.", "23", True),
    ("So it is = 2,3.", "2.3", True),
    ("So it is = 5 thousand.", "5000", True),
    ("So it is = 42%.", "0.42", True),
    ("So 3 - 5 = -2.", "3 - 5", True),
    # A sum that is split further is no result.
    ("So 2 * 5 = 5 + 5.", "2 * 5", True),
    ("It is 43.", "(84 / 2)", True),
    ("So 7 * x = 14.", None, True),
    (None, "1", True),
  ],
)
def test_contradictions_of_equations(rationale, label, is_kept):
  config = {"drop_contradictions": True, "answer_form": "equation"}
  fields = {"rationale": rationale, "teacher_label": label}
  assert _is_kept(config, **fields) == is_kept


def test_low_agreement():
  config = {"min_confidence": 0.6}
  assert _is_kept(config, meta={"confidence": 0.6})
  assert not _is_kept(config, meta={"confidence": 0.59})
  for meta in ({}, {"confidence": None}, {"confidence": "1"}):
    with pytest.raises(UserError, match="'r0' has meta.confidence .*NUM_SAM"):
      _is_kept(config, meta=meta)


def test_what_nobody_answered_is_not_agreed_on():
  config = {"min_confidence": 0.6}
  failed = {"meta": {"failures": ["too_large"]}, "status": None}
  assert not _is_kept(config, **failed)


# --- Near-duplicates --------------------------------------------------------


def test_of_near_duplicates_the_first_stays():
  words = [f"w{index}" for index in range(100)]
  texts = [
    " ".join(words),
    " ".join(["x", *words[1:]]),  # 97 of 99 triples in common
    " ".join(words[:60]),  # 58 of 98
    " ".join(words).upper() + "!",
    "Other words in another question.",
    "",
    "!",
  ]
  records = [_record(index, input=text) for index, text in enumerate(texts)]
  kept, counts = _apply(records, near_duplicate_threshold=0.9)
  assert kept == [0, 2, 4, 5]
  assert counts == [FilterCount("near_duplicates", 7, 4)]
  assert _apply(records, near_duplicate_threshold=1.0)[0] == [0, 1, 2, 4, 5]
  assert _apply(records, near_duplicate_threshold=0.5)[0] == [0, 4, 5]
  assert _apply(records[::-1], near_duplicate_threshold=0.9)[0] == [6, 4, 3, 2]


def test_near_duplicates_need_their_library(monkeypatch):
  monkeypatch.setitem(sys.modules, "datasketch", None)
  with pytest.raises(UserError, match="pip install datasketch"):
    _apply([_record()], near_duplicate_threshold=0.9)
  # Nothing else does.
  assert _apply([_record()], drop_label_not_parsed=True)[0] == [0]


# --- Balance ----------------------------------------------------------------


def _classes(*labels):
  return [_record(i, teacher_label=label) for i, label in enumerate(labels)]


def _balance(records, how, **fields):
  config = FilterConfig(class_balance=how, **fields)
  return filters.apply_filters(records, config)[0]


def test_under_sampling():
  records = _classes(*"aaaaaaab", None, *"bc" * 3)
  balanced = _balance(records, "under")
  counts = collections.Counter(record.teacher_label for record in balanced)
  assert counts == {"a": 3, "b": 3, "c": 3, None: 1}
  assert [r for r in records if r in balanced] == balanced
  assert _balance(records, "under") == balanced
  assert _balance(records, "under", seed=1) != balanced


def test_over_sampling():
  records = _classes(*"aaaaaaabbc", None)
  # An id that a copy would have.
  records.append(
    dataclasses.replace(records[9], id="r9-copy-1", teacher_label="a")
  )
  balanced = _balance(records, "over")
  counts = collections.Counter(record.teacher_label for record in balanced)
  assert counts == {"a": 8, "b": 8, "c": 8, None: 1}
  assert len({record.id for record in balanced}) == len(balanced)
  assert [r for r in balanced if r in records] == records
  texts = collections.Counter(
    r.input for r in balanced if r.teacher_label == "b"
  )
  assert set(texts.values()) == {4}
  # The remainder is drawn.
  records = _classes(*"aaaaa", *"bbb")
  assert len({str(_balance(records, "over", seed=s)) for s in range(9)}) > 1
  assert _balance(records, "over") == _balance(records, "over")


def test_weights():
  records = _classes(*"aaab", None)
  balanced = _balance(records, "weights")
  weights = [record.weight for record in balanced]
  assert weights == pytest.approx([2 / 3] * 3 + [2.0, 1.0])
  assert {record.weight for record in records} == {1.0}


def test_the_class_is_a_field_of_choice():
  records = [_record(i, label=label) for i, label in enumerate("aab")]
  assert len(_balance(records, "under", balance_by="label")) == 2
  assert len(_balance(records, "under")) == 3
  assert _balance([], "over") == []
  unlabelled = _classes(None, None)
  assert _balance(unlabelled, "under") == unlabelled


def test_equal_labels_are_one_class():
  records = _classes("yes", "Yes.", "yes", "no")
  config = {"answer_form": "closed_set", "labels": ("yes", "no")}
  assert len(_balance(records, "under", **config)) == 2
  records = _classes("1 + 2", "3", "3.0", "4")
  assert len(_balance(records, "under", answer_form="equation")) == 2
  assert len(_balance(records, "under")) == 4


def test_open_labels_are_no_classes():
  records = _classes(*map(str, range(51)))
  with pytest.raises(UserError, match="has 51 different values, too many"):
    _balance(records, "over")


@pytest.mark.parametrize(
  "field, value",
  [
    ("max_question_share", 1.5),
    ("max_question_share", "0.5"),
    ("min_rationale_words", None),
    ("max_loop_share", -0.1),
    ("min_confidence", 2),
    ("near_duplicate_threshold", 0.49),
    ("min_rationale_words", -1),
    ("class_balance", "more"),
    ("balance_by", "status"),
  ],
)
def test_settings_out_of_range(field, value):
  with pytest.raises(UserError, match=f"{field} is {value!r}"):
    FilterConfig(**{field: value})


class TestRelease:
  """What the filters leave of PaLM's answers."""

  pytestmark = official_release.NEEDED

  def test_cqa_train(self):
    records = official.read_split(
      official_release.FOLDER, "cqa", "train", "tolerant"
    )
    config = FilterConfig(
      answer_form="choice_letter",
      drop_label_not_parsed=True,
      drop_label_disagrees_with_gold=True,
      drop_empty_rationale=True,
      min_rationale_words=5,
      max_question_share=0.5,
      max_loop_share=0.3,
      drop_contradictions=True,
    )
    _, counts = filters.apply_filters(records, config)
    assert counts == [
      FilterCount("label_not_parsed", 9741, 9453),
      FilterCount("label_disagrees_with_gold", 9453, 7344),
      FilterCount("rationale_empty", 7344, 7344),
      FilterCount("rationale_too_short", 7344, 7344),
      FilterCount("rationale_repeats_question", 7344, 7294),
      FilterCount("rationale_loops", 7294, 7278),
      FilterCount("rationale_contradicts_label", 7278, 7260),
    ]

  def test_svamp_train(self):
    records = official.read_split(
      official_release.FOLDER, "svamp", "train", "tolerant"
    )
    config = FilterConfig(
      answer_form="equation",
      drop_contradictions=True,
      near_duplicate_threshold=0.5,
    )
    _, counts = filters.apply_filters(records, config)
    assert [(count.before, count.after) for count in counts] == [
      (800, 736),
      (736, 665),
    ]

  def test_long_rationales_take_no_time(self):
    start = time.process_time()
    for piece in ("1", "= ", "= 1", "=1,", "= 1 ", ","):
      for end in ("", " + 1"):
        rationale = "=" + piece * 50_000 + end
        _is_kept(
          {"drop_contradictions": True, "answer_form": "equation"},
          rationale=rationale,
          teacher_label="1",
        )
    assert time.process_time() - start < 4
