"""`--run_mode=eval`: metrics and predictions of checkpoints.

Model, task, lengths and vocabulary are those of the run, unless others are
given; of a checkpoint that lies in no run they are given.
"""

import dataclasses
import json
import logging
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from distill_jax.config import declaration
from distill_jax.config.declaration import field
from distill_jax.data import vocab
from distill_jax.data.settings import DataSettings
from distill_jax.data.token_cache import TokenCache
from distill_jax.decoding.strategy import DecodingConfig
from distill_jax.errors import UserError
from distill_jax.evaluation import result_folder, result_summary
from distill_jax.evaluation.evaluator import Evaluator
from distill_jax.model.config import ModelConfig
from distill_jax.run_folder import run_record
from distill_jax.runs import eval_parts, prepare, run_data, shared_settings
from distill_jax.student import loading
from distill_jax.training import fit_checks

_log = logging.getLogger(__name__)

_GENERATE, _RANK = "generate", result_folder.RANK
# They say where files lie or when a run refuses, and shape no example.
_NOT_SHAPING = ("data_dir", "max_not_ok_share")
# Of a fingerprint; enough for the few caches that a checkpoint is tried on.
_SHOWN_DIGITS = 8


@dataclasses.dataclass(frozen=True)
class EvalRun:
  """Settings of `--run_mode=eval`."""

  data: DataSettings = field(
    help="what shapes the examples, where another task is given; else it must"
    " agree with the run's",
    gin_text="@settings.DataSettings()",
  )
  model_dir: str | None = field(
    None,
    macro="MODEL_DIR",
    is_common=True,
    help="folder of a training run; with a checkpoint that lies in no run,"
    " folder for its results",
  )
  checkpoint_path: str | None = field(
    None,
    macro="CHECKPOINT_PATH",
    is_common=True,
    help="a checkpoint: of a run, Hugging Face, T5X or Orbax; None: of the run"
    " in MODEL_DIR",
  )
  checkpoints: str | int | Sequence[int] = field(
    "best",
    macro="CHECKPOINTS",
    help="of a run: 'best' on validation, 'last', 'all' that are kept, a step"
    " or a list of steps",
  )
  mixture_or_task_name: str | Sequence[str] | None = field(
    None,
    macro="MIXTURE_OR_TASK_NAME",
    is_filled=True,
    is_common=True,
    help="one or several; None: what the run was trained on",
  )
  splits: Sequence[str] | str = field(
    ("test",),
    macro="EVAL_SPLITS",
    is_common=True,
    help="which splits to evaluate; a text is one split",
  )
  feature_lengths: Mapping[str, int] | None = field(
    None, macro="TASK_FEATURE_LENGTHS", help="tokens of a row; None: the run's"
  )
  model_config: ModelConfig | None = shared_settings.model_config_field()
  mesh: Mapping[str, int] = shared_settings.mesh_field()
  dcn_mesh: Mapping[str, int] | None = shared_settings.dcn_mesh_field()
  batch_rows: int = shared_settings.batch_rows_field()
  decoding: DecodingConfig = shared_settings.decoding_field()
  decode_layout: str = shared_settings.decode_layout_field(
    "where a MESH with fsdp has the decoder's parameters while it decodes:"
    " 'replicated' along fsdp; 'split' over fsdp and model; 'as_trained',"
    " gathered at every token; 'auto' replicates what takes an eighth of a"
    " device's memory at most and splits what takes more"
  )
  prediction: Literal["generate", "rank"] = field(
    _GENERATE,
    macro="EVAL_PREDICTION",
    help="'generate' decodes every prediction; 'rank' predicts labels by the"
    " likeliest of the answer choices, and decodes rationales: the choice whose"
    " tokens, EOS included, sum to the highest log-likelihood; of equals the"
    " first. Choices are the task's label set, or those that an input lists"
    " below its line 'Answer Choices:'",
  )
  max_examples: int | None = field(
    None,
    macro="MAX_EVAL_EXAMPLES",
    least=1,
    help="examples of each task and split; None: all",
  )
  task_module: str = field(
    prepare.DEFAULT_TASK_MODULE,
    macro="MIXTURE_OR_TASK_MODULE",
    help="module that registers the task",
  )
  cache_dir: str | None = field(
    None, macro="CACHE_DIR", help="folder of token caches"
  )

  def __post_init__(self):
    declaration.check(self)
    if self.decoding.num_samples != 1:
      raise UserError(
        f"{self.decoding.num_samples} samples of each input were asked for;"
        " eval takes one. --run_mode=infer writes several."
      )
    if not all(self.task_names or ("the run's",)):
      raise UserError(
        f"{declaration.name_of(self, 'mixture_or_task_name')} is"
        f" {self.mixture_or_task_name!r}; it must be a name or a list of names."
      )

  @property
  def task_names(self) -> list[str] | None:
    """The tasks and mixtures asked for; None: the run's."""
    given = self.mixture_or_task_name
    if given is None:
      return None
    return [given] if isinstance(given, str) else list(given)


