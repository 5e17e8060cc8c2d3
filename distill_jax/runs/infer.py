"""`--run_mode=infer`: predictions or scores, in the order of the inputs."""

import collections
import contextlib
import dataclasses
import itertools
import json
import logging
import os
import pathlib
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import tqdm

from distill_jax.answers import arithmetic
from distill_jax.config import declaration
from distill_jax.config.declaration import field
from distill_jax.data import named_tasks, task_kinds
from distill_jax.data.settings import DataSettings
from distill_jax.data.token_cache import Example, TaskInfo, read_task_info
from distill_jax.decoding import layout as layout_lib
from distill_jax.decoding.strategy import DecodingConfig
from distill_jax.errors import UserError
from distill_jax.evaluation.evaluator import Evaluator
from distill_jax.model.t5.config import T5Config
from distill_jax.runs import input_rows, prepare
from distill_jax.runs.input_rows import Row
from distill_jax.student import loading

_log = logging.getLogger(__name__)

_PREDICT, _SCORE = "predict", "score"
_PREDICTION, _RATIONALE = "prediction", "predicted_rationale"
_VALUE = "prediction_value"
_REASONS = {
  _PREDICTION: "finish_reason",
  _RATIONALE: "rationale_finish_reason",
}
# Of several samples, a list of all goes by the field's plural.
_PREDICTED = (_PREDICTION, _RATIONALE, _VALUE, *_REASONS.values())
_LOG_LIKELIHOOD, _NUM_TOKENS = "log_likelihood", "num_target_tokens"


# (rows, number of the first one among all) adds fields to each row.
_AddFn = Callable[[list[dict[str, Any]], int], None]


@dataclasses.dataclass(frozen=True)
class InferRun:
  """Settings of `--run_mode=infer`."""

  input_path: str = field(
    macro="INPUT_PATH",
    is_filled=True,
    help="JSONL with a field input (other fields are kept), or text with one"
    " input a line; '-' is standard input. Blank lines are skipped, so number"
    " the inputs of a text, in JSONL, where its line numbers matter. An empty"
    " input gives an empty output",
  )
  output_path: str = field(
    macro="OUTPUT_PATH",
    is_filled=True,
    help="the inputs with what was found, as JSONL; '-' is standard output",
  )
  model_dir: str | None = field(
    None,
    macro="MODEL_DIR",
    is_common=True,
    help="folder of a training run",
  )
  checkpoint_path: str | None = field(
    None,
    macro="CHECKPOINT_PATH",
    is_common=True,
    help="a checkpoint: of a run, Hugging Face, T5X or Orbax; None: the best on"
    " validation in MODEL_DIR",
  )
  mixture_or_task_name: str | None = field(
    None,
    macro="MIXTURE_OR_TASK_NAME",
    help="whose prefix goes before each input, and how answers are read; None:"
    " the run's, and for a checkpoint of no run plain text in and out",
  )
  task_module: str = field(
    prepare.DEFAULT_TASK_MODULE,
    macro="MIXTURE_OR_TASK_MODULE",
    help="module that registers the data set",
  )
  input_prefix: str | None = field(
    None,
    macro="INPUT_PREFIX",
    help="put before each input in place of the task's; '': nothing",
  )
  vocab_path: str | None = field(
    None,
    macro="VOCAB_PATH",
    help="a vocabulary, where none lies beside the checkpoint",
  )
  feature_lengths: Mapping[str, int] | None = field(
    None, macro="TASK_FEATURE_LENGTHS", help="tokens of a row; None: the run's"
  )
  mode: Literal["predict", "score"] = field(
    _PREDICT,
    macro="INFER_MODE",
    help="'predict' adds prediction and finish_reason: 'stop', or 'length' of a"
    " text that was cut at the limit of tokens; where answers are equations"
    " prediction_value too, null where one has none. 'score' reads a field"
    " target too and adds log_likelihood, the natural log of that target's"
    " probability after the input of a label task, summed over its tokens with"
    " EOS, and num_target_tokens",
  )
  with_rationale: bool = field(
    False,
    macro="WITH_RATIONALE",
    is_common=True,
    help="predict the rationale too, in a second decoding: predicted_rationale"
    " and rationale_finish_reason",
  )
  skips_bad_lines: bool = field(
    False,
    macro="SKIP_BAD_LINES",
    help="leave out lines that cannot be read or scored, and count them; False:"
    " the first one ends the run",
  )
  model_config: T5Config | None = field(
    None,
    help="None: the run's, or what the checkpoint says",
    gin_text="%MODEL_CONFIG",
  )
  mesh: Mapping[str, int] = field(
    default_factory=lambda: {"data": -1},
    macro="MESH",
    help="devices of a slice along each axis; -1: those that are left",
  )
  dcn_mesh: Mapping[str, int] | None = field(
    None,
    macro="DCN_MESH",
    help="slices along each axis; None: all along the data axis",
  )
  batch_rows: int = field(
    32, macro="BATCH_SIZE", least=1, is_common=True, help="rows of a batch"
  )
  decoding: DecodingConfig = field(
    DecodingConfig(),
    help="how predictions are decoded",
    gin_text="@strategy.DecodingConfig()",
  )
  decode_layout: str = field(
    layout_lib.AUTO,
    macro="DECODE_LAYOUT",
    one_of=layout_lib.LAYOUTS,
    help="where the decoder's parameters lie meanwhile, as in"
    " gin/runs/eval.gin",
  )

  def __post_init__(self):
    declaration.check(self)
    mode, rationale, prefix = (
      declaration.name_of(self, name)
      for name in ("mode", "with_rationale", "input_prefix")
    )
    if self.mode == _SCORE and self.with_rationale:
      raise UserError(
        f"{mode} is {_SCORE!r}, which generates nothing, and {rationale} is"
        " set. Leave one of them out."
      )
    if self.input_prefix is not None and self.with_rationale:
      raise UserError(
        f"{prefix} is {self.input_prefix!r}, and {rationale} asks for two"
        " tasks, which their own prefixes tell apart. Leave one of them out."
      )
    if self.mode == _SCORE and self.decoding != DecodingConfig():
      raise UserError(
        f"{mode} is {_SCORE!r}, which decodes nothing: nothing reads the"
        f" settings of decoding, {self.decoding.describe()}. Leave them out."
      )


