"""`--run_mode=sweep`: methods against training-set sizes and seeds, reported.

Layer 5; imports train, eval and experiments. Each cell is an ordinary training
run in a folder of its own, evaluated once on test from its best checkpoint on
validation. Interrupted, the same command goes on where it stopped.
"""

import dataclasses
import json
import logging
import pathlib
import time
from collections.abc import Sequence
from typing import Any

from distill_jax import eval as eval_mode
from distill_jax import train
from distill_jax.data import datasets, task_kinds
from distill_jax.errors import UserError
from distill_jax.experiments import plots, report, results
from distill_jax.training import metric_files

_log = logging.getLogger(__name__)

_RESULTS = "results.json"


@dataclasses.dataclass(frozen=True)
class Method:
  """One way to train.

  Attributes:
    name: how the report calls it.
    task: task or mixture it trains on.
    eval_task: the label task whose test accuracy is reported.
    batch_rows: packed rows a step; methods whose examples take more tokens need
      more rows to see equally many examples.
  """

  name: str
  task: str
  eval_task: str
  batch_rows: int


@dataclasses.dataclass(frozen=True)
class SweepRun:
  """Settings of `--run_mode=sweep`.

  Attributes:
    base: the settings all runs share; task, rows, size, seed and folder are
      replaced. Its `model_dir` holds the runs and the report.
    methods: (name, task, eval task, batch rows) each.
    sizes: numbers of training examples.
    seeds: of initialization, order and dropout.
    title: of the report.
    notes: paragraphs of the report.
    num_shown_examples: test examples shown with each method's prediction.
  """

  base: train.TrainRun
  methods: Sequence[tuple[str, str, str, int]]
  sizes: Sequence[int]
  seeds: Sequence[int]
  title: str
  notes: Sequence[str] = ()
  num_shown_examples: int = 8


def run(
  settings: SweepRun, operative_config: str = "", overwrite: bool = False
) -> list[results.RunResult]:
  """Trains and evaluates every cell, then writes table, plots and report.

  Args:
    settings: see `SweepRun`.
    operative_config: gin text for the report.
    overwrite: train again what is there.

  Returns:
    One result a run. `<model_dir>` also holds `results.json`, `report.html`,
    `accuracy.png` and `learning_curves.png`.

  Raises:
    UserError: see `train.run` and `eval.run`.
  """
  folder = pathlib.Path(settings.base.model_dir).expanduser().absolute()
  methods = [Method(*method) for method in settings.methods]
  cells = [
    (size, seed, method)
    for size in settings.sizes
    for seed in settings.seeds
    for method in methods
  ]
  rows = []
  for index, (size, seed, method) in enumerate(cells, start=1):
    _log.info(
      "Run %d of %d: %s, %d examples, seed %d",
      index, len(cells), method.name, size, seed,
    )  # fmt: skip
    rows.append(
      _run_cell(settings, method, size, seed, folder, operative_config,
                overwrite)
    )  # fmt: skip
    results.write_results(folder / _RESULTS, rows)
  _write_report(settings, methods, rows, folder, operative_config)
  print(report.format_table(rows))
  print(
    f"\nReport: {folder / 'report.html'}\nPlot:   {folder / 'accuracy.png'}"
  )
  return rows


def _cell_folder(folder, method: Method, size: int, seed: int) -> pathlib.Path:
  return folder / f"{method.task}-{size}-seed{seed}"


def _run_cell(
  settings, method, size, seed, folder, operative_config, overwrite
) -> results.RunResult:
  model_dir = _cell_folder(folder, method, size, seed)
  result_file = model_dir / "result.json"
  if result_file.exists() and not overwrite:
    return results.RunResult(**json.loads(result_file.read_text()))
  base = settings.base
  started = time.perf_counter()
  cell = dataclasses.replace(
    base,
    mixture_or_task_name=method.task,
    model_dir=str(model_dir),
    seed=seed,
    feed=dataclasses.replace(
      base.feed, batch_rows=method.batch_rows, seed=seed
    ),
    data=_resize(base.data, method.task, size),
  )
  train.run(cell, operative_config, overwrite)
  seconds = time.perf_counter() - started
  eval_mode.run(
    eval_mode.EvalRun(
      data=cell.data,
      model_dir=str(model_dir),
      mixture_or_task_name=None,
      mesh=base.mesh,
      batch_rows=base.eval_batch_rows or method.batch_rows,
      cache_dir=base.cache_dir,
    ),
    overwrite=True,
  )
  predictions = _read_predictions(model_dir, method.eval_task)
  result = results.RunResult(
    method=method.name,
    num_train_examples=size,
    seed=seed,
    num_correct=sum(row["correct"] for row in predictions),
    num_examples=len(predictions),
    correct_by_id={row["id"]: row["correct"] for row in predictions},
    seconds=seconds,
  )
  result_file.write_text(json.dumps(dataclasses.asdict(result)))
  return result


