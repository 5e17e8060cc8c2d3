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
from typing import Any, Literal

from distill_jax import prepare, run_loading
from distill_jax.data import pipeline, token_cache, vocab
from distill_jax.data.settings import DataSettings
from distill_jax.decoding import layout as layout_lib
from distill_jax.decoding.strategy import DecodingConfig
from distill_jax.errors import UserError
from distill_jax.evaluation.choices import find_choices
from distill_jax.evaluation.evaluator import Evaluator
from distill_jax.model.config import T5Config

_log = logging.getLogger(__name__)

_GENERATE, _RANK = "generate", "rank"
# They say where files lie or when a run refuses, and shape no example.
_NOT_SHAPING = ("data_dir", "max_not_ok_share")


@dataclasses.dataclass(frozen=True)
class EvalRun:
  """Settings of `--run_mode=eval`.

  Attributes:
    model_dir: folder of a training run.
    checkpoint_path: a checkpoint, of any run; None: the best on validation of
      the run in `model_dir`. Results go to `eval/` in the checkpoint's run.
    mixture_or_task_name: None: what the run was trained on.
    splits: which splits to evaluate; a string is one split.
    data: what shapes the examples, where another task is given; else it must
      agree with the run's.
    model_config: None: the run's.
    mesh: devices of a slice along each axis, see `partitioning.mesh`.
    dcn_mesh: slices along each axis; None: all along the data axis.
    batch_rows: rows a batch.
    decoding: how predictions are decoded.
    decode_layout: where the decoder's parameters lie meanwhile, one of
      `decoding.layout.LAYOUTS`.
    prediction: "generate" decodes every prediction; "rank" predicts labels by
      the likeliest of the task's answer choices, and decodes rationales.
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
  dcn_mesh: Mapping[str, int] | None = None
  batch_rows: int = 32
  decoding: DecodingConfig = DecodingConfig()
  decode_layout: str = layout_lib.AUTO
  prediction: Literal["generate", "rank"] = _GENERATE
  max_examples: int | None = None
  task_module: str = prepare.DEFAULT_TASK_MODULE
  cache_dir: str | None = None

  def __post_init__(self):
    for macro, value in (
      ("BATCH_SIZE", self.batch_rows),
      ("MAX_EVAL_EXAMPLES", self.max_examples),
    ):
      if value is None and macro == "MAX_EVAL_EXAMPLES":
        continue
      if not isinstance(value, int) or value < 1:
        raise UserError(
          f"{macro} is {value!r}; it must be a whole number >= 1."
        )
    layout_lib.check(self.decode_layout)
    if self.prediction not in (_GENERATE, _RANK):
      raise UserError(
        f"EVAL_PREDICTION is {self.prediction!r}; it must be {_GENERATE!r} or"
        f" {_RANK!r}."
      )
    if self.decoding.num_samples != 1:
      raise UserError(
        f"{self.decoding.num_samples} samples of each input were asked for;"
        " eval takes one. --run_mode=infer writes several."
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
    Metrics by "<task>/<split>", with `checkpoint`, `prediction`, `decoding`
    (None for ranked answers) and `max_examples`; also written to
    `eval/<task>/<split>/<step>/metrics.json` in the checkpoint's run, with the
    examples in `predictions.jsonl` beside it.

  Raises:
    UserError: no checkpoint, no data, data settings that are not the run's, no
      choices to rank, or results are there already or cannot be written.
  """
  del operative_config
  path = run_loading.choose_path(settings.model_dir, settings.checkpoint_path)
  loaded = run_loading.load_run(
    path, settings.mesh, settings.model_config, settings.dcn_mesh
  )
  if settings.mixture_or_task_name is None:
    cache = loaded.open_cache()
    _check_agreement(settings, cache)
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
  examples = {
    (task, split): pipeline.take(
      cache.open_split(task, split), settings.max_examples
    )
    for task, split in targets
  }
  choices = _find_all_choices(settings, cache, examples)
  evaluator = Evaluator(
    loaded.model,
    loaded.mesh,
    loaded.vocabulary,
    loaded.feature_lengths,
    settings.batch_rows,
    settings.decoding,
    settings.decode_layout,
  )
  results = {}
  for (task, split), folder in targets.items():
    ranked = choices.get((task, split))
    metrics, rows = evaluator.evaluate(
      loaded.params, examples[task, split], cache.tasks[task], ranked
    )
    metrics |= {
      "checkpoint": str(loaded.checkpoint),
      "prediction": _GENERATE if ranked is None else _RANK,
      "decoding": settings.decoding.describe() if ranked is None else None,
      "max_examples": settings.max_examples,
    }
    if num_outside := metrics.get("num_gold_outside_label_set"):
      _log.warning(
        "%d of the %d gold labels of %s %s are no answer of the task, the first"
        " %r; they are left out of the accuracy. Mend them, or the data set's"
        " label_set or metric.",
        num_outside,
        len(rows),
        task,
        split,
        next(row["target"] for row in rows if row["correct"] is None),
      )
    _write_results(folder, metrics, rows)
    results[f"{task}/{split}"] = metrics
    print(_summarize(f"{task}/{split}", loaded.step, metrics))
    _log.info("Wrote %s", folder)
  return results


