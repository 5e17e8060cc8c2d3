"""Tests of experiments/tables.py."""

import pytest
from run_results import make_run, make_run_of_200

from distill_jax.experiments import tables
from distill_jax.experiments.results import RunFailure


def _find(rows, title, **arguments):
  found = tables.make_tables(rows, **arguments)
  return next((table for table in found if table.title == title), None)


def test_every_line_has_every_column():
  rows = [
    make_run_of_200(arm, size, seed, 90 + seed, tokens=5)
    for arm in "abc"
    for size in (50, 100)
    for seed in range(3)
  ]
  found = tables.make_tables(rows, failures=[RunFailure("a", 50, 4, "why")])
  assert [table.title for table in found] == [
    "Accuracy",
    "Differences between arms",
    "Runs",
    "Runs that failed",
  ]
  for table in found:
    assert {len(line) for line in table.lines} == {len(table.columns)}
    assert table.notes
  assert [line[:2] for line in found[0].lines] == [
    [size, arm] for size in ("50", "100") for arm in "abc"
  ]


def test_numbers_of_runs_are_shown_where_they_are_known():
  rows = [
    make_run_of_200("a", 50, 0, 90, validation_accuracy=0.5, tokens=1_000),
    make_run_of_200("a", 50, 1, 90, validation_accuracy=0.6, tokens=2_000),
    make_run_of_200("b", 50, 0, 90, rationale_accuracy=0.25, secret=1),
  ]
  table = _find(rows, "Runs")
  assert table.columns == (
    "Trained on",
    "Arm",
    "Validation accuracy",
    "Right rationales",
    "Tokens a run",
    "Minutes a run",
  )
  assert table.lines == [
    ["50", "a", "55.0%", "-", "1,500", "1.5"],
    ["50", "b", "-", "25.0%", "-", "1.5"],
  ]
  assert _find([make_run_of_200("a", 50, 0, 90)], "Runs") is None


@pytest.mark.parametrize(
  "shares, line",
  [
    ((None, None), None),
    ((0.85, 0.85), "right in 85.0%."),
    ((0.85, None), "right in 85.0%."),
    ((0.85, 1.0), "right in 85.0% (a on 50); 100.0% (b on 50)."),
    ((1.0, 0.85, 1.0), "right in 85.0% (b on 50); 100.0% (all others)."),
  ],
)
def test_the_teachers_accuracy_is_a_line(shares, line):
  rows = [
    make_run_of_200(
      arm, 50, 0, 90, **({"teacher_accuracy": share} if share else {})
    )
    for arm, share in zip("abc", shares, strict=False)
  ]
  said = [
    note for note in _find(rows, "Accuracy").notes if note.startswith("Teacher")
  ]
  assert len(said) == (line is not None)
  assert line is None or said[0].endswith(line)


def _read_notes(seeds_by_arm, **arguments):
  rows = [
    make_run_of_200(arm, 50, seed, 90 + seed)
    for arm, count in seeds_by_arm.items()
    for seed in range(count)
  ]
  return " ".join(_find(rows, "Differences between arms", **arguments).notes)


def test_notes_say_what_holds_for_these_seeds():
  five = _read_notes({"a": 5, "b": 5})
  assert "speak of other seeds and other test examples" in five
  assert "Warning" not in five and "Holm p" not in five
  two = _read_notes({"a": 2, "b": 5})
  assert "Warning: fewer than 3 seeds (b minus a on 50)" in two
  one = _read_notes({"a": 1, "b": 1})
  assert "these two runs only" in one and "other test examples" not in one
  borrowed = _read_notes({"a": 1, "b": 3})
  assert "spread is taken to be the same" in borrowed
  assert "3 comparisons" in _read_notes({"a": 3, "b": 3, "c": 3})


def test_a_failures_message_is_one_harmless_line():
  message = "first\n\x1b[31msecond " + "x" * 1_000
  table = _find([], "Runs that failed", failures=[
    RunFailure("a", 125, 3, message), RunFailure("b", 125, 4, "why")
  ])  # fmt: skip
  size, arm, seed, shown = table.lines[0]
  assert (size, arm, seed) == ("125", "a", "3")
  assert shown.startswith("first \\x1b[31msecond xx")
  assert len(shown) < 320 and shown.endswith("[...]")
  assert table.notes == ["2 runs failed; the other tables are without them."]


def test_before_the_first_run_there_is_an_empty_table():
  (table,) = tables.make_tables([])
  assert table.lines == []


def test_comparisons_that_cannot_be_made_are_said():
  rows = [make_run_of_200("a", 10, 0, 5), make_run_of_200("b", 9, 0, 5)]
  table = _find(
    rows, "Differences between arms", comparisons=[("a", "b")], num_planned=1
  )
  assert table.lines == []
  (note,) = table.notes
  assert note.startswith("1 of 1 comparisons cannot be made")


def test_arms_with_other_rows_than_asked_for_are_compared_with_a_warning():
  rows = [
    make_run(arm, 250, 0, [1, 0, 1], num_train_examples=rows)
    for arm, rows in (("a", 249), ("b", 250))
  ]
  accuracy = _find(rows, "Accuracy")
  assert [line[0] for line in accuracy.lines] == ["250 (249)", "250"]
  assert "in brackets" in accuracy.notes[-1]
  differences = _find(rows, "Differences between arms")
  assert [line[0] for line in differences.lines] == ["250"]
  assert any(
    "b minus a on 250 had 250 and 249" in note for note in differences.notes
  )


def test_two_sizes_that_come_to_the_same_rows_are_two_lines():
  rows = [
    make_run("a", size, 0, [1, 0, 1], num_train_examples=5) for size in (4, 6)
  ]
  assert [line[0] for line in _find(rows, "Accuracy").lines] == [
    "4 (5)",
    "6 (5)",
  ]
