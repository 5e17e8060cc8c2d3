"""`--run_mode=eval`: metrics and predictions of a checkpoint.

Layer 4; no TensorFlow. Model, task, lengths and vocabulary are those of the
run, unless others are given.
"""

import contextlib
import dataclasses
import json
import logging
import os
import pathlib
import shutil
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from distill_jax import prepare, run_loading
from distill_jax.data import pipeline, token_cache, vocab
from distill_jax.data.settings import DataSettings
from distill_jax.errors import UserError
from distill_jax.evaluation.evaluator import Evaluator
from distill_jax.model.config import T5Config

_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class EvalRun:
  """Settings of `--run_mode=eval`.

  Attributes:
    model_dir: folder of a training run.
    checkpoint_path: a checkpoint, of any run; None: the best on validation of
      the run in `model_dir`. Results go to `eval/` in the checkpoint's run.
    mixture_or_task_name: None: what the run was trained on.
    splits: which splits to evaluate; a string is one split.
    data: what shapes the examples, where another task is given.
    model_config: None: the run's.
    mesh: devices along each axis.
    batch_rows: rows a batch.
    num_beams: 1 decodes greedily.
    max_examples: of each task and split; None: all.
    task_module: module that registers the task.
    cache_dir: folder of token caches.
  """

  data: DataSettings
  model_dir: str | None = None
  checkpoint_path: str | None = None
  mixture_or_task_name: str | None = None
  splits: Sequence[str] | str = ("test",)
  model_config: T5Config | None = None
  mesh: Mapping[str, int] = dataclasses.field(
    default_factory=lambda: {"data": -1}
  )
  batch_rows: int = 32
  num_beams: int = 1
  max_examples: int | None = None
  task_module: str = prepare.DEFAULT_TASK_MODULE
  cache_dir: str | None = None

  def __post_init__(self):
    for macro, value in (
      ("BATCH_SIZE", self.batch_rows),
      ("NUM_BEAMS", self.num_beams),
      ("MAX_EVAL_EXAMPLES", self.max_examples),
    ):
      if value is None and macro == "MAX_EVAL_EXAMPLES":
        continue
      if not isinstance(value, int) or value < 1:
        raise UserError(
          f"{macro} is {value!r}; it must be a whole number >= 1."
        )


def run(
  settings: EvalRun, operative_config: str = "", overwrite: bool = False
) -> dict[str, dict[str, Any]]:
  """Evaluates a checkpoint and writes what it finds.

  Args:
    settings: see `EvalRun`.
    operative_config: unused; every run mode is called alike.
    overwrite: replace results of the same checkpoint, task and split.

  Returns:
    Metrics by "<task>/<split>", with `checkpoint`, `num_beams` and
    `max_examples`; also written to `eval/<task>/<split>/<step>/metrics.json` in
    the checkpoint's run, with the examples in `predictions.jsonl` beside it.

  Raises:
    UserError: no checkpoint, no data, or results are there already or cannot
      be written.
  """
  del operative_config
  path = run_loading.choose_path(settings.model_dir, settings.checkpoint_path)
  loaded = run_loading.load_run(path, settings.mesh, settings.model_config)
  if settings.mixture_or_task_name is None:
    cache = loaded.open_cache()
  else:
    cache = prepare.find_or_prepare(
      settings.mixture_or_task_name,
      settings.data,
      settings.task_module,
      settings.cache_dir,
    )
  _check_vocabulary(cache, loaded)
  root = loaded.model_dir / "eval"
  targets = {
    (task, split): root / task / split / str(loaded.step)
    for task, info in cache.tasks.items()
    for split in _choose_splits(settings.splits, cache)
    if split in info.splits
  }
  for folder in targets.values():
    if folder.exists() and not overwrite:
      raise UserError(f"{folder} exists. Add --overwrite to replace it.")
  for folder in targets.values():
    _check_writable(folder)
  evaluator = Evaluator(
    loaded.model,
    loaded.mesh,
    loaded.vocabulary,
    loaded.feature_lengths,
    settings.batch_rows,
    settings.num_beams,
  )
  results = {}
  for (task, split), folder in targets.items():
    examples = pipeline.take(
      cache.open_split(task, split), settings.max_examples
    )
    metrics, rows = evaluator.evaluate(
      loaded.params, examples, cache.tasks[task]
    )
    metrics |= {
      "checkpoint": str(loaded.checkpoint),
      "num_beams": settings.num_beams,
      "max_examples": settings.max_examples,
    }
    _write_results(folder, metrics, rows)
    results[f"{task}/{split}"] = metrics
    print(_summarize(f"{task}/{split}", loaded.step, metrics))
    _log.info("Wrote %s", folder)
  return results


