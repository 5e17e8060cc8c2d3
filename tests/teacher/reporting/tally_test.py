"""Counts over outcomes."""

import dataclasses

import pytest

from distill_jax.answers import text_metrics
from distill_jax.data.records import Record
from distill_jax.errors import UserError
from distill_jax.teacher.asking import journal, prices
from distill_jax.teacher.asking.exchange import Response
from distill_jax.teacher.prompting import template_files, variants
from distill_jax.teacher.reporting import tally

_RECORD = Record(
  id="1",
  input="?",
  label="(3 + 4)",
  teacher_label="(4 + 3)",
  rationale="so",
  teacher="m",
  status="ok",
)
_TABLE = prices.PriceTable(
  "EUR", {"m": prices.Price(1.0, 2.0), "n": prices.Price(10.0, 20.0)}, "p.toml"
)


def _make_tally(price_table=None, template="svamp"):
  template = template_files.load_template(template)
  return tally.Tally(variants.Variant(template, ("m",)), price_table)


def _make_outcome(
  record=_RECORD, models=("m",), num_open=0, kinds=(), **fields
):
  fields = {"prompt_tokens": 100, "completion_tokens": 10} | fields
  fields = {"latency_seconds": 1.0} | fields
  response = Response(
    text="", finish_reason=None, model=None, num_attempts=1, **fields
  )
  return variants.Outcome(
    record,
    tuple((model, response) for model in models),
    tuple(journal.Failure(kind, "", True, 1) for kind in kinds),
    num_open,
  )


def _replace(**fields):
  return dataclasses.replace(_RECORD, **fields)


def test_nothing():
  nothing = _make_tally()
  summary = nothing.summarize() | nothing.summarize_use()
  assert summary["num_questions"] == summary["prompt_tokens"] == 0
  for name in ("accuracy", "parse_rate", "cost", "latency_seconds_p50"):
    assert summary[name] is None


def test_labels():
  counts = _make_tally()
  counts.add(_make_outcome())
  counts.add(_make_outcome(_replace(teacher_label="8")))
  counts.add(_make_outcome(_replace(label=None)))
  counts.add(_make_outcome(_replace(teacher_label=None, status="no_marker")))
  counts.add(
    _make_outcome(
      _replace(teacher_label=None, status=None), models=(), kinds=("too_large",)
    )
  )
  counts.add(_make_outcome(None, num_open=1))
  summary = counts.summarize()
  assert summary["num_questions"] == 6
  assert summary["num_open"] == 1
  assert summary["num_without_answer"] == 1
  assert summary["statuses"] == {"ok": 3, "no_marker": 1}
  assert summary["failures"] == {"too_large": 1}
  assert summary["parse_rate"] == 3 / 5
  # An answer that was not read, or never came, is wrong.
  assert (summary["num_correct"], summary["num_gold"]) == (1, 4)
  assert summary["accuracy"] == 0.25
  low, high = text_metrics.wilson_interval(1, 4)
  assert (summary["accuracy_low"], summary["accuracy_high"]) == (low, high)


def test_labels_that_are_no_equations_are_compared_as_texts():
  counts = _make_tally(template="esnli")
  counts.add(_make_outcome(_replace(label="neutral", teacher_label="neutral")))
  counts.add(_make_outcome())
  assert counts.summarize()["num_correct"] == 1


def test_labels_are_equal_as_everywhere():
  counts = _make_tally(template="esnli")
  for gold, label in (("Neutral", "neutral"), ("neutral.", "neutral")):
    counts.add(_make_outcome(_replace(label=gold, teacher_label=label)))
  assert counts.summarize()["num_correct"] == 2
  counts = _make_tally()
  counts.add(_make_outcome(_replace(label="3.6", teacher_label="8.8 - 5.2")))
  assert counts.summarize()["num_correct"] == 1


def test_gold_labels_that_no_answer_equals_are_reported_and_not_scored():
  counts = _make_tally(template="esnli")
  for gold in ("maybe", "neutral", "perhaps", "maybe", "unknown", "a"):
    counts.add(_make_outcome(_replace(label=gold, teacher_label="neutral")))
  summary = counts.summarize()
  assert (summary["num_correct"], summary["num_gold"]) == (1, 1)
  assert summary["accuracy"] == 1.0
  assert summary["num_unusable_gold"] == 5
  assert summary["unusable_gold"] == ["a", "maybe", "perhaps"]


def test_ties_are_counted():
  counts = _make_tally()
  counts.add(_make_outcome(_replace(meta={"is_tie": True})))
  counts.add(_make_outcome())
  assert counts.summarize()["num_ties"] == 1


def test_tokens_and_cost():
  counts = _make_tally(_TABLE)
  counts.add(_make_outcome(models=("m", "m", "n")))
  counts.add(_make_outcome(prompt_tokens=None))
  summary = counts.summarize_use()
  assert summary["prompt_tokens"] == 300
  assert summary["completion_tokens"] == 40
  assert summary["num_responses"] == 4
  assert summary["num_uncounted_responses"] == 1
  assert summary["currency"] == "EUR"
  expected = (200 * 1 + 30 * 2 + 100 * 10 + 10 * 20) / 1e6
  assert summary["cost"] == pytest.approx(expected)


def test_parts_are_put_together():
  """Whatever the parts, the whole is the same."""
  outcomes = [
    _make_outcome(models=("m", "n"), latency_seconds=3.0),
    _make_outcome(_replace(teacher_label=None, status="no_marker")),
    _make_outcome(_replace(status=None), models=(), kinds=("too_large",)),
    _make_outcome(None, num_open=1, models=("n",), prompt_tokens=None),
    _make_outcome(_replace(label=None), latency_seconds=0.5),
    *(_make_outcome(_replace(label=label)) for label in "edcba"),
    _make_outcome(_replace(meta={"is_tie": True})),
  ]
  whole = _make_tally(_TABLE)
  for outcome in outcomes:
    whole.add(outcome)
  for cut in range(len(outcomes) + 1):
    parts = [_make_tally(_TABLE) for _ in range(2)]
    for number, outcome in enumerate(outcomes):
      parts[number < cut].add(outcome)
    merged = _make_tally(_TABLE)
    for part in parts:
      merged.merge(part)
    assert merged.summarize() == whole.summarize()
    assert merged.summarize_use() == whole.summarize_use()


def test_a_model_without_price():
  counts = _make_tally(_TABLE)
  counts.add(_make_outcome(models=("other",)))
  with pytest.raises(UserError, match="no price of 'other'"):
    counts.summarize_use()


def test_latencies():
  counts = _make_tally()
  for seconds in range(100, 0, -1):
    counts.add(_make_outcome(latency_seconds=float(seconds)))
  summary = counts.summarize()
  assert summary["latency_seconds_p50"] == 50.0
  assert summary["latency_seconds_p95"] == 95.0
