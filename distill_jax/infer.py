"""`--run_mode=infer`: predictions or scores, in the order of the inputs.

Layer 4; no TensorFlow.
"""

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
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import tqdm

from distill_jax import run_loading
from distill_jax.answers import arithmetic
from distill_jax.data import task_kinds
from distill_jax.data.token_cache import Example, TaskInfo, read_task_info
from distill_jax.decoding import layout as layout_lib
from distill_jax.decoding.strategy import DecodingConfig
from distill_jax.errors import UserError
from distill_jax.evaluation.evaluator import Evaluator
from distill_jax.model.config import T5Config

_log = logging.getLogger(__name__)

_STANDARD_STREAM = "-"
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
_MAX_SHOWN = 5


class _Row(NamedTuple):
  """One input: where it stands, for messages, and its fields."""

  where: str
  fields: dict[str, Any]


# (rows, number of the first one among all) adds fields to each row.
_AddFn = Callable[[list[dict[str, Any]], int], None]


@dataclasses.dataclass(frozen=True)
class InferRun:
  """Settings of `--run_mode=infer`.

  Attributes:
    input_path: JSONL with a field `input` (other fields are kept), or text
      with one input a line; "-" is standard input. Blank lines are skipped,
      so number the inputs of a text, in JSONL, where its line numbers matter.
    output_path: the inputs with what was found, as JSONL; "-" is standard
      output.
    model_dir: folder of a training run.
    checkpoint_path: a checkpoint; None: the run's best on validation.
    mode: "predict" adds `prediction` and `finish_reason`, "stop" or, of a text
      that was cut at the limit of tokens, "length"; where answers are
      equations `prediction_value` too, null where one has none. "score" reads
      a field `target` too and adds `log_likelihood`, of that target after the
      input of a label task, and `num_target_tokens`. T5X's names.
    with_rationale: predict the rationale too, in a second decoding:
      `predicted_rationale` and `rationale_finish_reason`.
    skips_bad_lines: leave lines out that cannot be read or scored, and count
      them; False: the first one ends the run.
    model_config: None: the run's.
    mesh: devices of a slice along each axis, see `partitioning.mesh`.
    dcn_mesh: slices along each axis; None: all along the data axis.
    batch_rows: rows a batch.
    decoding: how predictions are decoded. Of several samples the first is
      the prediction, and a list of all stands beside it.
    decode_layout: where the decoder's parameters lie meanwhile, one of
      `decoding.layout.LAYOUTS`.
  """

  input_path: str
  output_path: str
  model_dir: str | None = None
  checkpoint_path: str | None = None
  mode: Literal["predict", "score"] = _PREDICT
  with_rationale: bool = False
  skips_bad_lines: bool = False
  model_config: T5Config | None = None
  mesh: Mapping[str, int] = dataclasses.field(
    default_factory=lambda: {"data": -1}
  )
  dcn_mesh: Mapping[str, int] | None = None
  batch_rows: int = 32
  decoding: DecodingConfig = DecodingConfig()
  decode_layout: str = layout_lib.AUTO

  def __post_init__(self):
    if not isinstance(self.batch_rows, int) or self.batch_rows < 1:
      raise UserError(
        f"BATCH_SIZE is {self.batch_rows!r}; it must be a whole number >= 1."
      )
    layout_lib.check(self.decode_layout)
    if self.mode not in (_PREDICT, _SCORE):
      raise UserError(
        f"INFER_MODE is {self.mode!r}; it must be {_PREDICT!r} or {_SCORE!r}."
      )
    if self.mode == _SCORE and self.with_rationale:
      raise UserError(
        f"INFER_MODE is {_SCORE!r}, which generates nothing, and WITH_RATIONALE"
        " is set. Leave one of them out."
      )
    if self.mode == _SCORE and self.decoding != DecodingConfig():
      raise UserError(
        f"INFER_MODE is {_SCORE!r}, which decodes nothing: nothing reads the"
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
  to_stdout = settings.output_path == _STANDARD_STREAM
  output = pathlib.Path(settings.output_path).expanduser().absolute()
  if not to_stdout and output.is_dir():
    raise UserError(f"OUTPUT_PATH {output} is a folder. Give a file's path.")
  if not to_stdout and output.exists() and not overwrite:
    raise UserError(f"{output} exists. Add --overwrite to replace it.")
  rows, problems = _read_rows(settings)
  _tell_skipped(settings, rows, problems)
  writing = output.with_name(output.name + ".writing")
  if not to_stdout:
    # Found out before the work.
    with _explain_unwritable(output):
      output.parent.mkdir(parents=True, exist_ok=True)
      writing.touch()
      writing.unlink()
  if not rows:
    _log.warning(
      "INPUT_PATH %s is empty, so the output is.", settings.input_path
    )
    if not to_stdout:
      with _explain_unwritable(output):
        output.write_text("")
    return 0
  path = run_loading.choose_path(settings.model_dir, settings.checkpoint_path)
  loaded = run_loading.load_run(
    path, settings.mesh, settings.model_config, settings.dcn_mesh
  )
  evaluator = Evaluator(
    loaded.model,
    loaded.mesh,
    loaded.vocabulary,
    loaded.feature_lengths,
    settings.batch_rows,
    settings.decoding,
    settings.decode_layout,
  )
  tasks = {
    name: read_task_info(name, info)
    for name, info in loaded.record.identity["tasks"].items()
  }
  label_task = _find_task(tasks, "label") or _find_task(tasks, "joint")
  rationale_task = _find_task(tasks, "rationale")
  if settings.with_rationale and rationale_task is None:
    raise UserError(
      f"WITH_RATIONALE needs a student that learned rationales; the run in"
      f" {loaded.model_dir} learned {', '.join(tasks)}."
    )
  fields = {}
  if label_task is not None:
    fields[_PREDICTION] = label_task
  if rationale_task is not None and (settings.with_rationale or not fields):
    fields[_RATIONALE] = rationale_task
  if settings.mode == _SCORE:
    rows, too_long = _sift(
      lambda row: _check_target(row, loaded), rows, settings
    )
    problems += too_long
    _tell_skipped(settings, rows, too_long)
  _warn_of_trimmed(rows, fields, loaded)
  _warn_of_unknown(rows, settings.mode, loaded)
  if settings.mode == _SCORE:
    (info,) = fields.values()
    add_fn = _make_scorer(info, evaluator, loaded)
  else:
    add_fn = _make_predictor(fields, evaluator, loaded)
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


@contextlib.contextmanager
def _explain_unwritable(output: pathlib.Path) -> Iterator[None]:
  try:
    yield
  except OSError as error:
    raise UserError(f"OUTPUT_PATH cannot be written: {error}") from error


def _add_to_all(
  rows: Sequence[_Row], add_fn: _AddFn, chunk_rows: int
) -> Iterator[dict[str, Any]]:
  """Yields each row with what `add_fn` adds, in order."""
  with tqdm.tqdm(total=len(rows), desc="infer", unit=" inputs") as bar:
    for start in range(0, len(rows), chunk_rows):
      part = [dict(row.fields) for row in rows[start : start + chunk_rows]]
      add_fn(part, start)
      yield from part
      bar.update(len(part))


def _make_predictor(
  fields: Mapping[str, TaskInfo],
  evaluator: Evaluator,
  loaded: run_loading.LoadedRun,
) -> _AddFn:
  """Returns what adds a predicted text for each field."""

  def add_predictions(part, first_row):
    for field, info in fields.items():
      examples = [_make_example(row["input"], "", loaded, info) for row in part]
      predicted = evaluator.predict_samples(
        loaded.params, examples, info, first_row
      )
      for row, samples in zip(part, predicted, strict=True):
        texts = [sample.text for sample in samples]
        if info.kind == "joint":
          texts = [
            task_kinds.extract_label(text, info.target) for text in texts
          ]
        _add_samples(row, field, texts)
        if field == _PREDICTION and info.metric == "equation":
          _add_samples(row, _VALUE, [_evaluate(text) for text in texts])
        _add_samples(
          row, _REASONS[field], [sample.finish_reason for sample in samples]
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


def _check_target(row: _Row, loaded: run_loading.LoadedRun) -> _Row:
  """Returns the row.

  Raises:
    UserError: its target is longer than the model's row.
  """
  limit = loaded.feature_lengths["targets"]
  num_tokens = len(_encode_target(row.fields["target"], loaded))
  if num_tokens > limit:
    raise UserError(
      f"{row.where}: the target has {num_tokens} tokens with EOS; the run in"
      f" {loaded.model_dir} was trained with {limit} at most, and part of a"
      " target has no score. Shorten it or leave it out."
    )
  return row


def _make_scorer(
  info: TaskInfo, evaluator: Evaluator, loaded: run_loading.LoadedRun
) -> _AddFn:
  """Returns what adds the score of each row's target."""

  def add_scores(part, first_row):
    del first_row
    examples = [
      _make_example(row["input"], row["target"], loaded, info) for row in part
    ]
    scores = evaluator.compute_log_likelihoods(loaded.params, examples, info)
    for row, score, count in zip(part, *scores, strict=True):
      row |= {_LOG_LIKELIHOOD: float(score), _NUM_TOKENS: int(count)}

  return add_scores


def _find_task(tasks: Mapping[str, TaskInfo], kind: str) -> TaskInfo | None:
  return next((info for info in tasks.values() if info.kind == kind), None)


def _make_example(source: str, target: str, loaded, info) -> Example:
  return Example(
    id="",
    inputs=_encode_input(source, loaded, info),
    targets=_encode_target(target, loaded),
    inputs_text=source,
    targets_text=target,
  )


def _encode_input(text: str, loaded, info) -> np.ndarray:
  vocabulary = loaded.vocabulary
  ids = vocabulary.encode_inputs(info.inputs_prefix + text)
  return np.asarray([*ids, vocabulary.eos_id], np.int32)


def _encode_target(text: str, loaded) -> np.ndarray:
  vocabulary = loaded.vocabulary
  return np.asarray([*vocabulary.encode(text), vocabulary.eos_id], np.int32)


def _warn_of_trimmed(rows, fields, loaded) -> None:
  limit = loaded.feature_lengths["inputs"]
  for info in fields.values():
    num_trimmed = sum(
      len(_encode_input(row.fields["input"], loaded, info)) > limit
      for row in rows
    )
    if num_trimmed:
      _log.warning(
        "%d of %d inputs have more than the %d tokens the run was trained with,"
        " with %r before them and EOS behind; they are trimmed.",
        num_trimmed,
        len(rows),
        limit,
        info.inputs_prefix,
      )


def _warn_of_unknown(rows, mode, loaded) -> None:
  for name in ("input", "target") if mode == _SCORE else ("input",):
    found = [loaded.vocabulary.find_unknown(row.fields[name]) for row in rows]
    pieces = collections.Counter(itertools.chain(*found))
    if pieces:
      _log.warning(
        "%d of %d %ss hold what the run's vocabulary cannot spell, which is"
        " unknown to the student: %s.",
        sum(map(bool, found)),
        len(rows),
        name,
        ", ".join(f"{piece!r} ({n})" for piece, n in pieces.most_common(5)),
      )


def _read_rows(settings: InferRun) -> tuple[list[_Row], list[str]]:
  """Reads JSONL or text; which one, the first line that is not blank tells.

  Returns:
    The inputs, and what is wrong with each line that was left out.
  """
  path = settings.input_path
  numbered, problems = _sift(
    lambda line: _decode_line(path, *line), _read_lines(path), settings
  )
  numbered = [(number, line) for number, line in numbered if line.strip()]
  if not numbered:
    return [], problems
  if numbered[0][1].lstrip().startswith("{"):
    rows, unread = _sift(
      lambda line: _read_json(settings, *line), numbered, settings
    )
    return rows, problems + unread
  if settings.mode == _SCORE:
    raise UserError(
      f"INFER_MODE is {_SCORE!r}, and INPUT_PATH {path} is plain text. Give"
      " JSONL with the fields 'input' and 'target'."
    )
  return [
    _Row(f"{path}:{number}", {"input": line}) for number, line in numbered
  ], problems


def _sift(
  read_fn: Callable[[Any], Any], items: Iterable[Any], settings: InferRun
) -> tuple[list[Any], list[str]]:
  """Returns what `read_fn` makes of each item, and its mistakes.

  Raises:
    UserError: the first mistake, unless bad lines are to be skipped.
  """
  kept, problems = [], []
  for item in items:
    try:
      kept.append(read_fn(item))
    except UserError as error:
      if not settings.skips_bad_lines:
        raise
      problems.append(str(error))
  return kept, problems


def _tell_skipped(
  settings: InferRun, rows: Sequence[_Row], problems: Sequence[str]
) -> None:
  """Names the first lines that are left out; refuses where none is left.

  Raises:
    UserError: there are only bad lines.
  """
  if not problems:
    return
  if not rows:
    raise UserError(
      f"INPUT_PATH {settings.input_path} has nothing but bad lines,"
      f" {len(problems)} of them. The first: {problems[0]}"
    )
  shown = [*problems[:_MAX_SHOWN]]
  if len(problems) > _MAX_SHOWN:
    shown.append(f"and {len(problems) - _MAX_SHOWN} more")
  _log.warning(
    "%d bad lines are skipped:\n  %s", len(problems), "\n  ".join(shown)
  )


def _read_json(settings: InferRun, number: int, line: str) -> _Row:
  if settings.mode == _SCORE:
    needed, added = ("input", "target"), (_LOG_LIKELIHOOD, _NUM_TOKENS)
  else:
    needed, added = ("input",), _PREDICTED
    if settings.decoding.num_samples > 1:
      added += tuple(map(_pluralize, _PREDICTED))
  where = f"{settings.input_path}:{number}"
  try:
    fields = json.loads(line)
    # JSON's \u escapes can spell half a character, which cannot be written.
    json.dumps(fields, ensure_ascii=False).encode("utf-8")
  # RecursionError: brackets nested by the thousand.
  except (ValueError, RecursionError) as error:
    raise UserError(f"{where}: not a JSON object: {error}") from error
  for name in needed:
    if not isinstance(fields, dict) or not isinstance(fields.get(name), str):
      raise UserError(f"{where}: the field '{name}' is missing, or no text.")
  for name in added:
    if name in fields:
      raise UserError(
        f"{where}: there is a field '{name}' already, which what is found"
        " would replace. Rename it."
      )
  return _Row(where, fields)


def _decode_line(path: str, number: int, line: bytes) -> tuple[int, str]:
  try:
    return number, line.decode("utf-8-sig" if number == 1 else "utf-8")
  except UnicodeDecodeError as error:
    raise UserError(
      f"INPUT_PATH {path}:{number} is not UTF-8: {error}"
    ) from error


def _read_lines(path: str) -> Iterator[tuple[int, bytes]]:
  """Yields the lines with their numbers."""
  if path == _STANDARD_STREAM:
    content = sys.stdin.buffer.read()
  else:
    try:
      content = pathlib.Path(path).expanduser().read_bytes()
    except OSError as error:
      raise UserError(f"INPUT_PATH cannot be read: {error}") from error
  for number, line in enumerate(content.split(b"\n"), start=1):
    yield number, line.rstrip(b"\r")