def run(
  settings: InferRun, operative_config: str = "", overwrite: bool = False
) -> int:
  """Predicts a label, and a rationale if asked, or scores a target.

  Args:
    settings: see `InferRun`.
    operative_config: unused; every run mode is called alike.
    overwrite: replace the output file.

  Returns:
    The number of inputs, those left out not counted. Of an empty input the
    output is empty, and no checkpoint is read.

  Raises:
    UserError: no checkpoint, an input line cannot be read or a target does not
      fit (with `skips_bad_lines`: none of them), or the output file exists or
      cannot be written.
  """
  del operative_config
  choice = loading.ModelChoice(
    settings.model_dir,
    settings.checkpoint_path,
    model_config=settings.model_config,
    vocab_path=settings.vocab_path,
    feature_lengths=settings.feature_lengths,
    mesh=settings.mesh,
    dcn_mesh=settings.dcn_mesh,
  )
  to_stdout = settings.output_path == input_rows.STANDARD_STREAM
  output = pathlib.Path(settings.output_path).expanduser().absolute()
  if not to_stdout and output.is_dir():
    raise UserError(f"OUTPUT_PATH {output} is a folder. Give a file's path.")
  if not to_stdout and output.exists() and not overwrite:
    raise UserError(f"{output} exists. Add --overwrite to replace it.")
  rows, problems = _read_rows(settings)
  writing = output.with_name(output.name + ".writing")
  if not to_stdout:
    # Found out before the work.
    with _explain_unwritable(output):
      output.parent.mkdir(parents=True, exist_ok=True)
      writing.touch()
      writing.unlink()
  if not rows:
    _ = choice.path  # Even so, one must be given.
    _log.warning(
      "INPUT_PATH %s is empty, so the output is.", settings.input_path
    )
    if not to_stdout:
      with _explain_unwritable(output):
        output.write_text("")
    return 0
  opened = loading.open_model(choice)
  fields = _choose_fields(settings, opened)
  evaluator = Evaluator(
    opened.model,
    opened.mesh,
    opened.vocabulary,
    opened.feature_lengths,
    settings.batch_rows,
    settings.decoding,
    settings.decode_layout,
  )
  if settings.mode == _SCORE:
    rows, too_long = input_rows.sift(
      lambda row: _check_target(row, opened), rows, settings.skips_bad_lines
    )
    input_rows.report_skipped(settings.input_path, rows, too_long)
    problems += too_long
  _warn_of_trimmed(rows, fields, opened)
  _warn_of_unknown(rows, settings.mode, opened.vocabulary)
  params = opened.load_params(opened.checkpoints[0])
  if settings.mode == _SCORE:
    (info,) = fields.values()
    add_fn = _make_scorer(info, evaluator, opened, params)
  else:
    add_fn = _make_predictor(fields, evaluator, opened, params)
  started = time.perf_counter()
  predicted = _add_to_all(rows, add_fn, settings.batch_rows * 8)
  lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in predicted)
  if to_stdout:
    sys.stdout.writelines(lines)
  else:
    with _explain_unwritable(output):
      with open(writing, "w", encoding="utf-8") as file:
        file.writelines(lines)
      os.replace(writing, output)
  seconds = time.perf_counter() - started
  _log.info(
    "%d inputs, %.1f a second; %d bad lines skipped",
    len(rows),
    len(rows) / seconds,
    len(problems),
  )
  return len(rows)


