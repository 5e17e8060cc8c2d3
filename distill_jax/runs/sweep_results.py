"""The result of a sweep's run: on disk, and whether it is still the one asked.

A result belongs to what shapes its run (see `run_folder.run_identity`) and to
how it was scored. Names, notes, and which other runs there are change neither.
"""

import contextlib
import dataclasses
import hashlib
import json
import logging
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from distill_jax.checkpoint import damage, manager
from distill_jax.data import token_cache
from distill_jax.data.records import STATUSES
from distill_jax.decoding.strategy import DecodingConfig
from distill_jax.errors import UserError
from distill_jax.evaluation import result_folder
from distill_jax.experiments import results
from distill_jax.files import atomic
from distill_jax.run_folder import (
  metric_files,
  run_identity,
  run_record,
  validation_history,
)
from distill_jax.runs import prepare, train
from distill_jax.runs.sweep_cells import Cell

_log = logging.getLogger(__name__)

_FILE = "result.json"
# Besides the run's identity, what decides which checkpoint is scored, and how.
_CHOOSING = (
  "train_steps",
  "eval_period",
  "max_eval_examples",
  "early_stopping_evals",
  "early_stopping_min_delta",
  "on_nonfinite_loss",
)
_INITIAL = "initial_checkpoint"


class CacheFinder:
  """Finds token caches for runs, each once: seeds share one."""

  def __init__(self):
    self._found: dict[str, token_cache.TokenCache] = {}

  def find(self, settings: train.TrainRun) -> token_cache.TokenCache:
    """Opens the cache of a run, or prepares it.

    Args:
      settings: of the run.

    Raises:
      UserError: see `prepare.find_or_prepare`.
    """
    key = repr((
      settings.mixture_or_task_name,
      settings.data,
      settings.task_module,
      settings.cache_dir,
    ))  # fmt: skip
    if key not in self._found:
      self._found[key] = prepare.find_for_all(
        settings.mixture_or_task_name,
        settings.data,
        settings.task_module,
        settings.cache_dir,
      )
    return self._found[key]


def read_finished(
  cells: Sequence[Cell], folder: pathlib.Path, split: str
) -> dict[str, results.RunResult]:
  """Reads the results that are there, and refuses those of other settings.

  Nothing is trained and no parameters are read.

  Args:
    cells: of the sweep.
    folder: of the sweep.
    split: what is scored.

  Returns:
    Results by the names of the cells' folders.

  Raises:
    UserError: names every run that is there with other settings, begun or
      finished, and what differs.
  """
  caches, finished, problems = CacheFinder(), {}, []
  with expecting_other_data():
    for cell in cells:
      model_dir = folder / cell.folder_name
      found = run_record.read_record(model_dir)
      content = _read_content(model_dir)
      if cell.settings is None or found is None:
        continue
      if isinstance((content or {}).get("settings"), str):
        problems.append(
          f"{cell.folder_name}: its result is of an earlier version, which did"
          " not write down what a result belongs to"
        )
        continue
      try:
        cache = caches.find(cell.settings)
      except Exception as error:
        # The run itself will say so, and is listed.
        _log.debug("%s: no token cache: %s", cell.folder_name, error)
        continue
      wanted = run_identity.make_identity(cell.settings, cache)
      differences = run_record.describe_differences(found.identity, wanted)
      if content is not None:
        scoring = _describe_scoring(cell, cache, split)
        before = content["settings"]
        differences += [
          f"{name}: {before.get(name)} before, {value} now"
          for name, value in scoring.items()
          if before.get(name) != value
          # Not known before, or not here now: then it is not compared.
          and not (name == _INITIAL and None in (before.get(name), value))
        ]
      if differences:
        problems.append(f"{cell.folder_name}: {'; '.join(differences)}")
      elif content is not None:
        result = results.parse_result(content["result"])
        # An arm may have got another name that has the same folder.
        finished[cell.folder_name] = dataclasses.replace(
          result, arm=cell.arm.name, size=cell.size
        )
  if problems:
    shown = "\n  ".join(problems)
    raise UserError(
      f"{folder} holds runs of other settings:\n  {shown}\nNothing was trained."
      " Give those settings, or another MODEL_DIR; or remove these folders to"
      " train these runs again, or add --overwrite to train all again."
    )
  return finished


