"""`--run_mode=sweep`: arms against training-set sizes and seeds, reported.

Each run is an ordinary training run in a folder of its own, scored once from
its best checkpoint on validation. The same command goes on where a sweep
stopped, trains what was added to it, and tries again what failed.
"""

import contextlib
import dataclasses
import logging
import pathlib
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from distill_jax.checkpoint import damage, manager
from distill_jax.config import declaration
from distill_jax.config.declaration import field
from distill_jax.data import datasets, task_kinds
from distill_jax.data.settings import DataSettings
from distill_jax.errors import UserError
from distill_jax.experiments import results, tables, verdicts
from distill_jax.run_folder import run_lock
from distill_jax.runs import eval as eval_mode
from distill_jax.runs import (
  prepare,
  sweep_cells,
  sweep_progress,
  sweep_report,
  sweep_results,
  train,
)

_log = logging.getLogger(__name__)

_RESULTS = "results.json"
SOME_FAILED = 1


@dataclasses.dataclass(frozen=True)
class SweepRun:
  """Settings of `--run_mode=sweep`."""

  base: train.TrainRun = field(
    help="a run with the settings that all share. Its `model_dir` holds the"
    " runs and the report",
    gin_text="@train.TrainRun()",
  )
  arms: Mapping[str, Mapping[str, Any]] = field(
    macro="ARMS",
    is_checked=False,
    help="by name, what an arm has in place of the settings here; see the head"
    " of gin/runs/sweep.gin",
  )
  sizes: Sequence[int] = field(
    macro="SIZES",
    is_checked=False,
    help="numbers of training examples to ask for; where validation is split"
    " off, a run has about as many, and the report says how many",
  )
  seeds: Sequence[int] | Mapping[int, Sequence[int]] = field(
    macro="SEEDS",
    is_checked=False,
    help="of initialization, order and dropout; a dictionary gives each size"
    " its own: {125: (0, 1, 2, 3, 4), 250: (0, 1, 2)}",
  )
  title: str = field(macro="TITLE", help="of the report")
  notes: Sequence[str] = field(
    (), macro="NOTES", help="paragraphs of the report"
  )
  comparisons: Sequence[Sequence[str]] | None = field(
    None,
    macro="COMPARISONS",
    is_checked=False,
    help="pairs of arms whose difference the report judges, positive where the"
    " first leads, as (('step by step', 'finetuning'),); None: every two",
  )
  seed_sd: float | None = field(
    None,
    macro="SEED_SD",
    above=0,
    below=1,
    hint=": a share, such as 0.03 for 3 points",
    help="standard deviation of a run's accuracy between seeds that you expect;"
    " the plan then says which difference can be shown; None: not stated",
  )
  split: Literal["test", "validation"] = field(
    "test",
    macro="SPLIT",
    help="what is scored; tuning reads 'validation' and leaves test unread",
  )
  num_shown_examples: int = 8

  def __post_init__(self):
    declaration.check(self)
    arms = sweep_cells.read_arms(self.arms, self.sizes, self.seeds)
    names = [arm.name for arm in arms]
    comparisons = declaration.name_of(self, "comparisons")
    for pair in self.comparisons or ():
      if isinstance(pair, str) or len(pair) != 2 or pair[0] == pair[1]:
        raise UserError(
          f"{comparisons} has {pair!r}; a comparison is a pair of arms, such as"
          f" {(names[-1], names[0])!r}."
        )
      for name in pair:
        if name not in names:
          raise UserError(
            f"{comparisons} has {name!r}, and no arm has that name; the arms"
            f" are {', '.join(map(repr, names))}."
          )
    # In the report it would be found out after the first run.
    verdicts.check_comparisons([(a, b) for a, b in self.comparisons or ()])


def run(
  settings: SweepRun, operative_config: str = "", overwrite: bool = False
) -> int:
  """Trains and scores every run, with table, plots and report after each.

  Args:
    settings: see `SweepRun`.
    operative_config: gin text for the report.
    overwrite: train again what is there.

  Returns:
    The exit code: 0, or 1 where a run failed. The folder holds `results.json`,
    `report.html`, `accuracy.png` and `learning_curves.png`.

  Raises:
    UserError: a run's settings cannot be, or the folder holds runs of other
      settings. Nothing was trained then.
  """
  if settings.base.task_module != prepare.DEFAULT_TASK_MODULE:
    prepare.require_own_tasks(settings.base.task_module)
  folder = pathlib.Path(settings.base.model_dir).expanduser().absolute()
  arms = sweep_cells.read_arms(settings.arms, settings.sizes, settings.seeds)
  cells = sweep_cells.make_cells(arms, folder)
  finished: dict[str, results.RunResult] = {}
  if overwrite:
    _remove_trained(cells, folder)
  else:
    finished = sweep_results.read_finished(cells, folder, settings.split)
  print(
    sweep_progress.describe_plan(
      cells, finished, _count_scored(cells, settings.split), settings.seed_sd
    )
  )
  written = sweep_report.SweepReport(folder, settings, operative_config, cells)
  progress = sweep_progress.Progress(cells, finished, _log.info)
  failures: dict[str, results.RunFailure] = {}
  for cell in cells:
    name = cell.folder_name
    if name in finished:
      continue
    progress.start(cell)
    started = time.perf_counter()
    try:
      result = _run_cell(settings, cell, folder / name, overwrite)
    except Exception as error:
      failures[name] = _note_failure(cell, error)
      outcome = None
    else:
      finished[name] = result
      share = result.num_correct / result.num_examples
      outcome = f"{share:.1%} right on {settings.split}"
    _write(folder, cells, finished, failures, written)
    progress.end(cell, time.perf_counter() - started, outcome)
  # Names, notes and comparisons may be new where no run was.
  rows = _write(folder, cells, finished, failures, written)
  if rows:
    print(written.format_table(rows, list(failures.values())))
    print(
      f"\nReport: {folder / 'report.html'}\nPlot:   {folder / 'accuracy.png'}"
    )
  if failures:
    print(_list_failures(list(failures.values()), len(cells)), file=sys.stderr)
  return SOME_FAILED if failures else 0


