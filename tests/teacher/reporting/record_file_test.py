"""Records out of a journal, whole or not at all."""

import contextlib
import dataclasses

import pytest

from distill_jax.answers import text_metrics
from distill_jax.data import records
from distill_jax.data.records import Record
from distill_jax.errors import UserError
from distill_jax.teacher.asking import journal, ledger
from distill_jax.teacher.asking.exchange import Response, TeacherError
from distill_jax.teacher.filtering.filters import FilterConfig
from distill_jax.teacher.prompting import template_files, variants
from distill_jax.teacher.reporting import record_file

_VARIANT = variants.Variant(template_files.load_template("svamp"), ("m",))


def _make_questions(num):
  return [
    Record(id=f"q{i}", input=f"{i} and {i}?", label=f"{2 * i}")
    for i in range(num)
  ]


@pytest.fixture(name="own")
def fixture_own(tmp_path):
  with journal.Journal(tmp_path / "journal.jsonl") as own:
    yield own


@pytest.fixture(name="path")
def fixture_path(tmp_path):
  return tmp_path / "records.jsonl"


def _answer(own, questions, final_failures=()):
  for question in questions:
    (request,) = variants.make_requests(_VARIANT, question)
    number = int(question.id[1:])
    if number in final_failures:
      own.append_failure(
        request.key,
        TeacherError("no", kind="rejected", is_final=True, num_attempts=1),
      )
      continue
    text = f"Add {number}. The answer is ({number} + {number})."
    if number == 3:
      text = "Who knows."
    own.append_response(request.key, Response(text, "stop", 10, 5, "m", 0.1, 1))


def _write(own, path, questions, config=None, is_partial_good=False):
  return record_file.write_records(
    path,
    iter(questions),
    _VARIANT,
    journal.Answers([own]),
    config or FilterConfig(),
    is_partial_good,
  )


def _describe(summary, own, path):
  paid = ledger.summarize([own.ledger], None, summary["num_records"])
  return record_file.describe(summary | {"paid": paid}, path)


def test_one_record_a_question_in_their_order(own, path):
  questions = _make_questions(8)
  _answer(own, questions[::-1], final_failures=(5,))
  summary = _write(own, path, questions)
  written = list(records.read_records(path))
  assert [record.id for record in written] == [f"q{i}" for i in range(8)]
  assert [record.status for record in written] == [
    *["ok"] * 3,
    "no_marker",
    "ok",
    None,
    *["ok"] * 2,
  ]
  assert summary["num_records"] == summary["num_questions"] == 8
  assert summary["num_correct"] == 6
  assert summary["accuracy_low"] == text_metrics.wilson_interval(6, 8)[0]
  assert summary["filters"] == []
  described = _describe(summary, own, path)
  for text in (
    "8 questions: 6 ok, 1 no_marker, 1 without answer\n",
    "accuracy 75.0% (",
    "7 answers, tokens: 70 in, 35 out; cost: not known",
    "for each of 8 records: 13.12 tokens",
    "failed for good: 1 rejected",
    f"8 records in {path}",
  ):
    assert text in described


def test_open_questions(own, path):
  questions = _make_questions(4)
  _answer(own, questions[:2])
  path.write_text("old")
  summary = _write(own, path, questions)
  assert summary["num_records"] is None
  assert (summary["num_questions"], summary["num_open"]) == (4, 2)
  assert path.read_text() == "old"
  assert "2 ok, 2 open" in _describe(summary, own, path)
  assert "no records are written" in _describe(summary, own, path)

  summary = _write(own, path, questions, is_partial_good=True)
  assert summary["num_records"] == 2
  assert [r.id for r in records.read_records(path)] == ["q0", "q1"]


@pytest.mark.parametrize("is_partial_good", [True, False])
def test_filters(own, path, is_partial_good):
  questions = _make_questions(6)
  _answer(own, questions)
  config = FilterConfig(
    drop_label_not_parsed=True, drop_label_disagrees_with_gold=True
  )
  # Its gold label is equal as a number only.
  summary = _write(own, path, questions, config, is_partial_good)
  assert [r.id for r in records.read_records(path)] == [
    f"q{i}" for i in (0, 1, 2, 4, 5)
  ]
  assert summary["filters"] == [
    {"name": "label_not_parsed", "before": 6, "after": 5},
    {"name": "label_disagrees_with_gold", "before": 5, "after": 5},
  ]
  assert (summary["num_records"], summary["num_questions"]) == (5, 6)
  assert "label_not_parsed: 6 -> 5" in _describe(summary, own, path)


def test_ties_and_gold_labels_that_do_not_count_are_said(own, path):
  questions = [
    dataclasses.replace(question, label="three")
    for question in _make_questions(1)
  ]
  _answer(own, questions)
  summary = _write(own, path, questions)
  assert "1 gold labels, such as 'three'" in _describe(summary, own, path)
  assert "a tie" not in _describe(summary, own, path)
  described = _describe(summary | {"num_ties": 3}, own, path)
  assert "votes that were a tie (meta.is_tie): 3" in described


def test_filters_of_open_questions(own, path):
  questions = _make_questions(3)
  _answer(own, questions[:2])
  config = FilterConfig(min_rationale_words=1)
  assert _write(own, path, questions, config)["num_records"] is None
  assert not path.exists()


def test_how_to_filter_without_a_filter_holds_nothing_in_memory(
  own, path, monkeypatch
):
  monkeypatch.setattr(record_file, "apply_filters", None)
  questions = _make_questions(2)
  _answer(own, questions)
  config = FilterConfig(seed=7, balance_by="label")
  assert _write(own, path, questions, config)["num_records"] == 2


def test_nothing_to_write(own, path):
  assert _write(own, path, [])["num_records"] == 0
  assert path.read_text() == ""


def test_a_folder_in_its_place(own, path):
  path.mkdir()
  with pytest.raises(UserError, match="records.jsonl cannot be written"):
    _write(own, path, [])
  with contextlib.suppress(StopIteration):
    assert next(path.iterdir()) is None