def _check_agreement(settings: EvalRun, cache: token_cache.TokenCache) -> None:
  """Refuses data settings other than the run's, whose examples are taken.

  A setting that is at its default was not given; one that cannot be compared is
  named in the log.
  """
  given = {
    field.name: value
    for field in dataclasses.fields(DataSettings)
    if (value := getattr(settings.data, field.name))
    != getattr(DataSettings(), field.name)
  }
  different, unread = [], []
  for name, value in given.items():
    if name == "vocab_path":
      sha256 = vocab.load_vocabulary(value).sha256
      agrees = sha256 == cache.identity["vocabulary_sha256"]
    elif name in _NOT_SHAPING:
      unread.append(name.upper())
      continue
    else:
      # As JSON has it: the cache knows no tuples.
      plain = json.loads(json.dumps(value))
      agrees = cache.identity["settings"].get(name) == plain
    if not agrees:
      different.append(f"{name.upper()} = {value!r}")
  if different:
    raise UserError(
      f"The run was not trained with {', '.join(different)}. Without"
      " MIXTURE_OR_TASK_NAME the examples are those it was trained on, from"
      f" {cache.path}. Add MIXTURE_OR_TASK_NAME, or leave the settings out."
    )
  cache_dir = settings.cache_dir
  if cache_dir is not None and not cache.path.resolve().is_relative_to(
    pathlib.Path(cache_dir).expanduser().resolve()
  ):
    unread.append("CACHE_DIR")
  if settings.task_module != prepare.DEFAULT_TASK_MODULE:
    unread.append("MIXTURE_OR_TASK_MODULE")
  if unread:
    _log.warning(
      "Without MIXTURE_OR_TASK_NAME nothing reads %s: the examples are those of"
      " the run, from %s.",
      ", ".join(unread),
      cache.path,
    )


def _find_all_choices(
  settings: EvalRun,
  cache: token_cache.TokenCache,
  examples: Mapping[tuple[str, str], Sequence[token_cache.Example]],
) -> dict[tuple[str, str], list[tuple[str, ...]]]:
  """Returns the answer choices by task and split; of what is not ranked none.

  Raises:
    UserError: there are none to rank, or nothing is left to decode with the
      settings given for it.
  """
  if settings.prediction == _GENERATE:
    return {}
  ranked = {
    (task, split): find_choices(task, cache.tasks[task], rows)
    for (task, split), rows in examples.items()
    if cache.tasks[task].kind != "rationale"
  }
  if not ranked:
    raise UserError(
      f"EVAL_PREDICTION is {_RANK!r}, and there are only rationales to evaluate"
      f" in {cache.path}. Leave it at {_GENERATE!r}."
    )
  if len(ranked) == len(examples) and settings.decoding != DecodingConfig():
    raise UserError(
      f"EVAL_PREDICTION is {_RANK!r}, which decodes nothing here: nothing reads"
      f" the settings of decoding, {settings.decoding.describe()}. Leave them"
      " out."
    )
  return ranked


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
  is_ranked = metrics.get("prediction") == _RANK
  lines = [f"{name} at step {step}" + ", choices ranked" * is_ranked]
  if "label_accuracy" in metrics:
    lines.append(
      f"  accuracy {metrics['label_accuracy']:.2%}, 95% interval"
      f" {metrics['label_accuracy_low']:.2%} to"
      f" {metrics['label_accuracy_high']:.2%}, {metrics['num_correct']} of"
      f" {metrics['num_examples']} right, {metrics['num_unparsed']} unparsed"
    )
    if num_outside := metrics["num_gold_outside_label_set"]:
      lines.append(f"  left out: {num_outside} gold labels are no answer")
  if "rouge_tokenizer" in metrics:
    lines.append(
      f"  words for ROUGE: {metrics['rouge_tokenizer']}, for BLEU:"
      f" {metrics['bleu_tokenizer']}"
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
