"""Figures of a sweep, as PNG files."""

import dataclasses
import io
import os
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from distill_jax.experiments import aggregation, results
from distill_jax.files import atomic

_DPI = 150
# Okabe & Ito's colours, told apart by colour-blind readers; the yellow is left
# out, being hard to see on white.
_COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
_MARKERS = ("o", "s", "^", "D", "v", "P")
_GREY = "#666666"


@dataclasses.dataclass(frozen=True)
class LearningCurve:
  """One quantity of one run over its steps.

  Attributes:
    metric: what is measured; curves of one metric share a panel.
    arm: curves of one arm share a colour.
    steps: optimizer steps, ascending.
    values: one a step; NaN leaves a gap.
  """

  metric: str
  arm: str
  steps: Sequence[int]
  values: Sequence[float]


def plot_accuracy_by_size(
  rows: Sequence[results.RunResult],
  path: str | os.PathLike[str],
  split: str = "test",
) -> None:
  """Draws accuracy against the number of training examples.

  A line an arm through the means over seeds, a faint dot a seed, and bars
  for the accuracy's 95% interval; a dashed line for the share of the training
  labels that the teacher has right, where results have it.

  Args:
    rows: at least one result.
    path: the PNG file to write.
    split: what was scored.

  Raises:
    UserError: a run occurs twice.
  """
  cells = aggregation.aggregate(rows)
  arms = list(dict.fromkeys(cell.arm for cell in cells))
  sizes = sorted({cell.size for cell in cells})

  # Arms stand side by side at each size, each with its seeds just to the
  # right, so that nothing hides anything: shares of the axis' width.
  ratio = sizes[-1] / sizes[0]
  span = max(ratio, 4)
  arm_gap, seed_gap, margin = 0.02, 0.007, 0.08

  figure = _make_figure(6.4, 4.2)
  axes = figure.add_subplot()
  for index, arm in enumerate(arms):
    shift = span ** (arm_gap * (index - (len(arms) - 1) / 2))
    color = _COLORS[index % len(_COLORS)]
    marker = _MARKERS[index % len(_MARKERS)]
    runs = [row for row in rows if row.arm == arm]
    axes.scatter(
      [row.size * shift * span**seed_gap for row in runs],
      [100 * row.num_correct / row.num_examples for row in runs],
      s=14,
      alpha=0.4,
      linewidths=0,
      color=color,
      marker=marker,
    )
    line = [cell for cell in cells if cell.arm == arm]
    means = 100 * np.array([cell.mean_accuracy for cell in line])
    lows = 100 * np.array([cell.low for cell in line])
    highs = 100 * np.array([cell.high for cell in line])
    axes.errorbar(
      [cell.size * shift for cell in line],
      means,
      # Rounding can put a mean of 0 or 1 outside; no bar has negative length.
      yerr=np.maximum([means - lows, highs - means], 0),
      label=arm,
      linewidth=1.8,
      elinewidth=1.2,
      markersize=5,
      color=color,
      marker=marker,
    )
  _draw_teachers(axes, cells)
  axes.set_xscale("log")
  axes.set_xticks(sizes, [f"{size:,}" for size in sizes])
  axes.minorticks_off()
  padding = (span / ratio) ** 0.5 * span**margin
  axes.set_xlim(sizes[0] / padding, sizes[-1] * padding)
  axes.set_xlabel("Training examples (log scale)")
  axes.set_ylabel(f"Accuracy on {split} (%)")
  axes.set_ylim(*_choose_accuracy_limits(cells, axes.get_ylim()))
  _style(axes)
  _, labels = axes.get_legend_handles_labels()
  figure.legend(
    loc="outside upper left",
    ncols=_count_columns(labels, 6.4),
    frameon=False,
    fontsize=10,
  )
  figure.supxlabel(
    "Mean over seeds (single seeds faint). Bars: 95% interval, over seeds and"
    " scored examples;\nwith one seed over examples only.",
    fontsize=7.5,
    color=_GREY,
  )
  _save(figure, path)