@contextlib.contextmanager
def expecting_other_data() -> Iterator[None]:
  """Keeps off the screen that runs have data of their own, found again."""

  def is_news(record: logging.LogRecord) -> bool:
    is_habit = record.msg in (prepare.STALE, prepare.FOUND)
    return not is_habit or record.levelno > logging.INFO

  logger = logging.getLogger(prepare.__name__)
  logger.addFilter(is_news)
  try:
    yield
  finally:
    logger.removeFilter(is_news)


def _read_content(model_dir: pathlib.Path) -> dict[str, Any] | None:
  path = model_dir / _FILE
  try:
    content = json.loads(path.read_text(encoding="utf-8"))
    content = {key: content[key] for key in ("settings", "result")}
    if not isinstance(content["settings"], (dict, str)):
      raise TypeError("settings")
    results.parse_result(content["result"])
  except FileNotFoundError:
    return None
  except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
    raise UserError(
      f"{path} is no result of a run: {error!r}. Remove it; the run is then"
      " scored again."
    ) from error
  return content


def _describe_scoring(
  cell: Cell, cache: token_cache.TokenCache, split: str
) -> dict[str, Any]:
  assert cell.settings is not None
  chosen = {name: getattr(cell.settings, name) for name in _CHOOSING}
  return {
    "eval_task": find_eval_task(cell, cache.tasks),
    "split": split,
    _INITIAL: describe_initial(cell.settings.initial_checkpoint_path),
    **chosen,
  }


def describe_initial(path: str | None) -> str | None:
  """Describes the run that another starts from, which may be trained anew.

  Args:
    path: INITIAL_CHECKPOINT_PATH.

  Returns:
    A line that changes when the run in that folder is replaced or trained on;
    None: no path is given, or no run of this program lies there.
  """
  if path is None:
    return None
  folder = pathlib.Path(path).expanduser()
  if folder.parent.name == manager.FOLDER:
    folder = folder.parent.parent
  record = run_record.read_record(folder)
  if record is None:
    return None
  text = json.dumps(record.identity, sort_keys=True)
  steps = damage.list_steps(folder / manager.FOLDER)
  return f"run {hashlib.sha256(text.encode()).hexdigest()[:8]}, steps {steps}"


def find_eval_task(
  cell: Cell, tasks: Mapping[str, token_cache.TaskInfo]
) -> str:
  """Returns the label task on which a run is scored.

  Args:
    cell: the run.
    tasks: of its token cache.

  Raises:
    UserError: the mixture has no such task.
  """
  labels = [name for name, info in tasks.items() if info.kind != "rationale"]
  wanted = cell.eval_task or (labels[0] if len(labels) == 1 else None)
  if wanted not in labels:
    raise UserError(
      f"Arm {cell.arm.name!r}: EVAL_TASK is {cell.eval_task!r}; the label tasks"
      f" of its mixture are: {', '.join(labels) or 'none'}."
    )
  return wanted


def read_eval_task(model_dir: pathlib.Path) -> str:
  """Returns the label task that a finished run was scored on.

  Args:
    model_dir: folder of the run.
  """
  content = _read_content(model_dir)
  assert content is not None
  return content["settings"]["eval_task"]


def forget(model_dir: pathlib.Path) -> None:
  """Removes a result before its run is made again, or goes on.

  Args:
    model_dir: folder of the run.
  """
  (model_dir / _FILE).unlink(missing_ok=True)


def write_result(
  cell: Cell,
  cache: token_cache.TokenCache,
  split: str,
  result: results.RunResult,
  model_dir: pathlib.Path,
) -> None:
  """Writes a result beside its run.

  Args:
    cell: the run.
    cache: what it was trained on.
    split: what was scored.
    result: of the run.
    model_dir: folder of the run.
  """
  content = {
    "settings": _describe_scoring(cell, cache, split),
    "result": dataclasses.asdict(result),
  }
  atomic.write_bytes(model_dir / _FILE, json.dumps(content).encode())


