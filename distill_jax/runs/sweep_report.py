"""The report of a sweep: what its runs wrote, as curves and examples."""

import itertools
import pathlib
from collections.abc import Sequence
from typing import Any

from distill_jax.experiments import plots, report, results
from distill_jax.run_folder import metric_files
from distill_jax.runs import sweep_results
from distill_jax.runs.sweep_cells import Cell


class SweepReport:
  """Writes the report of the runs that are finished, again after each."""

  def __init__(
    self,
    folder: pathlib.Path,
    settings: Any,
    gin_text: str,
    cells: Sequence[Cell],
  ):
    """Remembers what does not change.

    Args:
      folder: of the sweep.
      settings: `sweep.SweepRun`.
      gin_text: the same, to show.
      cells: all runs of the sweep.
    """
    self._folder, self._gin_text = folder, gin_text
    self._title, self._notes = settings.title, settings.notes
    self._split = settings.split
    self._num_shown_examples = settings.num_shown_examples
    self._comparisons = settings.comparisons and [
      (arm_a, arm_b) for arm_a, arm_b in settings.comparisons
    ]
    self._num_runs = len(cells)
    self._num_planned = _count_comparisons(cells, self._comparisons)

  def format_table(
    self,
    rows: Sequence[results.RunResult],
    failures: Sequence[results.RunFailure],
  ) -> str:
    """Returns the tables as text.

    Args:
      rows: one result a run, at least one.
      failures: runs that gave none.
    """
    return report.format_table(
      rows, self._comparisons, failures, self._num_planned
    )

  def write(
    self,
    cells: Sequence[Cell],
    rows: Sequence[results.RunResult],
    failures: Sequence[results.RunFailure],
  ) -> None:
    """Writes plots and report; nothing while no run is finished.

    Args:
      cells: the runs that are finished.
      rows: their results.
      failures: runs that gave none.

    Raises:
      UserError: two runs cannot be told apart.
    """
    if not rows:
      return
    folder = self._folder
    size = max(cell.size for cell in cells)
    largest = [cell for cell in cells if cell.size == size]
    plots.plot_accuracy_by_size(rows, folder / "accuracy.png", self._split)
    plots.plot_learning_curves(
      [curve for cell in largest for curve in self._read_curves(cell)],
      folder / "learning_curves.png",
    )
    report.write_report(
      folder / "report.html",
      title=self._title,
      rows=rows,
      figures=[
        report.ReportFigure(
          folder / "accuracy.png",
          f"Accuracy on {self._split} by number of training examples.",
        ),
        report.ReportFigure(
          folder / "learning_curves.png",
          f"Training and validation at {size:,} examples, every seed.",
        ),
      ],
      settings=self._gin_text,
      notes=[
        *self._describe_missing(len(rows), len(failures)),
        *self._describe_split(),
        *self._notes,
      ],
      examples=self._choose_examples(largest),
      comparisons=self._comparisons,
      failures=failures,
      num_planned=self._num_planned,
    )

  def _describe_missing(self, num_done: int, num_failed: int) -> list[str]:
    """Says that runs are still to come, lest a part be taken for the whole."""
    left = self._num_runs - num_done - num_failed
    if not left:
      return []
    return [
      f"This is not the whole: {num_done} of {self._num_runs} runs are"
      f" finished, {left} to come."
    ]

  def _describe_split(self) -> list[str]:
    if self._split == "test":
      return []
    return [
      f"Scored on {self._split}, which chose each run's checkpoint too: this is"
      " for tuning. What the tables call test examples are those."
    ]

  def _read_curves(self, cell: Cell) -> list[plots.LearningCurve]:
    lines = metric_files.read_metrics(self._folder / cell.folder_name)
    curves = []
    for is_shown, name, shown in (
      (lambda split: split == "train", "label_loss", "label loss, training"),
      (
        lambda split: split.startswith("validation/"),
        "label_accuracy",
        "label accuracy, validation",
      ),
    ):
      points = [
        (line["step"], line[name])
        for line in lines
        if is_shown(str(line["split"])) and line.get(name) is not None
      ]
      steps, values = zip(*points, strict=True) if points else ((), ())
      curves.append(plots.LearningCurve(shown, cell.arm.name, steps, values))
    return curves

  def _choose_examples(
    self, cells: Sequence[Cell]
  ) -> list[report.ExamplePrediction]:
    """Shows the first examples with what a run of each arm made of them.

    The student of rationales also explains; nothing is chosen by its outcome.
    """
    firsts: dict[str, Cell] = {}
    for cell in cells:
      firsts.setdefault(cell.arm.name, cell)
    shown = []
    for cell in firsts.values():
      model_dir = self._folder / cell.folder_name
      task = sweep_results.read_eval_task(model_dir)
      rationale_task = task.removesuffix("_label") + "_rationale"
      rationales = {}
      if (model_dir / "eval" / rationale_task / self._split).is_dir():
        rationales = {
          row["id"]: row["prediction"]
          for row in sweep_results.read_predictions(
            model_dir, rationale_task, self._split
          )
        }
      rows = sweep_results.read_predictions(model_dir, task, self._split)
      shown += [
        report.ExamplePrediction(
          id=row["id"],
          arm=cell.arm.name,
          input=row["input"],
          target=row["target"],
          prediction=row["prediction"],
          is_correct=row["correct"],
          rationale=rationales.get(row["id"]),
        )
        for row in rows[: self._num_shown_examples]
      ]
    return sorted(shown, key=lambda row: row.id)


def _count_comparisons(
  cells: Sequence[Cell], comparisons: Sequence[tuple[str, str]] | None
) -> int:
  """Counts what is to be compared when all runs are there, over all sizes."""
  arms = list(dict.fromkeys(cell.arm.name for cell in cells))
  if comparisons is None:
    comparisons = list(itertools.combinations(arms, 2))
  planned = {(cell.arm.name, cell.size) for cell in cells}
  return sum(
    (arm_a, size) in planned and (arm_b, size) in planned
    for size in {cell.size for cell in cells}
    for arm_a, arm_b in comparisons
  )
