"""Tests of experiments/plots.py."""

import dataclasses
import inspect
import struct

import pytest

from distill_jax.experiments import aggregation, plots
from distill_jax.experiments.results import RunResult


def _make_rows(arms, sizes):
  return [
    RunResult(arm, size, seed, 40 + 10 * seed, 100, {}, 1.0)
    for arm in arms
    for size in sizes
    for seed in (0, 1)
  ]


def _capture_figure(monkeypatch):
  figures = []

  def keep(figure, path):
    figures.append(figure)

  monkeypatch.setattr(plots, "_save", keep)
  return figures


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("sizes", [[100], [50, 100, 720]])
def test_accuracy_figure_is_a_png_of_150_dpi(tmp_path, sizes):
  path = tmp_path / "accuracy.png"
  plots.plot_accuracy_by_size(_make_rows(["a", "b"], sizes), path)
  content = path.read_bytes()
  assert content.startswith(b"\x89PNG")
  assert struct.unpack(">II", content[16:24]) == (960, 630)
  # pyplot's figures are one global state; other packages may import it.
  assert "import matplotlib.pyplot" not in inspect.getsource(plots)


def test_accuracy_figure_shows_the_numbers(monkeypatch):
  figures = _capture_figure(monkeypatch)
  rows = _make_rows(["a", "b", "c"], [50, 720])
  plots.plot_accuracy_by_size(rows, "unused")
  (axes,) = figures[0].axes
  assert axes.get_xscale() == "log"
  assert [text.get_text() for text in axes.get_xticklabels()] == ["50", "720"]
  assert axes.get_legend_handles_labels()[1] == ["a", "b", "c"]
  bars = axes.containers[0]
  assert list(bars.lines[0].get_ydata()) == pytest.approx([45, 45])
  (cell, *_) = aggregation.aggregate(rows)
  low, high = bars.lines[2][0].get_segments()[0][:, 1]
  assert (low, high) == pytest.approx((100 * cell.low, 100 * cell.high))
  assert high - low == pytest.approx(39.5, abs=0.1)
  # The seeds' dots follow their arm's line at either end.
  seeds = axes.collections[0].get_offsets()
  assert sorted(seeds[:, 1]) == [40, 40, 50, 50]


def test_the_bars_of_two_seeds_do_not_flatten_the_lines(monkeypatch):
  figures = _capture_figure(monkeypatch)
  rows = [
    RunResult("a", 50, seed, 40_000 + 10_000 * seed, 100_000, {}, 1.0)
    for seed in (0, 1)
  ]
  (cell,) = aggregation.aggregate(rows)
  assert cell.low == 0 and cell.high == 1
  plots.plot_accuracy_by_size(rows, "unused")
  assert figures[0].axes[0].get_ylim() == pytest.approx((25, 65))


def test_the_teachers_accuracy_is_a_line_each(monkeypatch):
  figures = _capture_figure(monkeypatch)
  rows = [
    dataclasses.replace(row, metrics={"teacher_accuracy": share})
    for row, share in zip(
      _make_rows(["a", "b", "c"], [50]),
      (0.846, 0.846, 0.849, 0.849, 1.0, 1.0),
      strict=True,
    )
  ]
  plots.plot_accuracy_by_size(rows[:4], "unused")
  plots.plot_accuracy_by_size(rows, "unused")
  one, two = (
    {
      handle.get_label(): handle.get_ydata()[0]
      for handle in figure.axes[0].lines
      if handle.get_linestyle() == "--"
    }
    for figure in figures
  )
  assert one == {"teacher, on its training labels": pytest.approx(84.75)}
  assert two["teacher of c, on its training labels"] == 100
  # The line is inside of the panel, though far above the accuracies.
  assert figures[1].axes[0].get_ylim()[1] > 100


@pytest.mark.filterwarnings("error")
def test_learning_curves_figure(tmp_path, monkeypatch):
  curves = [
    plots.LearningCurve("Loss", "distill", [10, 20, 30], [2, float("nan"), 1]),
    plots.LearningCurve("Loss", "distill", [10, 20, 30], [2.1, 1.5, 1.2]),
    plots.LearningCurve("Loss", "finetune", [10, 20], [3.0, 2.0]),
    plots.LearningCurve("Accuracy", "finetune", [20], [0.5]),
  ]
  path = tmp_path / "curves.png"
  plots.plot_learning_curves(curves, path)
  assert path.read_bytes().startswith(b"\x89PNG")

  figures = _capture_figure(monkeypatch)
  plots.plot_learning_curves(curves, "unused")
  loss, accuracy = figures[0].axes
  assert [axes.get_title(loc="left") for axes in (loss, accuracy)] == [
    "Loss",
    "Accuracy",
  ]
  colors = [line.get_color() for line in loss.lines]
  assert colors[0] == colors[1] != colors[2]
  assert accuracy.lines[0].get_color() == colors[2]
  assert accuracy.lines[0].get_marker() == "o"


def test_a_legend_of_long_names_stays_in_the_figure(monkeypatch):
  figures = _capture_figure(monkeypatch)
  arms = [f"finetuning at an equal number of tokens, {i}" for i in range(4)]
  plots.plot_accuracy_by_size(_make_rows(arms, (50,)), "unused")
  (drawn,) = figures
  drawn.canvas.draw()
  for part in (drawn.legends[0], drawn._supxlabel):
    box = part.get_window_extent()
    assert box.x0 >= 0
    assert box.x1 <= drawn.bbox.width