def _draw_teachers(axes: Axes, cells: Sequence[aggregation.Cell]) -> None:
  """Draws how often each arm's teacher is right, if known."""
  shares: dict[str, list[float]] = {}
  for cell in cells:
    if "teacher_accuracy" in cell.mean_metrics:
      shares.setdefault(cell.arm, []).append(
        100 * cell.mean_metrics["teacher_accuracy"]
      )
  # Arms of one teacher have one line, though shares differ a little by size.
  by_percent: dict[int, list[str]] = {}
  for arm, values in shares.items():
    by_percent.setdefault(round(float(np.mean(values))), []).append(arm)
  for arms in by_percent.values():
    of_arms = f" of {', '.join(arms)}" if len(by_percent) > 1 else ""
    axes.axhline(
      float(np.mean([value for arm in arms for value in shares[arm]])),
      color=_GREY,
      linewidth=1,
      linestyle="--",
      label=f"teacher{of_arms}, on its training labels",
    )


def _choose_accuracy_limits(
  cells: Sequence[aggregation.Cell], limits: tuple[float, float]
) -> tuple[float, float]:
  """Keeps the bars of an arm of two seeds from flattening all else.

  Args:
    cells: what is drawn.
    limits: those that hold everything.

  Returns:
    Limits in percent; bars may go on beyond them.
  """
  margin = 15
  shown = [
    100 * share
    for cell in cells
    for share in (
      cell.min_accuracy,
      cell.max_accuracy,
      cell.mean_metrics.get("teacher_accuracy", cell.mean_accuracy),
    )
  ]
  return (
    max(limits[0], min(shown) - margin, 0),
    min(limits[1], max(shown) + margin, 100.5),
  )


def plot_learning_curves(
  curves: Sequence[LearningCurve], path: str | os.PathLike[str]
) -> None:
  """Draws curves over optimizer steps: a panel a metric, a colour an arm.

  Args:
    curves: at least one.
    path: the PNG file to write.
  """
  metrics = list(dict.fromkeys(curve.metric for curve in curves))
  arms = list(dict.fromkeys(curve.arm for curve in curves))
  colors = {
    arm: _COLORS[index % len(_COLORS)] for index, arm in enumerate(arms)
  }
  figure = _make_figure(1.2 + 3.8 * len(metrics), 3.6)
  panels = figure.subplots(1, len(metrics), squeeze=False)[0]
  for axes, metric in zip(panels, metrics, strict=True):
    for curve in curves:
      if curve.metric == metric:
        axes.plot(
          curve.steps,
          curve.values,
          color=colors[curve.arm],
          linewidth=1.4,
          alpha=0.8,
          # A lone point would otherwise not be drawn at all.
          marker="o" if len(curve.steps) == 1 else None,
        )
    axes.set_title(metric, fontsize=11, loc="left")
    axes.set_xlabel("Optimizer steps")
    axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
    _style(axes)
  figure.legend(
    [Line2D([], [], color=colors[arm], linewidth=2) for arm in arms],
    arms,
    loc="outside upper left",
    ncols=_count_columns(arms, 1.2 + 3.8 * len(metrics)),
    frameon=False,
    fontsize=10,
  )
  _save(figure, path)


def _count_columns(labels: Sequence[str], width: float) -> int:
  """Returns how many legend columns fit into `width` inches."""
  # A letter of this size takes 0.078 inches on average, a mark 0.55.
  widest = 0.55 + 0.078 * max(map(len, labels))
  return max(1, min(4, int(width / widest)))


def _make_figure(width: float, height: float) -> Figure:
  layout = ConstrainedLayoutEngine(w_pad=0.1)
  figure = Figure(figsize=(width, height), layout=layout)
  FigureCanvasAgg(figure)
  return figure


def _style(axes: Axes) -> None:
  axes.grid(axis="y", color="#DDDDDD", linewidth=0.7)
  axes.set_axisbelow(True)
  axes.spines[["top", "right"]].set_visible(False)
  axes.tick_params(labelsize=9)


def _save(figure: Figure, path: str | os.PathLike[str]) -> None:
  content = io.BytesIO()
  figure.savefig(content, format="png", dpi=_DPI)
  atomic.write_bytes(path, content.getvalue())
