"""`--run_mode=sweep`: methods against training-set sizes and seeds, reported.

Layer 5; imports train, eval and experiments. Each cell is an ordinary training
run in a folder of its own, evaluated once on test from its best checkpoint on
validation. Interrupted, the same command goes on where it stopped.
"""

import contextlib
import dataclasses
import json
import logging
import pathlib
import re
import time
from collections.abc import Iterator, Sequence
from typing import Any

from distill_jax import eval as eval_mode
from distill_jax import prepare, train
from distill_jax.checkpoint import manager
from distill_jax.data import datasets, task_kinds
from distill_jax.data.settings import DataSettings
from distill_jax.decoding.strategy import DecodingConfig
from distill_jax.errors import UserError
from distill_jax.evaluation import result_folder
from distill_jax.experiments import plots, report, results
from distill_jax.training import metric_files, run_record

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

  @property
  def slug(self) -> str:
    """The name as the start of a folder's name."""
    return re.sub(r"\W+", "-", self.name.lower()).strip("-")


@dataclasses.dataclass(frozen=True)
class SweepRun:
  """Settings of `--run_mode=sweep`.

  Attributes:
    base: the settings all runs share; task, rows, size, seed and folder are
      replaced. Its `model_dir` holds the runs and the report.
    methods: (name, task, eval task, batch rows) each.
    sizes: numbers of training examples to ask for; where validation is split
      off, a run has about as many, and the report says how many.
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

  def __post_init__(self):
    for field in ("methods", "sizes", "seeds"):
      values = getattr(self, field)
      if not _is_list(values) or not values:
        raise UserError(
          f"{field.upper()} is {values!r}; it must be a list of at least one."
        )
    for method in self.methods:
      if not _is_list(method) or len(method) != 4:
        raise UserError(
          f"METHODS has {method!r}; a method is four values: its name, its"
          " task, the label task of its test score, its packed rows a step."
        )
    slugs = [Method(*method).slug for method in self.methods]
    for field, values in (
      ("METHODS", slugs),
      ("SIZES", self.sizes),
      ("SEEDS", self.seeds),
    ):
      if len(set(values)) < len(values):
        raise UserError(
          f"{field} has one of {list(values)} twice; each needs its own folder."
        )


def _is_list(value) -> bool:
  return isinstance(value, Sequence) and not isinstance(value, str)


def run(
  settings: SweepRun, operative_config: str = "", overwrite: bool = False
) -> list[results.RunResult]:
  """Trains and evaluates every cell, then writes table, plots and report.

  Args:
    settings: see `SweepRun`.
    operative_config: gin text for the report and the runs.
    overwrite: train again what is there.

  Returns:
    One result a run. `<model_dir>` also holds `results.json`, `report.html`,
    `accuracy.png` and `learning_curves.png`.

  Raises:
    UserError: the folder holds results of other settings, or see `train.run`
      and `eval.run`.
  """
  if settings.base.task_module != prepare.DEFAULT_TASK_MODULE:
    # The size of a user's own data set is asked for before any task is.
    prepare.require_own_tasks(settings.base.task_module)
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


@contextlib.contextmanager
def _expecting_other_data() -> Iterator[None]:
  """Keeps off the screen that a run's data is not that of the run before."""

  def is_news(record: logging.LogRecord) -> bool:
    return record.msg != prepare.STALE or record.levelno > logging.INFO

  logger = logging.getLogger(prepare.__name__)
  logger.addFilter(is_news)
  try:
    yield
  finally:
    logger.removeFilter(is_news)


def _cell_folder(folder, method: Method, size: int, seed: int) -> pathlib.Path:
  return folder / f"{method.slug}-{size}-seed{seed}"


def _run_cell(
  settings, method, size, seed, folder, operative_config, overwrite
) -> results.RunResult:
  model_dir = _cell_folder(folder, method, size, seed)
  result_file = model_dir / "result.json"
  cell_config = _describe_cell(method, size, seed) + operative_config
  if not overwrite:
    found = _read_result(result_file, cell_config)
    if found is not None:
      return found
  # Interrupted from here on, the cell has no result rather than an old one.
  result_file.unlink(missing_ok=True)
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
  with _expecting_other_data():
    train.run(cell, cell_config, overwrite)
  seconds = time.perf_counter() - started
  eval_mode.run(
    eval_mode.EvalRun(
      # The run's own cache is opened, whatever shaped it.
      data=DataSettings(),
      model_dir=str(model_dir),
      mesh=base.mesh,
      dcn_mesh=base.dcn_mesh,
      batch_rows=base.eval_batch_rows or method.batch_rows,
      decode_layout=base.decode_layout,
    ),
    overwrite=True,
  )
  predictions = _read_predictions(model_dir, method.eval_task)
  # None: the gold label is no answer of the task, which `eval` has warned of.
  verdicts = {
    row["id"]: row["correct"]
    for row in predictions
    if row["correct"] is not None
  }
  if not verdicts:
    raise UserError(
      f"No gold label of {method.eval_task} test is an answer of the task; the"
      f" first is {predictions[0]['target']!r}. Mend the labels, or the data"
      " set's label_set or metric."
    )
  result = results.RunResult(
    method=method.name,
    num_train_examples=_count_train_examples(model_dir, method.eval_task),
    seed=seed,
    num_correct=sum(verdicts.values()),
    num_examples=len(verdicts),
    correct_by_id=verdicts,
    seconds=seconds,
  )
  content = {"settings": cell_config, "result": dataclasses.asdict(result)}
  results.write_atomically(result_file, json.dumps(content).encode())
  return result


def _describe_cell(method: Method, size: int, seed: int) -> str:
  """Returns gin comments on what a run has in place of the sweep's settings."""
  return (
    f"# One run of a sweep, {method.name!r}. In place of the settings below:\n"
    f"#   MIXTURE_OR_TASK_NAME = {method.task!r}\n"
    f"#   SEED = {seed!r}\n"
    f"#   BATCH_SIZE = {method.batch_rows!r}\n"
    f"#   {size!r} training examples were asked for.\n"
    f"#   Its test score is that of {method.eval_task!r}.\n"
    "# The settings of the sweep:\n"
  )


def _read_result(result_file, cell_config: str) -> results.RunResult | None:
  """Reads a cell's result; None before it has one."""
  if not result_file.exists():
    return None
  content = json.loads(result_file.read_text(encoding="utf-8"))
  if content.get("settings") != cell_config:
    raise UserError(
      f"{result_file.parent} holds the result of other settings (its"
      " config.gin). Give another MODEL_DIR, those settings, or --overwrite to"
      " train again."
    )
  return results.RunResult(**content["result"])


def _count_train_examples(model_dir, eval_task: str) -> int:
  """Counts what was trained on, which a share of a data set only comes near."""
  record = run_record.require_record(manager.find_checkpoint(model_dir))
  return record.identity["tasks"][eval_task]["splits"]["train"]


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
  """Reads the test predictions of the checkpoint that `eval.run` chooses."""
  step = manager.find_checkpoint(model_dir).name
  path = result_folder.find_predictions(
    model_dir / "eval" / eval_task / "test" / step,
    result_folder.make_key(DecodingConfig()),
  )
  if not path.exists():
    evaluated = sorted(child.name for child in (model_dir / "eval").iterdir())
    raise UserError(
      f"{model_dir} has no test results of {eval_task}, only of"
      f" {', '.join(evaluated)}. Correct the label task in METHODS."
    )
  # Not `splitlines`, which also cuts at the line separators inside of a text.
  with open(path, encoding="utf-8") as lines:
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
