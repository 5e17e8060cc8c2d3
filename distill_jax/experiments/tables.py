"""The tables of a sweep's report: accuracies, verdicts, runs and failures.

Cells are plain text; `report` draws them.
"""

import dataclasses
from collections.abc import Callable, Sequence

from distill_jax.experiments import aggregation, results, verdicts
from distill_jax.teacher.reporting import preview

_ACCURACY_NOTE = (
  "Trained on: number of training examples. Accuracy: mean over seeds. Its"
  " interval covers, with several seeds, other seeds and other test examples (t"
  " from the variance over both). With one seed it is Wilson's and covers other"
  " test examples only."
)
_SIZE_NOTE = (
  "Trained on: the examples asked for, and in brackets those that there were."
)
_VERDICT_NOTE = (
  "Differences and SDs are in percentage points of accuracy, first arm minus"
  " second. Interval and p come from the variance over seeds plus the variance"
  " over test examples, paired by example (Satterthwaite's degrees of freedom);"
  " they speak of other seeds and other test examples. The interval is that of"
  " one comparison."
)
_HOLM_NOTE = (
  "Holm p corrects for {count} comparisons; the reading goes by it, at a level"
  " of 0.05."
)
_MISSING_NOTE = (
  "{missing} of {count} comparisons cannot be made: runs are missing. Holm p"
  " counts them."
)
_DETECTABLE_NOTE = (
  "Seed SD: standard deviation of a run's accuracy between seeds, measured,"
  " both arms pooled. Detectable: the true difference that such a design shows"
  " in 80% of cases, before Holm."
)
_ONE_RUN_NOTE = (
  "With one seed an arm, p is McNemar's mid-p and the interval Agresti and"
  " Min's, paired by example: they speak of these two runs only. Other seeds"
  " may turn the difference around."
)
_ONE_RUN_UNPAIRED_NOTE = (
  "With one seed an arm, p and interval speak of these two runs only. Other"
  " seeds may turn the difference around."
)
_BORROWED_NOTE = (
  "Where only one of two arms has several seeds, the other's spread is taken to"
  " be the same."
)
_UNPAIRED_NOTE = (
  "Not paired by example, as the answers were not kept or the test examples"
  " differ: {arms}. There it is Welch's t over seeds, with the binomial"
  " variance of each arm's test examples added."
)
_OTHER_SIZES_NOTE = (
  "Warning: these arms did not have equally many training examples: {arms}."
)
_FEW_SEEDS_NOTE = (
  "Warning: fewer than {fewest} seeds ({arms}). The spread between seeds is"
  " hardly known; take 5."
)
_RUNS_NOTE = (
  "Means over seeds. Validation accuracy is that of the chosen checkpoint."
  " Right rationales: share that is the teacher's text, its mistakes included,"
  " among the scored examples. Tokens: of inputs and targets trained on,"
  " padding not counted."
)
_SHOWN_CHARACTERS = 300


@dataclasses.dataclass(frozen=True)
class Table:
  """One table of the report.

  Attributes:
    title: its heading.
    columns: the heads of its columns.
    lines: its cells.
    notes: paragraphs below it.
  """

  title: str
  columns: Sequence[str]
  lines: Sequence[Sequence[str]]
  notes: Sequence[str]


@dataclasses.dataclass(frozen=True)
class _RunColumn:
  """A number of runs that is shown where they have it."""

  title: str
  metric: str
  format: Callable[[float], str]


_RUN_COLUMNS = (
  _RunColumn("Validation accuracy", "validation_accuracy", "{:.1%}".format),
  _RunColumn(
    "Validation rationale loss", "validation_rationale_loss", "{:.3f}".format
  ),
  _RunColumn("Right rationales", "rationale_accuracy", "{:.1%}".format),
  _RunColumn("Best step", "best_step", "{:,.0f}".format),
  _RunColumn("Last step", "last_step", "{:,.0f}".format),
  _RunColumn("Tokens a run", "tokens", "{:,.0f}".format),
)


