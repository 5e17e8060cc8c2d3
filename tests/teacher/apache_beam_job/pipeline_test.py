"""Steps of the pipeline by themselves; the whole is in label_pipeline_test."""

import dataclasses
import itertools
import json

import pytest

from distill_jax.data.records import Record
from distill_jax.errors import UserError
from distill_jax.teacher.asking import journal
from distill_jax.teacher.asking.exchange import Response
from distill_jax.teacher.asking.labelling import Progress
from distill_jax.teacher.filtering.filters import FilterConfig
from distill_jax.teacher.prompting import template_files, variants

pytest.importorskip(
  "apache_beam", reason="apache_beam is not installed: pip install '.[beam]'"
)

from distill_jax.teacher.apache_beam_job import pipeline as beam_pipeline
from distill_jax.teacher.apache_beam_job.asking import Question


def _make_variant(name):
  return variants.Variant(template_files.load_template(name), ("m",))


def _make_response(text):
  return Response(text, "stop", 1, 2, "m", 0.5, 1)


def test_names_of_records():
  assert (
    beam_pipeline.name_records("/a", 3, 12) == "/a/records-00003-of-00012.jsonl"
  )
  assert (
    beam_pipeline.name_records("/a", "*", 2) == "/a/records-*-of-00002.jsonl"
  )


def test_a_report_comes_back(tmp_path):
  report = beam_pipeline.Report(
    ["bad"], {"num_open": 2}, Progress(3, 2, 1, 0, 4, 5, True, "ü")
  )
  path = tmp_path / "report.json"
  path.write_text(json.dumps(dataclasses.asdict(report)))
  assert beam_pipeline.read_report(str(path)) == report
  with pytest.raises(UserError, match="absent.* cannot be read"):
    beam_pipeline.read_report("memory://absent")


@pytest.mark.parametrize("order", [*itertools.permutations(range(4))])
def test_of_several_answers_the_first_journals_counts(order):
  """Whatever order a shuffle brings them in."""
  failure = journal.Failure("rejected", "", True, 1)
  known = [
    (0, failure),
    (3, _make_response("third")),
    (1, _make_response("first")),
    (2, failure),
  ]
  joined = {"asked": ["a", "b", "a"], "known": [known[i] for i in order]}
  chosen = dict(beam_pipeline._choose_answer(("key", joined)))
  assert chosen == {
    "a": ("key", _make_response("first")),
    "b": ("key", _make_response("first")),
  }


def test_what_nobody_knows_or_asks():
  unknown = ("key", {"asked": ["a"], "known": []})
  unasked = ("key", {"asked": [], "known": [(0, _make_response("x"))]})
  for joined in (unknown, unasked):
    assert list(beam_pipeline._choose_answer(joined)) == []


def test_an_id_that_stands_twice():
  first, second = (
    Question(position, Record("a", "x"), ("k",), {})
    for position in ((0, 5), (1, 0))
  )
  sides = {"questions": [second, first], "found": []}
  with pytest.raises(UserError, match="^two: 'a' is already an id in one"):
    list(beam_pipeline._unite(("a", sides), ["one", "two"]))


def test_filters_are_divided():
  config = FilterConfig(
    drop_empty_rationale=True,
    min_rationale_words=3,
    near_duplicate_threshold=0.9,
    class_balance="under",
    balance_by="label",
    seed=7,
  )
  of_one, of_all = beam_pipeline._split_filters(_make_variant("esnli"), config)
  assert of_one.drop_empty_rationale and of_one.min_rationale_words == 3
  assert of_one.near_duplicate_threshold is of_one.class_balance is None
  assert of_one.labels and of_one.answer_form == "closed_set"
  assert (of_all.near_duplicate_threshold, of_all.class_balance) == (
    0.9,
    "under",
  )
  assert (of_all.balance_by, of_all.seed) == ("label", 7)
  assert not of_all.drop_empty_rationale and of_all.min_rationale_words == 0


@pytest.mark.parametrize("order", [(0, 1, 2, 3), (3, 1, 0, 2), (2, 3, 1, 0)])
def test_records_are_compared_in_the_order_of_their_questions(order):
  text = "Ann has four apples and a basket of pears, and Ben has none at all"
  records = [
    ((0, 9), Record("first", text)),
    ((1, 0), Record("other", "How many legs has a horse?")),
    ((1, 2), Record("second", text + ".")),
    ((10, 0), Record("third", text + "!")),
  ]
  config = FilterConfig(near_duplicate_threshold=0.9)
  group = (0, [records[i] for i in order])
  outputs = list(beam_pipeline._filter_all(group, config))
  assert [(c.tag, c.value) for c in outputs[:1]] == [
    ("count", ("near_duplicates", (4, 2)))
  ]
  assert [(place, record.id) for place, record in outputs[1:]] == [
    (0, "first"),
    (1, "other"),
  ]
