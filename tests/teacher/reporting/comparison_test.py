"""Questions to compare on, and the table."""

import pytest

from distill_jax.data.records import Record
from distill_jax.errors import UserError
from distill_jax.teacher.prompting import template_files, variants
from distill_jax.teacher.reporting import comparison

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
    ({"prompts": "svamp"}, "prompts is 'svamp'; it must be a list"),
    ({"models": []}, "models"),
    ({"temperatures": 0.5}, "temperatures"),
    ({"num_examples": 0}, "num_examples is 0"),
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
    "num_unusable_gold": 0,
    "unusable_gold": [],
  } | fields


def _compare(*variants_with_summaries):
  template = template_files.load_template("svamp")
  return comparison.format_table(
    [
      (variants.Variant(template, (model,), temperature=temperature), summary)
      for model, temperature, summary in variants_with_summaries
    ]
  ).splitlines()


def test_table():
  common, heading, *rows = _compare(
    ("worse", 0.0, _summary(0.3)),
    (
      "none",
      1.0,
      _summary(
        None,
        parse_rate=None,
        cost=None,
        latency_seconds_p50=None,
        latency_seconds_p95=None,
        num_open=10,
      ),
    ),
    ("better", 0.7, _summary(0.5)),
  )
  assert common == "prompt svamp, samples 1"
  assert [row.split()[:2] for row in rows] == [
    ["better", "0.7"],
    ["worse", "0"],
    ["none", "1"],
  ]
  # Nine questions have cost 0.0125.
  for name, cell in (
    ("accuracy (95%)", "50.0% (40.0 to 60.0)"),
    ("parsed", "97.5%"),
    ("EUR for 1,000", "1.389"),
    ("p50, p95 s", "0.50, 1.23"),
    ("answered", "9 of 10"),
  ):
    assert heading.index(name) == rows[0].index(cell)
  assert rows[2].split() == ["none", "1", "-", "-", "-", "-,", "-"] + [
    "0",
    "of",
    "10",
  ]


def test_what_does_not_differ_is_said_once():
  summary = _summary(0.5, cost=None, num_open=0)
  common, heading, row = _compare(("m", 0.7, summary))
  assert common == "prompt svamp, teacher m, temp 0.7, samples 1"
  assert "answered" not in heading
  # Without prices, tokens tell what it would cost.
  assert heading.index("tokens in + out") == row.index("100 + 5")


def test_gold_labels_that_do_not_count_are_shown():
  summary = _summary(0.5, num_unusable_gold=2, unusable_gold=["YE", "maybe"])
  _, heading, row, warning = _compare(("m", 0.7, summary))
  assert row[heading.index("unusable gold")] == "2"
  assert warning.startswith("WARNING: 2 gold labels, such as 'YE', 'maybe'")
  # Once, though it is true of all.
  *_, before, warning = _compare(("m", 0.7, summary), ("n", 0.7, summary))
  assert not before.startswith("WARNING")


def test_long_names_fit_a_screen_and_stay_apart():
  folder = "/models/" + "x" * 60 + "/"
  long = "llama-3.1-70b-instruct-awq-int4"
  _, heading, *rows = _compare(
    (folder + long, 0.0, _summary(0.5, num_open=0)),
    ("short", 0.7, _summary(0.4, num_open=0)),
  )
  assert rows[0].split()[0] == "llama-3...t-awq-int4"
  # The longest name of a prompt that ships would stand before it.
  assert len("word_problems  ") + max(map(len, [heading, *rows])) <= 100
  # Two that would look the same are shown whole.
  _, _, *rows = _compare(
    (f"a/{'x' * 20}/{long}", 0.0, _summary(0.5)),
    (f"b/{'x' * 20}/{long}", 0.0, _summary(0.4)),
  )
  assert [row[:2] for row in rows] == ["a/", "b/"]