def make_tables(
  rows: Sequence[results.RunResult],
  comparisons: Sequence[tuple[str, str]] | None = None,
  failures: Sequence[results.RunFailure] = (),
  num_planned: int = 0,
) -> list[Table]:
  """Makes the tables of a report.

  Args:
    rows: one result a run.
    comparisons: pairs of arms to compare; None: every two.
    failures: runs that gave no result.
    num_planned: see `verdicts.compare_arms`.

  Returns:
    Accuracies; verdicts, if anything can be compared; other numbers of the
    runs, if they have any; failures, if there are any.

  Raises:
    UserError: a run occurs twice, or a comparison is none.
  """
  # By size first, so that arms to be compared stand under each other.
  cells = sorted(aggregation.aggregate(rows), key=lambda cell: cell.size)
  found = verdicts.compare_arms(rows, comparisons, num_planned)
  tables = [_make_accuracy_table(cells)]
  if found or num_planned:
    tables.append(_make_verdict_table(found, num_planned))
  columns = [
    column
    for column in _RUN_COLUMNS
    if any(column.metric in cell.mean_metrics for cell in cells)
  ]
  if columns:
    tables.append(_make_run_table(cells, columns))
  if failures:
    tables.append(_make_failure_table(failures))
  return tables


def _make_accuracy_table(cells: Sequence[aggregation.Cell]) -> Table:
  lines = [
    [
      _format_size(cell),
      cell.arm,
      f"{cell.mean_accuracy:.1%}",
      f"{cell.low:.1%} to {cell.high:.1%}",
      f"{cell.min_accuracy:.1%} to {cell.max_accuracy:.1%}",
      f"{cell.num_correct:,} of {cell.num_examples:,}",
      str(cell.num_seeds),
      _format_minutes(cell),
    ]
    for cell in cells
  ]
  return Table(
    title="Accuracy",
    columns=(
      "Trained on",
      "Arm",
      "Accuracy",
      "95% interval",
      "Range over seeds",
      "Correct",
      "Seeds",
      "Minutes a run",
    ),
    lines=lines,
    notes=[
      *_describe_teacher(cells),
      _ACCURACY_NOTE,
      *([_SIZE_NOTE] if any(map(_has_other_size, cells)) else []),
    ],
  )


def _describe_teacher(cells: Sequence[aggregation.Cell]) -> list[str]:
  """Says which share of the training labels the teacher has right."""
  # Equal shares of several arms are said once.
  by_share: dict[str, list[str]] = {}
  for cell in cells:
    share = cell.mean_metrics.get("teacher_accuracy")
    if share is not None:
      by_share.setdefault(f"{share:.1%}", []).append(_name_cell(cell))
  if not by_share:
    return []
  commonest = max(by_share, key=lambda share: len(by_share[share]))
  if len(by_share) == 1:
    said = commonest
  else:
    is_rest = len(by_share[commonest]) > 1
    said = "; ".join(
      f"{share} ({', '.join(named)})"
      for share, named in by_share.items()
      if not is_rest or share != commonest
    )
    if is_rest:
      said += f"; {commonest} (all others)"
  return [f"Teacher: its labels of the training examples are right in {said}."]


def _format_size(cell: aggregation.Cell) -> str:
  there = f" ({cell.num_train_examples:,})" if _has_other_size(cell) else ""
  return f"{cell.size:,}{there}"


def _has_other_size(cell: aggregation.Cell) -> bool:
  return cell.num_train_examples != cell.size


def _format_minutes(cell: aggregation.Cell) -> str:
  # Of runs that were stopped on the way it is not known.
  return "-" if cell.mean_seconds is None else f"{cell.mean_seconds / 60:.1f}"


def _name_cell(cell: aggregation.Cell) -> str:
  return f"{cell.arm} on {cell.size:,}"


def _make_verdict_table(
  found: Sequence[verdicts.Verdict], num_planned: int
) -> Table:
  lines = [
    [
      f"{verdict.size:,}",
      _name_arms(verdict),
      f"{100 * verdict.difference:+z.1f}",
      f"{100 * verdict.low:+z.1f} to {100 * verdict.high:+z.1f}",
      verdicts.format_p(verdict.p_value).removeprefix("= "),
      verdicts.format_p(verdict.adjusted_p_value).removeprefix("= "),
      _count_seeds(verdict),
      "-" if verdict.seed_sd is None else f"{100 * verdict.seed_sd:.1f}",
      "-"
      if verdict.basis == verdicts.THIS_RUN_ONLY
      else f"{min(100 * verdict.detectable, 100):.1f}",
      verdicts.describe(verdict),
    ]
    for verdict in found
  ]
  return Table(
    title="Differences between arms",
    columns=(
      "Trained on",
      "Arms",
      "Difference",
      "95% interval",
      "p",
      "Holm p",
      "Seeds",
      "Seed SD",
      "Detectable",
      "Reading",
    ),
    lines=lines,
    notes=_make_verdict_notes(found, num_planned),
  )


