"""What a sweep says: its plan, and how far it is and what is left over all."""

import collections
from collections.abc import Callable, Collection, Mapping, Sequence

from distill_jax.experiments import results, verdicts
from distill_jax.runs.sweep_cells import Cell


def describe_plan(
  cells: Sequence[Cell],
  done: Collection[str],
  num_examples: int | None,
  seed_sd: float | None,
) -> str:
  """Returns lines on what a sweep is about to do, and can show.

  Args:
    cells: of the sweep.
    done: names of the folders that have their results.
    num_examples: of the split that is scored; None: not known yet.
    seed_sd: SEED_SD.
  """
  runs = collections.Counter(cell.arm.name for cell in cells)
  shown = ", ".join(f"{name} {count}" for name, count in runs.items())
  lines = [f"The sweep has {_count(len(cells), 'run')}: {shown}."]
  if num_done := sum(cell.folder_name in done for cell in cells):
    lines.append(
      f"  There already: {num_done}; to train: {len(cells) - num_done}."
    )
  counts = {len(seeds) for cell in cells for seeds in cell.arm.seeds.values()}
  fewest = min(counts)
  if num_examples is not None:
    # Arms and sizes may have different numbers; what each can show is said.
    lines += [
      "  " + verdicts.describe_plan(seed_sd, count, num_examples)
      for count in sorted(counts, reverse=True)
    ]
  elif fewest < verdicts.FEWEST_SEEDS:
    lines.append(
      f"  Warning: an arm has {_count(fewest, 'seed')}. Below"
      f" {verdicts.FEWEST_SEEDS} the spread between seeds is hardly known; 5"
      " are better."
    )
  return "\n".join(lines)


class Progress:
  """Lines at the start and end of each run, with what is left in all."""

  def __init__(
    self,
    cells: Sequence[Cell],
    finished: Mapping[str, results.RunResult],
    say_fn: Callable[[str], None],
  ):
    """Begins.

    Args:
      cells: of the sweep, in order.
      finished: results that are there, by folder name; their times are what is
        known until a run of this time has ended.
      say_fn: shows a line.
    """
    self._positions = {
      cell.folder_name: index for index, cell in enumerate(cells, start=1)
    }
    self._cells, self._say_fn = cells, say_fn
    self._left = {
      cell.folder_name: cell
      for cell in cells
      if cell.folder_name not in finished
    }
    # Seconds a unit of work, of an arm's latest run: its first compiles.
    self._rates = {
      cell.arm.name: finished[cell.folder_name].seconds / cell.work
      for cell in cells
      if cell.folder_name in finished
      and cell.work
      and not finished[cell.folder_name].metrics.get(results.RESUMED)
    }

  def start(self, cell: Cell) -> None:
    """Says which run begins.

    Args:
      cell: the run.
    """
    left = self._describe_left()
    self._say_fn(f"{self._name(cell)} begins{f'; {left}' if left else ''}")

  def end(self, cell: Cell, seconds: float, outcome: str | None) -> None:
    """Says how a run ended.

    Args:
      cell: the run.
      seconds: it took, with its evaluation.
      outcome: words, such as its score; None: it failed, and says nothing of
        how long others take.
    """
    self._left.pop(cell.folder_name, None)
    if cell.work and outcome is not None:
      self._rates[cell.arm.name] = seconds / cell.work
    left = self._describe_left() or "it was the last"
    ended = f"{outcome or 'failed'} after {format_seconds(seconds)}"
    self._say_fn(f"{self._name(cell)}: {ended}; {left}")

  def _name(self, cell: Cell) -> str:
    number = self._positions[cell.folder_name]
    return f"Run {number} of {len(self._cells)}, {cell.describe()}"

  def _describe_left(self) -> str:
    if not self._left:
      return ""
    text = f"{_count(len(self._left), 'run')} left"
    if self._rates:
      # Of arms that have not run, the slowest is expected.
      unknown = max(self._rates.values())
      expected = sum(
        cell.work * self._rates.get(cell.arm.name, unknown)
        for cell in self._left.values()
      )
      text += f", about {format_seconds(expected)} in all"
    return text


def format_seconds(seconds: float) -> str:
  """Returns "42 s", "3 min 20 s" or "2 h 05 min"."""
  whole = round(seconds)
  if whole < 60:
    return f"{whole} s"
  minutes, rest = divmod(whole, 60)
  if minutes < 60:
    return f"{minutes} min {rest:02d} s"
  return f"{minutes // 60} h {minutes % 60:02d} min"


def _count(number: int, what: str) -> str:
  return f"{number} {what}{'' if number == 1 else 's'}"
