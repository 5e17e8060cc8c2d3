"""Tests of runs/sweep_report.py.

Curves and examples of the runs that are there.
"""

import json
import types
from unittest import mock

import pytest

from distill_jax.experiments import plots, report, results
from distill_jax.runs import sweep_cells, sweep_report

NAMES = ("plain", "other")


@pytest.fixture(name="folder")
def fixture_folder(tmp_path):
  """Files of two arms at two sizes; "other" has none of the larger."""
  for name, size in (("plain", 4), ("plain", 8), ("other", 4)):
    run = tmp_path / f"{name}-{size}-seed0"
    run.mkdir()
    lines = [
      {"step": 1, "split": "train", "label_loss": float(size)},
      {"step": 1, "split": "validation/toy_label", "label_accuracy": 0.5},
      {"step": 1, "split": "validation/toy_rationale", "loss": 0.1},
    ]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (run / "metrics.jsonl").write_text(text)
  return tmp_path


def make_cells(*keys):
  return [
    sweep_cells.Cell(sweep_cells.Arm(name, {}, {}), size, 0)
    for name, size in keys
  ]


def write(folder, cells, failures=(), planned=None):
  settings = types.SimpleNamespace(
    title="T",
    notes=(),
    split="validation",
    num_shown_examples=1,
    comparisons=(("other", "plain"),),
  )
  rows = [
    results.RunResult(cell.arm.name, cell.size, 0, 1, 2, {}, 1.0)
    for cell in cells
  ]
  predictions = [
    {"id": "1", "input": "q", "target": "a", "prediction": "b", "correct": None}
  ]
  with (
    mock.patch.object(
      sweep_report.sweep_results, "read_eval_task", lambda _: "toy_label"
    ),
    mock.patch.object(
      sweep_report.sweep_results, "read_predictions", lambda *_: predictions * 2
    ),
    mock.patch.object(
      plots, "plot_learning_curves", wraps=plots.plot_learning_curves
    ) as drawn,
    mock.patch.object(
      report, "write_report", wraps=report.write_report
    ) as written,
  ):
    made = sweep_report.SweepReport(
      folder, settings, "SEED = 0", planned or cells
    )
    made.write(cells, rows, failures)
  return drawn, written


def test_curves_are_of_the_largest_size_that_is_there(folder):
  cells = make_cells(("plain", 4), ("other", 4), ("plain", 8))
  drawn, written = write(folder, cells)
  curves = drawn.call_args.args[0]
  assert [(curve.arm, list(curve.values)) for curve in curves] == [
    ("plain", [8.0]),
    ("plain", [0.5]),
  ]
  shown = written.call_args.kwargs["examples"]
  assert [(each.arm, each.id) for each in shown] == [("plain", "1")]
  drawn, _ = write(folder, cells[:2])
  assert len(drawn.call_args.args[0]) == 4


def test_failures_and_split_are_in_the_page(folder):
  failure = results.RunFailure("other", 8, 0, "it <broke>")
  write(folder, make_cells(("plain", 4)), [failure])
  page = (folder / "report.html").read_text()
  assert "it &lt;broke&gt;" in page
  assert "Accuracy on validation" in page


def test_without_results_there_is_no_report(folder):
  write(folder, [])
  assert not (folder / "report.html").exists()


def test_a_part_is_not_taken_for_the_whole(folder):
  planned = make_cells(("plain", 4), ("other", 4), ("plain", 8), ("other", 8))
  failure = results.RunFailure("other", 8, 0, "it broke")
  _, written = write(folder, planned[:2], [failure], planned)
  given = written.call_args.kwargs
  assert given["notes"][:-1] == [
    "This is not the whole: 2 of 4 runs are finished, 1 to come."
  ]
  assert given["notes"][-1].startswith("Scored on validation, which chose")
  # At either size, though one of them has no runs yet.
  assert given["num_planned"] == 2
  _, written = write(folder, planned[:3], [failure], planned)
  assert len(written.call_args.kwargs["notes"]) == 1