def _name_arms(verdict: verdicts.Verdict) -> str:
  return f"{verdict.arm_a} minus {verdict.arm_b}"


def _count_seeds(verdict: verdicts.Verdict) -> str:
  if verdict.num_seeds_a == verdict.num_seeds_b:
    return str(verdict.num_seeds_a)
  return f"{verdict.num_seeds_a} and {verdict.num_seeds_b}"


def _make_verdict_notes(
  found: Sequence[verdicts.Verdict], num_planned: int
) -> list[str]:
  over_seeds = [each for each in found if each.basis == verdicts.OVER_SEEDS]
  one_run = [each for each in found if each.basis == verdicts.THIS_RUN_ONLY]
  uneven = [
    f"{_name_arms(each)} on {each.size:,} had {each.num_train_examples_a:,} and"
    f" {each.num_train_examples_b:,}"
    for each in found
    if each.num_train_examples_a != each.num_train_examples_b
  ]
  few = [each for each in found if each.num_seeds < verdicts.FEWEST_SEEDS]
  unpaired = [each for each in over_seeds if not each.is_paired]
  notes = []
  if over_seeds:
    notes.append(_VERDICT_NOTE)
  if any(each.is_paired for each in one_run):
    notes.append(_ONE_RUN_NOTE)
  elif one_run:
    notes.append(_ONE_RUN_UNPAIRED_NOTE)
  count = max(len(found), num_planned)
  if found and count > 1:
    notes.append(_HOLM_NOTE.format(count=count))
  if missing := count - len(found):
    notes.append(_MISSING_NOTE.format(missing=missing, count=count))
  if over_seeds:
    notes.append(_DETECTABLE_NOTE)
  if any(each.num_seeds == 1 for each in over_seeds):
    notes.append(_BORROWED_NOTE)
  if unpaired:
    notes.append(_UNPAIRED_NOTE.format(arms=_list_arms(unpaired)))
  if uneven:
    notes.append(_OTHER_SIZES_NOTE.format(arms="; ".join(uneven)))
  if few:
    notes.append(
      _FEW_SEEDS_NOTE.format(fewest=verdicts.FEWEST_SEEDS, arms=_list_arms(few))
    )
  return notes


def _list_arms(found: Sequence[verdicts.Verdict]) -> str:
  return "; ".join(f"{_name_arms(each)} on {each.size:,}" for each in found)


def _make_run_table(
  cells: Sequence[aggregation.Cell], columns: Sequence[_RunColumn]
) -> Table:
  lines = [
    [
      _format_size(cell),
      cell.arm,
      *(
        column.format(cell.mean_metrics[column.metric])
        if column.metric in cell.mean_metrics
        else "-"
        for column in columns
      ),
      _format_minutes(cell),
    ]
    for cell in cells
  ]
  titles = [column.title for column in columns]
  return Table(
    title="Runs",
    columns=("Trained on", "Arm", *titles, "Minutes a run"),
    lines=lines,
    notes=[_RUNS_NOTE],
  )


def _make_failure_table(failures: Sequence[results.RunFailure]) -> Table:
  lines = [
    [
      f"{failure.size:,}",
      failure.arm,
      str(failure.seed),
      shorten(failure.message),
    ]
    for failure in failures
  ]
  count = len(failures)
  were = "1 run" if count == 1 else f"{count} runs"
  return Table(
    title="Runs that failed",
    columns=("Trained on", "Arm", "Seed", "Failed with"),
    lines=lines,
    notes=[f"{were} failed; the other tables are without them."],
  )


def shorten(message: str) -> str:
  """Returns an error's message on one line, control characters escaped."""
  line = preview.escape_controls(" ".join(message.split()))
  if len(line) > _SHOWN_CHARACTERS:
    line = line[:_SHOWN_CHARACTERS] + " [...]"
  return line