def _check_vocabulary(cache: token_cache.TokenCache, loaded) -> None:
  expected = loaded.vocabulary.sha256
  found = cache.identity["vocabulary_sha256"]
  if found != expected:
    path = loaded.vocabulary.path or vocab.BYTES
    raise UserError(
      f"The tokens in {cache.path} are of another vocabulary than the run's in"
      f" {loaded.model_dir}. Add --gin.VOCAB_PATH=\"'{path}'\"."
    )


def _choose_splits(
  splits: Sequence[str] | str, cache: token_cache.TokenCache
) -> list[str]:
  chosen = [splits] if isinstance(splits, str) else list(splits)
  known = {split for info in cache.tasks.values() for split in info.splits}
  if not chosen or set(chosen) - known:
    raise UserError(
      f"EVAL_SPLITS is {chosen}; the splits in {cache.path} are"
      f" {sorted(known)}."
    )
  return chosen


def _check_writable(folder: pathlib.Path) -> None:
  """Finds out before the work; clears what a killed evaluation left."""
  writing = _writing_folder(folder)
  shutil.rmtree(writing, ignore_errors=True)
  with _explain_unwritable(folder):
    writing.mkdir(parents=True)
    writing.rmdir()


def _write_results(folder, metrics, rows) -> None:
  """Writes a results folder, which appears when it is complete."""
  writing = _writing_folder(folder)
  with _explain_unwritable(folder):
    writing.mkdir()
    with open(writing / "predictions.jsonl", "w", encoding="utf-8") as file:
      file.writelines(
        json.dumps(row, ensure_ascii=False) + "\n" for row in rows
      )
    (writing / "metrics.json").write_text(json.dumps(metrics, indent=2) + "\n")
    if folder.exists():
      shutil.rmtree(folder)
    os.replace(writing, folder)


def _writing_folder(folder: pathlib.Path) -> pathlib.Path:
  return folder.with_name(f".writing-{folder.name}")


@contextlib.contextmanager
def _explain_unwritable(folder: pathlib.Path) -> Iterator[None]:
  try:
    yield
  except OSError as error:
    raise UserError(
      f"The results in {folder} cannot be written: {error}. Free some room, or"
      " mend what it says, and run the same command again."
    ) from error


def _summarize(name: str, step: int, metrics: Mapping[str, Any]) -> str:
  lines = [f"{name} at step {step}"]
  if "label_accuracy" in metrics:
    lines.append(
      f"  accuracy {metrics['label_accuracy']:.2%}, 95% interval"
      f" {metrics['label_accuracy_low']:.2%} to"
      f" {metrics['label_accuracy_high']:.2%}, {metrics['num_correct']} of"
      f" {metrics['num_examples']} right, {metrics['num_unparsed']} unparsed"
    )
  shown = {
    key: value
    for key, value in metrics.items()
    if isinstance(value, float) and not key.startswith("label_accuracy")
  }
  lines.append(
    "  " + ", ".join(f"{key} {value:.4g}" for key, value in shown.items())
  )
  return "\n".join(lines)