def run(
  settings: EvalRun, operative_config: str = "", overwrite: bool = False
) -> dict[str, dict[str, Any]]:
  """Evaluates checkpoints and writes what it finds.

  Args:
    settings: see `EvalRun`.
    operative_config: unused; every run mode is called alike.
    overwrite: replace results of the same checkpoint, task, split and way to
      measure.

  Returns:
    Metrics by "<task>/<split>", of several checkpoints by
    "<task>/<split>/<step>", with what they are of: `checkpoint`, `prediction`,
    `decoding` (None for ranked answers), `max_examples`, `token_cache`,
    `feature_lengths` and `settings` (others that change the numbers). Also
    written to `eval/<task>/<split>/<step>/<key>/metrics.json`, see
    `evaluation.result_folder`, with the examples in `predictions.jsonl` beside
    it. A checkpoint of no run has its name in place of a step.

  Raises:
    UserError: no checkpoint, no data, data settings that are not the run's, no
      choices to rank, or results are there already or cannot be written.
  """
  del operative_config
  opened = loading.open_model(
    loading.ModelChoice(
      settings.model_dir,
      settings.checkpoint_path,
      settings.checkpoints,
      settings.model_config,
      settings.data.vocab_path,
      settings.feature_lengths,
      settings.mesh,
      settings.dcn_mesh,
    ),
    {
      "MIXTURE_OR_TASK_NAME": settings.task_names,
      "MODEL_DIR": settings.model_dir,
    },
  )
  root = _find_root(settings, opened)
  caches = _open_caches(settings, opened)
  for cache in caches:
    fit_checks.check_sentinels(cache, opened.vocabulary, opened.model.config)
  parts = eval_parts.list_parts(caches, settings.splits, settings.max_examples)
  if settings.prediction == _RANK:
    parts = eval_parts.add_choices(parts, settings.decoding)
  folders = {
    (checkpoint.path, part.name): root
    / part.task
    / part.split
    / loading.name_checkpoint(checkpoint)
    / _make_key(settings, opened, part)
    for checkpoint in opened.checkpoints
    for part in parts
  }
  for (checkpoint_path, _), folder in folders.items():
    other = result_folder.read_checkpoint(folder)
    if opened.record is None and other not in (None, checkpoint_path):
      raise UserError(
        f"{folder} holds the results of {other}, another checkpoint of the same"
        f" name as {checkpoint_path}. Give another MODEL_DIR."
      )
    if folder.exists() and not overwrite:
      raise UserError(f"{folder} exists. Add --overwrite to replace it.")
  for folder in folders.values():
    result_folder.check_writable(folder)
  evaluator = Evaluator(
    opened.model,
    opened.mesh,
    opened.vocabulary,
    opened.feature_lengths,
    settings.batch_rows,
    settings.decoding,
    settings.decode_layout,
  )
  results, params = {}, None
  for checkpoint in opened.checkpoints:
    # The last one's go before there are others.
    del params
    params = opened.load_params(checkpoint)
    name = loading.name_checkpoint(checkpoint)
    for part in parts:
      metrics, rows = evaluator.evaluate(
        params, part.examples, part.info, part.choices
      )
      _warn_of_gold_outside(part, metrics, rows)
      metrics |= _describe(settings, opened, part, checkpoint.path)
      folder = folders[checkpoint.path, part.name]
      result_folder.write_results(folder, metrics, rows)
      is_one = len(opened.checkpoints) == 1
      results[part.name if is_one else f"{part.name}/{name}"] = metrics
      where = f"at step {name}" if opened.record else f"of {name}"
      how = ", choices ranked" if part.choices is not None else ""
      title = f"{part.name} {where}{how}"
      print(result_summary.summarize(title, metrics))
      _log.info("Wrote %s", folder)
  return results


