"""`--run_mode=infer`: predictions or scores, in the order of the inputs."""

import contextlib
import dataclasses
import functools
import json
import logging
import os
import pathlib
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal

import tqdm

from distill_jax.config import declaration
from distill_jax.config.declaration import field
from distill_jax.data import named_tasks
from distill_jax.data.token_cache import TaskInfo
from distill_jax.decoding.strategy import DecodingConfig
from distill_jax.errors import UserError
from distill_jax.model.config import ModelConfig
from distill_jax.runs import input_rows, prepare, shared_settings
from distill_jax.runs.input_rows import Row
from distill_jax.student import loading, opening
from distill_jax.student import student as student_lib

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
  model_config: ModelConfig | None = shared_settings.model_config_field()
  mesh: Mapping[str, int] = shared_settings.mesh_field()
  dcn_mesh: Mapping[str, int] | None = shared_settings.dcn_mesh_field()
  batch_rows: int = shared_settings.batch_rows_field()
  decoding: DecodingConfig = shared_settings.decoding_field()
  decode_layout: str = shared_settings.decode_layout_field()

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
  prepare.import_own_tasks(settings.task_module)
  student = student_lib.Student(
    opened,
    opening.find_tasks(opened, settings.mixture_or_task_name),
    settings.batch_rows,
    settings.decode_layout,
  )
  fields = _choose_fields(settings, student)
  if settings.mode == _SCORE:
    rows, too_long = input_rows.sift(
      lambda row: _check_target(row, student), rows, settings.skips_bad_lines
    )
    input_rows.report_skipped(settings.input_path, rows, too_long)
    problems += too_long
  inputs = [row.fields["input"] for row in rows]
  for info in fields.values():
    student.warn_of_trimmed(inputs, info)
  student.warn_of_unknown(inputs, "input")
  if settings.mode == _SCORE:
    student.warn_of_unknown([row.fields["target"] for row in rows], "target")
  _ = student.params  # Read before the clock runs.
  if settings.mode == _SCORE:
    (info,) = fields.values()
    add_fn = functools.partial(_add_scores, student, info)
  else:
    add_fn = functools.partial(
      _add_predictions, student, fields, settings.decoding
    )
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
  settings: InferRun, student: student_lib.Student
) -> dict[str, TaskInfo]:
  """Returns the fields to predict, each with the task that does.

  Raises:
    UserError: rationales are asked for, and there is no task of them.
  """
  label_task = student.find_label_task()
  rationale_task = student.find_rationale_task()
  if settings.with_rationale and rationale_task is None:
    raise UserError(
      "WITH_RATIONALE needs a student that learned rationales;"
      f" {student.describe_tasks('MIXTURE_OR_TASK_NAME')}."
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


def _add_predictions(
  student: student_lib.Student,
  fields: Mapping[str, TaskInfo],
  decoding: DecodingConfig,
  part: list[dict[str, Any]],
  first_row: int,
) -> None:
  """Adds a predicted text for each field."""
  inputs = [row["input"] for row in part]
  for name, info in fields.items():
    predicted = student.decode_texts(inputs, info, decoding, first_row)
    for row, samples in zip(part, predicted, strict=True):
      _add_samples(row, name, [sample.text for sample in samples])
      if name == _PREDICTION and info.metric == "equation":
        _add_samples(row, _VALUE, [sample.value for sample in samples])
      _add_samples(
        row, _REASONS[name], [sample.finish_reason for sample in samples]
      )


def _add_samples(row: dict[str, Any], field: str, values: list[Any]) -> None:
  row[field] = values[0]
  if len(values) > 1:
    row[_pluralize(field)] = values


def _pluralize(field: str) -> str:
  return f"{field}s"


def _check_target(row: Row, student: student_lib.Student) -> Row:
  """Returns the row.

  Raises:
    UserError: its target is longer than the model's row.
  """
  student.check_target(row.fields["target"], row.where)
  return row


def _add_scores(
  student: student_lib.Student,
  info: TaskInfo,
  part: list[dict[str, Any]],
  first_row: int,
) -> None:
  """Adds the score of each row's target."""
  del first_row
  scores = student.score_targets(
    [row["input"] for row in part], [row["target"] for row in part], info
  )
  for row, score in zip(part, scores, strict=True):
    row |= {
      _LOG_LIKELIHOOD: score.log_likelihood,
      _NUM_TOKENS: score.num_target_tokens,
    }
