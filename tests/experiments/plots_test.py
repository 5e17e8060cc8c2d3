"""Tests of experiments/plots.py."""

import inspect
import struct

import pytest

from distill_jax.experiments import plots
from distill_jax.experiments.results import RunResult


def _make_rows(methods, sizes):
  return [
    RunResult(method, size, seed, 40 + 10 * seed, 100, {}, 1.0)
    for method in methods
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
  # Wilson's 95% bounds of 90 right answers out of 200.
  low, high = bars.lines[2][0].get_segments()[0][:, 1]
  assert (low, high) == pytest.approx((38.26, 51.93), abs=0.01)
  # The seeds' dots follow their method's line at either end.
  seeds = axes.collections[0].get_offsets()
  assert sorted(seeds[:, 1]) == [40, 40, 50, 50]


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