def _read_rows(settings: InferRun) -> tuple[list[Row], list[str]]:
  if settings.mode == _SCORE:
    needed, added = ("input", "target"), (_LOG_LIKELIHOOD, _NUM_TOKENS)
  else:
    needed, added = ("input",), _PREDICTED
    if settings.decoding.num_samples > 1:
      added += tuple(map(_pluralize, _PREDICTED))
  return input_rows.read_rows(
    settings.input_path, needed, added, settings.skips_bad_lines
  )


@contextlib.contextmanager
def _explain_unwritable(output: pathlib.Path) -> Iterator[None]:
  try:
    yield
  except OSError as error:
    raise UserError(f"OUTPUT_PATH cannot be written: {error}") from error


def _add_to_all(
  rows: Sequence[Row], add_fn: _AddFn, chunk_rows: int
) -> Iterator[dict[str, Any]]:
  """Yields each row with what `add_fn` adds, in order."""
  with tqdm.tqdm(total=len(rows), desc="infer", unit=" inputs") as bar:
    for start in range(0, len(rows), chunk_rows):
      part = [dict(row.fields) for row in rows[start : start + chunk_rows]]
      add_fn(part, start)
      yield from part
      bar.update(len(part))


def _choose_fields(
  settings: InferRun, opened: loading.OpenedModel
) -> dict[str, TaskInfo]:
  """Returns the fields to predict, each with the task that does.

  Raises:
    UserError: rationales are asked for, and there is no task of them; or the
      task's name tells nothing.
  """
  tasks = _find_tasks(settings, opened)
  label_task = _find_task(tasks, "label") or _find_task(tasks, "joint")
  rationale_task = _find_task(tasks, "rationale")
  if settings.with_rationale and rationale_task is None:
    learned = (
      f"{opened.origin} learned {', '.join(tasks)}"
      if tasks
      else "of a checkpoint that lies in no run MIXTURE_OR_TASK_NAME says so"
    )
    raise UserError(
      f"WITH_RATIONALE needs a student that learned rationales; {learned}."
    )
  fields = {}
  if label_task is not None:
    fields[_PREDICTION] = label_task
  if rationale_task is not None and (settings.with_rationale or not fields):
    fields[_RATIONALE] = rationale_task
  if not fields:
    fields[_PREDICTION] = named_tasks.make_plain_task("")
  if settings.input_prefix is not None:
    fields = {
      field: dataclasses.replace(info, inputs_prefix=settings.input_prefix)
      for field, info in fields.items()
    }
  return fields


def _find_tasks(
  settings: InferRun, opened: loading.OpenedModel
) -> dict[str, TaskInfo]:
  """Returns the tasks by name; {} where nothing tells any."""
  name = settings.mixture_or_task_name
  if name is not None:
    prepare.import_own_tasks(settings.task_module)
    return named_tasks.describe_named_tasks(name, DataSettings())
  if opened.record is None:
    return {}
  return {
    name: read_task_info(name, info)
    for name, info in opened.record.identity["tasks"].items()
  }