def _resize(data, task: str, size: int):
  """Returns data settings under which the task has `size` training examples."""
  dataset, _ = task_kinds.split_task_name(task)
  if dataset == "word_problems":
    # Generated in order, so that a smaller set is a part of a larger one.
    word_problems = {**data.word_problems, "num_train_examples": size}
    return dataclasses.replace(data, word_problems=word_problems)
  available = len(
    datasets.load_records(
      dataset, "train", dataclasses.replace(data, subsample=1.0)
    )
  )
  if size > available:
    raise UserError(
      f"The sweep asks for {size} training examples; {dataset} has {available}."
    )
  return dataclasses.replace(data, subsample=size / available)


def _read_predictions(model_dir, eval_task: str) -> list[dict[str, Any]]:
  found = sorted((model_dir / "eval" / eval_task / "test").glob("*/*.jsonl"))
  if len(found) != 1:
    raise UserError(
      f"{model_dir} has {len(found)} test results of {eval_task}, not one. Run"
      " again with --overwrite."
    )
  lines = found[0].read_text(encoding="utf-8").splitlines()
  return [json.loads(line) for line in lines]


def _write_report(settings, methods, rows, folder, operative_config) -> None:
  plots.plot_accuracy_by_size(rows, folder / "accuracy.png")
  curves = _read_curves(settings, methods, folder)
  plots.plot_learning_curves(curves, folder / "learning_curves.png")
  report.write_report(
    folder / "report.html",
    title=settings.title,
    rows=rows,
    figures=[
      report.ReportFigure(
        folder / "accuracy.png", "Test accuracy by number of training examples."
      ),
      report.ReportFigure(
        folder / "learning_curves.png",
        "Training and validation at the largest size, every seed.",
      ),
    ],
    settings=operative_config,
    notes=settings.notes,
    examples=_choose_examples(settings, methods, folder),
  )


def _read_curves(settings, methods, folder) -> list[plots.LearningCurve]:
  curves = []
  size = max(settings.sizes)
  for method in methods:
    for seed in settings.seeds:
      lines = metric_files.read_metrics(
        _cell_folder(folder, method, size, seed)
      )
      for split, name, shown in (
        ("train", "label_loss", "label loss, training"),
        (
          f"validation/{method.eval_task}",
          "label_accuracy",
          "label accuracy, validation",
        ),
      ):
        points = [
          (line["step"], line[name])
          for line in lines
          if line["split"] == split and line.get(name) is not None
        ]
        steps, values = zip(*points, strict=True) if points else ((), ())
        curves.append(plots.LearningCurve(shown, method.name, steps, values))
  return curves


def _choose_examples(settings, methods, folder):
  """Shows the first test examples with what each method made of them.

  The student of rationales also explains; nothing is chosen by its outcome.
  """
  size, seed = max(settings.sizes), settings.seeds[0]
  shown = []
  for method in methods:
    model_dir = _cell_folder(folder, method, size, seed)
    rationale_task = method.eval_task.removesuffix("_label") + "_rationale"
    rationales = {}
    if (model_dir / "eval" / rationale_task / "test").is_dir():
      rationales = {
        row["id"]: row["prediction"]
        for row in _read_predictions(model_dir, rationale_task)
      }
    rows = _read_predictions(model_dir, method.eval_task)
    shown += [
      report.ExamplePrediction(
        id=row["id"],
        method=method.name,
        input=row["input"],
        target=row["target"],
        prediction=row["prediction"],
        is_correct=row["correct"],
        rationale=rationales.get(row["id"]),
      )
      for row in rows[: settings.num_shown_examples]
    ]
  return sorted(shown, key=lambda row: row.id)
