"""`--run_mode=infer`: predictions for any text, in the order it came.

Layer 4; no TensorFlow.
"""

import contextlib
import dataclasses
import json
import logging
import os
import pathlib
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import tqdm

from distill_jax import run_loading
from distill_jax.data import task_kinds
from distill_jax.data.token_cache import Example, TaskInfo
from distill_jax.errors import UserError
from distill_jax.evaluation.evaluator import Evaluator
from distill_jax.model.config import T5Config

_log = logging.getLogger(__name__)

_STANDARD_STREAM = "-"
_PREDICTION, _RATIONALE = "prediction", "predicted_rationale"


@dataclasses.dataclass(frozen=True)
class InferRun:
  """Settings of `--run_mode=infer`.

  Attributes:
    input_path: JSONL with a field `input` (other fields are kept), or text
      with one input a line; "-" is standard input. Blank lines are skipped,
      so number the inputs of a text, in JSONL, where its line numbers matter.
    output_path: predictions as JSONL; "-" is standard output.
    model_dir: folder of a training run.
    checkpoint_path: a checkpoint; None: the run's best on validation.
    with_rationale: generate the rationale too, in a second decoding.
    model_config: None: the run's.
    mesh: devices along each axis.
    batch_rows: rows a batch.
    num_beams: 1 decodes greedily.
  """

  input_path: str
  output_path: str
  model_dir: str | None = None
  checkpoint_path: str | None = None
  with_rationale: bool = False
  model_config: T5Config | None = None
  mesh: Mapping[str, int] = dataclasses.field(
    default_factory=lambda: {"data": -1}
  )
  batch_rows: int = 32
  num_beams: int = 1

  def __post_init__(self):
    for macro, value in (
      ("BATCH_SIZE", self.batch_rows),
      ("NUM_BEAMS", self.num_beams),
    ):
      if not isinstance(value, int) or value < 1:
        raise UserError(
          f"{macro} is {value!r}; it must be a whole number >= 1."
        )


def run(
  settings: InferRun, operative_config: str = "", overwrite: bool = False
) -> int:
  """Predicts a label, and a rationale if asked, for each input.

  Args:
    settings: see `InferRun`.
    operative_config: unused; every run mode is called alike.
    overwrite: replace the output file.

  Returns:
    The number of inputs.

  Raises:
    UserError: no checkpoint, an input line cannot be read, or the output file
      exists or cannot be written.
  """
  del operative_config
  to_stdout = settings.output_path == _STANDARD_STREAM
  output = pathlib.Path(settings.output_path).expanduser().absolute()
  if not to_stdout and output.is_dir():
    raise UserError(f"OUTPUT_PATH {output} is a folder. Give a file's path.")
  if not to_stdout and output.exists() and not overwrite:
    raise UserError(f"{output} exists. Add --overwrite to replace it.")
  rows = list(_read_inputs(settings.input_path))
  writing = output.with_name(output.name + ".writing")
  if not to_stdout:
    # Found out before the work.
    with _explain_unwritable(output):
      output.parent.mkdir(parents=True, exist_ok=True)
      writing.touch()
      writing.unlink()
  path = run_loading.choose_path(settings.model_dir, settings.checkpoint_path)
  loaded = run_loading.load_run(path, settings.mesh, settings.model_config)
  evaluator = Evaluator(
    loaded.model,
    loaded.mesh,
    loaded.vocabulary,
    loaded.feature_lengths,
    settings.batch_rows,
    settings.num_beams,
  )
  tasks = {
    name: TaskInfo(**info)
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
  started = time.perf_counter()
  predicted = _predict_all(
    rows, fields, evaluator, loaded, settings.batch_rows * 8
  )
  lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in predicted)
  if to_stdout:
    sys.stdout.writelines(lines)
  else:
    with _explain_unwritable(output):
      with open(writing, "w", encoding="utf-8") as file:
        file.writelines(lines)
      os.replace(writing, output)
  seconds = time.perf_counter() - started
  _log.info("%d inputs, %.1f a second", len(rows), len(rows) / seconds)
  return len(rows)


@contextlib.contextmanager
def _explain_unwritable(output: pathlib.Path) -> Iterator[None]:
  try:
    yield
  except OSError as error:
    raise UserError(f"OUTPUT_PATH cannot be written: {error}") from error


def _predict_all(
  rows: Sequence[Mapping[str, Any]],
  fields: Mapping[str, TaskInfo],
  evaluator: Evaluator,
  loaded: run_loading.LoadedRun,
  chunk_rows: int,
) -> Iterator[dict[str, Any]]:
  """Yields each row with a predicted text for each field, in order."""
  with tqdm.tqdm(total=len(rows), desc="infer", unit=" inputs") as bar:
    for start in range(0, len(rows), chunk_rows):
      part = [dict(row) for row in rows[start : start + chunk_rows]]
      for field, info in fields.items():
        texts = _predict(evaluator, loaded, part, info)
        for row, text in zip(part, texts, strict=True):
          row[field] = (
            task_kinds.extract_label(text) if info.kind == "joint" else text
          )
      yield from part
      bar.update(len(part))


def _find_task(tasks: Mapping[str, TaskInfo], kind: str) -> TaskInfo | None:
  return next((info for info in tasks.values() if info.kind == kind), None)


def _predict(evaluator, loaded, rows, info) -> list[str]:
  vocabulary = loaded.vocabulary
  examples = [
    Example(
      id="",
      inputs=np.asarray(
        [
          *vocabulary.encode_inputs(info.inputs_prefix + row["input"]),
          vocabulary.eos_id,
        ],
        np.int32,
      ),
      targets=np.asarray([vocabulary.eos_id], np.int32),
      inputs_text=row["input"],
      targets_text="",
    )
    for row in rows
  ]
  return evaluator.predict(loaded.params, examples, info)


def _read_inputs(path: str) -> Iterator[dict[str, Any]]:
  """Reads JSONL or text; which one, the first line that is not blank tells."""
  if path == _STANDARD_STREAM:
    content = sys.stdin.buffer.read()
  else:
    try:
      content = pathlib.Path(path).expanduser().read_bytes()
    except OSError as error:
      raise UserError(f"INPUT_PATH cannot be read: {error}") from error
  try:
    lines = content.decode("utf-8-sig").split("\n")
  except UnicodeDecodeError as error:
    raise UserError(f"INPUT_PATH {path} is not UTF-8: {error}") from error
  numbered = [
    (number, line.rstrip("\r"))
    for number, line in enumerate(lines, start=1)
    if line.strip()
  ]
  if not numbered:
    raise UserError(f"INPUT_PATH {path} has no lines.")
  if not numbered[0][1].lstrip().startswith("{"):
    for _, line in numbered:
      yield {"input": line}
    return
  for number, line in numbered:
    try:
      row = json.loads(line)
      # JSON's \u escapes can spell half a character, which cannot be written.
      json.dumps(row, ensure_ascii=False).encode("utf-8")
    # RecursionError: brackets nested by the thousand.
    except (ValueError, RecursionError) as error:
      raise UserError(f"{path}:{number}: not a JSON object: {error}") from error
    if not isinstance(row, dict) or not isinstance(row.get("input"), str):
      raise UserError(
        f"{path}:{number}: the field 'input' is missing, or no text."
      )
    for field in (_PREDICTION, _RATIONALE):
      if field in row:
        raise UserError(
          f"{path}:{number}: there is a field '{field}' already, which the"
          " prediction would replace. Rename it."
        )
    yield row