def _make_predictor(
  fields: Mapping[str, TaskInfo],
  evaluator: Evaluator,
  opened: loading.OpenedModel,
  params: Any,
) -> _AddFn:
  """Returns what adds a predicted text for each field."""

  def add_predictions(part, first_row):
    for name, info in fields.items():
      examples = [_make_example(row["input"], "", opened, info) for row in part]
      predicted = evaluator.predict_samples(params, examples, info, first_row)
      for row, samples in zip(part, predicted, strict=True):
        texts = [sample.text for sample in samples]
        if info.kind == "joint":
          texts = [
            task_kinds.extract_label(text, info.target) for text in texts
          ]
        _add_samples(row, name, texts)
        if name == _PREDICTION and info.metric == "equation":
          _add_samples(row, _VALUE, [_evaluate(text) for text in texts])
        _add_samples(
          row, _REASONS[name], [sample.finish_reason for sample in samples]
        )

  return add_predictions


def _add_samples(row: dict[str, Any], field: str, values: list[Any]) -> None:
  row[field] = values[0]
  if len(values) > 1:
    row[_pluralize(field)] = values


def _pluralize(field: str) -> str:
  return f"{field}s"


def _evaluate(equation: str) -> int | float | None:
  """Returns the value as JSON has numbers; None where there is none."""
  value = arithmetic.evaluate_equation(equation)
  if value is None:
    return None
  return value.numerator if value.denominator == 1 else float(value)


def _check_target(row: Row, opened: loading.OpenedModel) -> Row:
  """Returns the row.

  Raises:
    UserError: its target is longer than the model's row.
  """
  limit = opened.feature_lengths["targets"]
  num_tokens = len(_encode_target(row.fields["target"], opened))
  if num_tokens > limit:
    raise UserError(
      f"{row.where}: the target has {num_tokens} tokens with EOS;"
      f" {opened.origin} has rows of {limit}, and part of a target has no"
      " score. Shorten it, leave it out, or raise TASK_FEATURE_LENGTHS."
    )
  return row


def _make_scorer(
  info: TaskInfo,
  evaluator: Evaluator,
  opened: loading.OpenedModel,
  params: Any,
) -> _AddFn:
  """Returns what adds the score of each row's target."""

  def add_scores(part, first_row):
    del first_row
    examples = [
      _make_example(row["input"], row["target"], opened, info) for row in part
    ]
    scores = evaluator.compute_log_likelihoods(params, examples, info)
    for row, score, count in zip(part, *scores, strict=True):
      row |= {_LOG_LIKELIHOOD: float(score), _NUM_TOKENS: int(count)}

  return add_scores


def _find_task(tasks: Mapping[str, TaskInfo], kind: str) -> TaskInfo | None:
  return next((info for info in tasks.values() if info.kind == kind), None)


def _make_example(source: str, target: str, opened, info) -> Example:
  return Example(
    id="",
    inputs=_encode_input(source, opened, info),
    targets=_encode_target(target, opened),
    inputs_text=source,
    targets_text=target,
  )


def _encode_input(text: str, opened, info) -> np.ndarray:
  vocabulary = opened.vocabulary
  ids = vocabulary.encode_inputs(info.inputs_prefix + text)
  return np.asarray([*ids, vocabulary.eos_id], np.int32)


def _encode_target(text: str, opened) -> np.ndarray:
  vocabulary = opened.vocabulary
  return np.asarray([*vocabulary.encode(text), vocabulary.eos_id], np.int32)


def _warn_of_trimmed(rows, fields, opened) -> None:
  limit = opened.feature_lengths["inputs"]
  for info in fields.values():
    num_trimmed = sum(
      len(_encode_input(row.fields["input"], opened, info)) > limit
      for row in rows
    )
    if num_trimmed:
      _log.warning(
        "%d of %d inputs have more than the %d tokens of a row, with %r"
        " before them and EOS behind; they are trimmed.",
        num_trimmed,
        len(rows),
        limit,
        info.inputs_prefix,
      )


def _warn_of_unknown(rows, mode, vocabulary) -> None:
  for name in ("input", "target") if mode == _SCORE else ("input",):
    found = [vocabulary.find_unknown(row.fields[name]) for row in rows]
    pieces = collections.Counter(itertools.chain(*found))
    if pieces:
      _log.warning(
        "%d of %d %ss hold what the model's vocabulary cannot spell, which is"
        " unknown to the student: %s.",
        sum(map(bool, found)),
        len(rows),
        name,
        ", ".join(f"{piece!r} ({n})" for piece, n in pieces.most_common(5)),
      )