def _remove_trained(
  cells: Sequence[sweep_cells.Cell], folder: pathlib.Path
) -> None:
  """Removes what --overwrite replaces, before the first run is trained.

  A sweep that is stopped then goes on without --overwrite, and takes nothing
  old for new.
  """
  for cell in cells:
    model_dir = folder / cell.folder_name
    if model_dir.is_dir():
      with run_lock.RunLock(model_dir) as lock:
        lock.acquire()
        sweep_results.forget(model_dir)
        shutil.rmtree(model_dir / manager.FOLDER, ignore_errors=True)


def _write(folder, cells, finished, failures, written):
  """Writes results and report; returns the results, in the sweep's order."""
  done = [cell for cell in cells if cell.folder_name in finished]
  rows = [finished[cell.folder_name] for cell in done]
  results.write_results(folder / _RESULTS, rows)
  try:
    written.write(done, rows, list(failures.values()))
  except Exception as error:
    # A name that cannot be drawn, or files that are gone, stop no training.
    is_explained = isinstance(error, UserError)
    _log.error(
      "The report cannot be written: %s",
      error,
      exc_info=None if is_explained else error,
    )
  return rows


def _note_failure(
  cell: sweep_cells.Cell, error: Exception
) -> results.RunFailure:
  """Logs why a run failed, with its trace where no setting explains it."""
  is_explained = isinstance(error, UserError)
  message = str(error) if is_explained else f"{type(error).__name__}: {error}"
  _log.error(
    "Failed: %s: %s",
    cell.describe(),
    message,
    exc_info=None if is_explained else error,
  )
  return results.RunFailure(cell.arm.name, cell.size, cell.seed, message)


def _list_failures(
  failures: Sequence[results.RunFailure], num_runs: int
) -> str:
  lines = [
    f"  {each.arm}, {each.size:,} examples, seed {each.seed}:"
    f" {tables.shorten(each.message)}"
    for each in failures
  ]
  return (
    f"{len(failures)} of {num_runs} runs failed; the same command tries them"
    " again:\n" + "\n".join(lines)
  )


def _run_cell(
  settings: SweepRun,
  cell: sweep_cells.Cell,
  model_dir: pathlib.Path,
  overwrite: bool,
) -> results.RunResult:
  if cell.error is not None:
    raise cell.error
  assert cell.settings is not None
  with sweep_results.expecting_other_data():
    cache = sweep_results.CacheFinder().find(cell.settings)
    # Before it is trained for nothing.
    sweep_results.find_eval_task(cell, cache.tasks)
    # Interrupted from here on, the run has no result rather than an old one.
    sweep_results.forget(model_dir)
    is_resumed = not overwrite and bool(
      damage.list_steps(model_dir / manager.FOLDER)
    )
    started = time.perf_counter()
    train.run(cell.settings, cell.gin_text, overwrite)
  seconds = time.perf_counter() - started
  base = cell.settings
  evaluated = eval_mode.run(
    eval_mode.EvalRun(
      # The run's own cache is opened, whatever shaped it.
      data=DataSettings(),
      model_dir=str(model_dir),
      splits=(settings.split,),
      mesh=base.mesh,
      dcn_mesh=base.dcn_mesh,
      batch_rows=base.eval_batch_rows or base.feed.batch_rows,
      decode_layout=base.decode_layout,
    ),
    overwrite=True,
  )
  result = sweep_results.collect_result(
    cell, cache, settings.split, evaluated, seconds, model_dir
  )
  if is_resumed:
    result = dataclasses.replace(
      result, metrics={**result.metrics, results.RESUMED: 1}
    )
  sweep_results.write_result(cell, cache, settings.split, result, model_dir)
  return result


def _count_scored(cells: Sequence[sweep_cells.Cell], split: str) -> int | None:
  """Counts the examples that a run is scored on; None: not known yet."""
  for cell in cells:
    if cell.settings is None:
      continue
    dataset, _ = task_kinds.split_task_name(cell.settings.mixture_or_task_name)
    # The run itself will say what is wrong.
    with contextlib.suppress(Exception):
      return len(datasets.load_records(dataset, split, cell.settings.data))
  return None