def _warn_of_gold_outside(part: eval_parts.Part, metrics, rows) -> None:
  num_outside = metrics.get("num_gold_outside_label_set")
  if num_outside:
    _log.warning(
      "%d of the %d gold labels of %s are no answer of the task, the first"
      " %r; they are left out of the accuracy. Mend them, or the data set's"
      " label_set or metric.",
      num_outside,
      len(rows),
      part.name,
      next(row["target"] for row in rows if row["correct"] is None),
    )


def _find_root(settings: EvalRun, opened: loading.OpenedModel) -> pathlib.Path:
  """Returns the folder of results: in the run, else in MODEL_DIR."""
  if opened.model_dir is not None:
    return opened.model_dir / "eval"
  assert settings.model_dir is not None  # `open_model` needs it.
  folder = pathlib.Path(settings.model_dir).expanduser().absolute()
  if run_record.read_record(folder) is not None:
    raise UserError(
      f"MODEL_DIR {folder} holds a run, and {opened.origin} is none of it. Give"
      " another MODEL_DIR for its results."
    )
  return folder / "eval"


def _open_caches(
  settings: EvalRun, opened: loading.OpenedModel
) -> list[TokenCache]:
  """Opens what there is to evaluate on, in the model's vocabulary.

  Raises:
    UserError: there is none, it is of another vocabulary, or settings were
      given that are not the run's.
  """
  vocabulary = opened.vocabulary
  if settings.task_names is None:
    assert opened.record is not None  # `open_model` needs names else.
    is_there = pathlib.Path(opened.record.token_cache_path).exists()
    cache = run_data.open_cache(
      opened.record,
      vocabulary,
      settings.data,
      settings.task_module,
      settings.cache_dir,
    )
    _check_agreement(settings, cache, is_there)
    caches = [cache]
  else:
    data = settings.data
    if data.vocab_path is None:
      data = dataclasses.replace(
        data, vocab_path=vocabulary.path or vocab.BYTES
      )
    caches = [
      prepare.find_or_prepare(
        name, data, settings.task_module, settings.cache_dir
      )
      for name in settings.task_names
    ]
  for cache in caches:
    if cache.identity["vocabulary_sha256"] != vocabulary.sha256:
      raise UserError(
        f"The tokens in {cache.path} are of another vocabulary than that of"
        f" {opened.origin}, {vocabulary.path or vocab.BYTES}."
      )
  return caches


def _check_agreement(
  settings: EvalRun, cache: TokenCache, is_there: bool
) -> None:
  """Refuses data settings other than the run's, whose examples are taken.

  A setting that is at its default was not given; one that cannot be compared is
  named in the log, unless the cache was missing and has been made by it.
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
      continue  # `open_model` has compared it.
    if name in _NOT_SHAPING:
      unread.append(name.upper())
      continue
    # As JSON has it: the cache knows no tuples.
    plain = json.loads(json.dumps(value))
    if cache.identity["settings"].get(name) != plain:
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
  if unread and is_there:
    _log.warning(
      "Without MIXTURE_OR_TASK_NAME nothing reads %s: the examples are those of"
      " the run, from %s.",
      ", ".join(unread),
      cache.path,
    )


def _find_changes(
  settings: EvalRun, opened: loading.OpenedModel, part: eval_parts.Part
) -> dict[str, Any]:
  """Returns what else than decoding may change the numbers, by short names."""
  changes = dict(opened.changes)
  record, fingerprint = opened.record, part.cache.fingerprint
  is_of_run = record is not None and (
    settings.task_names is None or fingerprint == record.identity["token_cache"]
  )
  if not is_of_run:
    changes["data"] = fingerprint[:_SHOWN_DIGITS]
  return changes


def _make_key(
  settings: EvalRun, opened: loading.OpenedModel, part: eval_parts.Part
) -> str:
  return result_folder.make_key(
    settings.decoding if part.choices is None else None,
    settings.max_examples,
    _find_changes(settings, opened, part),
  )


def _describe(
  settings: EvalRun,
  opened: loading.OpenedModel,
  part: eval_parts.Part,
  checkpoint: str,
) -> dict[str, Any]:
  """Says what metrics are of."""
  is_ranked = part.choices is not None
  return {
    "checkpoint": checkpoint,
    "prediction": _RANK if is_ranked else _GENERATE,
    "decoding": None if is_ranked else settings.decoding.describe(),
    "max_examples": settings.max_examples,
    "token_cache": part.cache.fingerprint,
    "feature_lengths": dict(opened.feature_lengths),
    "settings": _find_changes(settings, opened, part),
  }
