"""Questions to compare on, and the table."""

import pytest

from distill_jax.data.records import Record
from distill_jax.errors import UserError
from distill_jax.teacher import comparison, prompts, variants

_QUESTIONS = [
  Record(id=f"q{i}", input="?", label=str(i) if i % 2 else None)
  for i in range(40)
]


def _choose(num_examples, seed, questions=_QUESTIONS):
  chosen = comparison.choose_labelled(iter(questions), num_examples, seed)
  return [record.id for record in chosen]


def test_the_first_questions():
  assert _choose(3, None) == ["q1", "q3", "q5"]
  assert len(_choose(100, None)) == 20


def test_drawn_questions():
  drawn = _choose(5, 1)
  assert len(set(drawn)) == 5
  assert drawn == _choose(5, 1, _QUESTIONS[::-1])
  assert drawn != _choose(5, 2)
  # More are the same ones and others.
  assert _choose(8, 1)[:5] == drawn
  assert all(int(name[1:]) % 2 for name in drawn)
  assert len(_choose(100, 1)) == 20


@pytest.mark.parametrize("seed", [None, 1])
def test_the_whole_file_is_checked(seed):
  def read():
    yield from _QUESTIONS
    raise UserError("line 41")

  with pytest.raises(UserError, match="line 41"):
    comparison.choose_labelled(read(), 2, seed)


@pytest.mark.parametrize(
  "fields, told",
  [
    ({"prompts": "svamp"}, "EVALUATE_PROMPTS is 'svamp'; it is a list"),
    ({"models": []}, "EVALUATE_TEACHERS"),
    ({"temperatures": 0.5}, "EVALUATE_TEMPERATURES"),
    ({"num_examples": 0}, "EVALUATE_EXAMPLES is 0"),
  ],
)
def test_settings_that_cannot_be(fields, told):
  with pytest.raises(UserError, match=told):
    comparison.ComparisonConfig(**fields)


def _summary(accuracy, **fields):
  return {
    "accuracy": accuracy,
    "accuracy_low": 0.4,
    "accuracy_high": 0.6,
    "parse_rate": 0.975,
    "prompt_tokens": 1000,
    "completion_tokens": 50,
    "cost": 0.0125,
    "currency": "EUR",
    "latency_seconds_p50": 0.5,
    "latency_seconds_p95": 1.234,
    "num_questions": 10,
    "num_open": 1,
  } | fields


def test_table():
  template = prompts.load_template("svamp")
  worse, better, unknown = (
    variants.Variant(template, (model,), temperature=temperature)
    for model, temperature in (("worse", 0.0), ("better", 0.7), ("none", 1))
  )
  table = comparison.format_table(
    [
      (worse, _summary(0.3)),
      (
        unknown,
        _summary(
          None,
          parse_rate=None,
          cost=None,
          latency_seconds_p50=None,
          latency_seconds_p95=None,
        ),
      ),
      (better, _summary(0.5)),
    ]
  )
  heading, *rows = table.splitlines()
  assert [row.split()[1] for row in rows] == ["better", "worse", "none"]
  assert rows[0].split("  ")[0] == "svamp"
  assert "0.7" in rows[0]
  for cell in ("50.0% (40.0 to 60.0)", "97.5%", "1000 + 50", "0.0125 EUR"):
    start = rows[0].index(cell)
    assert heading[start - 1] == " " and heading[start] != " "
  assert "0.50 / 1.23" in rows[0]
  assert rows[0].endswith("9 of 10")
  assert "- / -" in rows[2]