def collect_result(
  cell: Cell,
  cache: token_cache.TokenCache,
  split: str,
  evaluated: Mapping[str, Mapping[str, Any]],
  seconds: float,
  model_dir: pathlib.Path,
) -> results.RunResult:
  """Makes a result of what a finished run and its evaluation wrote.

  Args:
    cell: the run.
    cache: what it was trained on.
    split: what was scored.
    evaluated: what `eval.run` returned.
    seconds: that training took.
    model_dir: folder of the run.

  Raises:
    UserError: no gold label can be scored.
  """
  eval_task = find_eval_task(cell, cache.tasks)
  predictions = read_predictions(model_dir, eval_task, split)
  # None: the gold label is no answer of the task, which `eval` has warned of.
  verdicts = {
    row["id"]: row["correct"]
    for row in predictions
    if row["correct"] is not None
  }
  if not verdicts:
    raise UserError(
      f"No gold label of {eval_task} {split} is an answer of the task; the"
      f" first is {predictions[0]['target']!r}. Mend the labels, or the data"
      " set's label_set or metric."
    )
  info = cache.tasks[eval_task]
  return results.RunResult(
    arm=cell.arm.name,
    # A share of a data set only comes near the size that was asked for.
    num_train_examples=info.splits["train"],
    size=cell.size,
    seed=cell.seed,
    num_correct=sum(verdicts.values()),
    num_examples=len(verdicts),
    correct_by_id=verdicts,
    seconds=seconds,
    metrics=_collect_metrics(cell, cache, eval_task, evaluated, model_dir),
  )


def _collect_metrics(
  cell, cache, eval_task, evaluated, model_dir
) -> dict[str, float | int]:
  lines = metric_files.read_metrics(model_dir)
  trained = [line for line in lines if line["split"] == "train"]
  best_step = int(manager.find_checkpoint(model_dir).name)
  last_step = max((line["step"] for line in lines), default=best_step)
  found: dict[str, Any] = {
    "best_step": best_step,
    "last_step": last_step,
    "validation_accuracy": dict(
      validation_history.read_scores(model_dir, last_step)
    ).get(best_step),
    "tokens": _count_tokens(cell.settings.feed, trained),
    "teacher_accuracy": _find_teacher_accuracy(cache.tasks[eval_task]),
  }
  for line in lines:
    info = cache.tasks.get(line["split"].removeprefix("validation/"))
    is_rationale = info is not None and info.kind == "rationale"
    if is_rationale and line["step"] == best_step:
      found["validation_rationale_loss"] = line.get("loss")
  for metrics in evaluated.values():
    if "rationale_accuracy" in metrics:
      found["rationale_accuracy"] = metrics["rationale_accuracy"]
  return {name: value for name, value in found.items() if value is not None}


def _count_tokens(feed, trained: Sequence[Mapping[str, Any]]) -> int | None:
  """Counts tokens trained on, padding left out, from the lines of a run."""
  places = feed.batch_rows * sum(feed.feature_lengths.values())
  total, before = 0.0, 0
  for line in trained:
    if line.get("padding_share") is None:
      return None
    total += places * (1 - line["padding_share"]) * (line["step"] - before)
    before = line["step"]
  return round(total) if trained else None


def _find_teacher_accuracy(info: token_cache.TaskInfo) -> float | None:
  counts = info.teacher_counts.get("train", {})
  num_rows = sum(n for status, n in counts.items() if status in STATUSES)
  return counts["labels_right"] / num_rows if num_rows else None


def read_predictions(
  model_dir: pathlib.Path, task: str, split: str
) -> list[dict[str, Any]]:
  """Reads the predictions of the checkpoint that `eval.run` chooses.

  Args:
    model_dir: folder of the run.
    task: a task of its mixture.
    split: of it.

  Raises:
    UserError: it was not evaluated.
  """
  step = manager.find_checkpoint(model_dir).name
  path = result_folder.find_predictions(
    model_dir / "eval" / task / split / step,
    result_folder.make_key(DecodingConfig()),
  )
  if not path.exists():
    evaluated = sorted(child.name for child in (model_dir / "eval").iterdir())
    raise UserError(
      f"{model_dir} has no {split} results of {task}, only of"
      f" {', '.join(evaluated)}. Correct the arm's EVAL_TASK."
    )
  # Not `splitlines`, which also cuts at the line separators inside of a text.
  with open(path, encoding="utf-8") as lines:
    return [json.loads(line) for line in lines]
