"""Figures of a sweep, as PNG files.

Layer 4; imports `aggregation`, `results` and the objects of matplotlib, not its
pyplot, whose global state and windows have no place in a training job.
"""

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
    method: curves of one method share a colour.
    steps: optimizer steps, ascending.
    values: one a step; NaN leaves a gap.
  """

  metric: str
  method: str
  steps: Sequence[int]
  values: Sequence[float]


def plot_accuracy_by_size(
  rows: Sequence[results.RunResult], path: str | os.PathLike[str]
) -> None:
  """Draws accuracy against the number of training examples.

  A line a method through the means over seeds, a faint dot a seed, and bars
  for the 95% Wilson interval of the pooled test examples.

  Args:
    rows: at least one result.
    path: the PNG file to write.

  Raises:
    UserError: a run occurs twice.
  """
  cells = aggregation.aggregate(rows)
  methods = list(dict.fromkeys(cell.method for cell in cells))
  sizes = sorted({cell.num_train_examples for cell in cells})

  # Methods stand side by side at each size, each with its seeds just to the
  # right, so that nothing hides anything: shares of the axis' width.
  ratio = sizes[-1] / sizes[0]
  span = max(ratio, 4)
  method_gap, seed_gap, margin = 0.02, 0.007, 0.08

  figure = _make_figure(6.4, 4.2)
  axes = figure.add_subplot()
  for index, method in enumerate(methods):
    shift = span ** (method_gap * (index - (len(methods) - 1) / 2))
    color = _COLORS[index % len(_COLORS)]
    marker = _MARKERS[index % len(_MARKERS)]
    runs = [row for row in rows if row.method == method]
    axes.scatter(
      [row.num_train_examples * shift * span**seed_gap for row in runs],
      [100 * row.num_correct / row.num_examples for row in runs],
      s=14,
      alpha=0.4,
      linewidths=0,
      color=color,
      marker=marker,
    )
    line = [cell for cell in cells if cell.method == method]
    means = 100 * np.array([cell.mean_accuracy for cell in line])
    lows = 100 * np.array([cell.low for cell in line])
    highs = 100 * np.array([cell.high for cell in line])
    axes.errorbar(
      [cell.num_train_examples * shift for cell in line],
      means,
      # With test sets of unequal size the mean over runs can leave the pooled
      # interval; a bar has no negative length.
      yerr=np.maximum([means - lows, highs - means], 0),
      label=method,
      linewidth=1.8,
      elinewidth=1.2,
      markersize=5,
      color=color,
      marker=marker,
    )
  axes.set_xscale("log")
  axes.set_xticks(sizes, [f"{size:,}" for size in sizes])
  axes.minorticks_off()
  padding = (span / ratio) ** 0.5 * span**margin
  axes.set_xlim(sizes[0] / padding, sizes[-1] * padding)
  axes.set_xlabel("Training examples (log scale)")
  axes.set_ylabel("Test accuracy (%)")
  low, high = axes.get_ylim()
  axes.set_ylim(max(low, 0), min(high, 100.5))
  _style(axes)
  figure.legend(loc="outside upper left", ncols=3, frameon=False, fontsize=10)
  figure.supxlabel(
    "Mean over seeds (single seeds faint). Bars: 95% Wilson interval over the"
    " seeds' pooled test examples.",
    fontsize=7.5,
    color=_GREY,
  )
  _save(figure, path)


def plot_learning_curves(
  curves: Sequence[LearningCurve], path: str | os.PathLike[str]
) -> None:
  """Draws curves over optimizer steps: a panel a metric, a colour a method.

  Args:
    curves: at least one.
    path: the PNG file to write.
  """
  metrics = list(dict.fromkeys(curve.metric for curve in curves))
  methods = list(dict.fromkeys(curve.method for curve in curves))
  colors = {
    method: _COLORS[index % len(_COLORS)]
    for index, method in enumerate(methods)
  }
  figure = _make_figure(1.2 + 3.8 * len(metrics), 3.6)
  panels = figure.subplots(1, len(metrics), squeeze=False)[0]
  for axes, metric in zip(panels, metrics, strict=True):
    for curve in curves:
      if curve.metric == metric:
        axes.plot(
          curve.steps,
          curve.values,
          color=colors[curve.method],
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
    [Line2D([], [], color=colors[method], linewidth=2) for method in methods],
    methods,
    loc="outside upper left",
    ncols=4,
    frameon=False,
    fontsize=10,
  )
  _save(figure, path)


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
  results.write_atomically(path, content.getvalue())
