"""The data sets as the paper's authors released them, turned into records.

Owns the release's file layout, `<name>/<name>_{train,valid,test}.json` (JSON
lines) with the teacher's raw outputs in `<name>/llm/<split>_CoT_<k>.json`, and
how its rows become input and label. Subsampling and validation splits are not
its business: `datasets` makes them.

Outputs pair with rows by position alone, so every count is checked.
"""

import dataclasses
import json
import os
import pathlib
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from distill_jax.answers.official_parsing import parse_output
from distill_jax.data.records import Record, read_json_lines
from distill_jax.errors import UserError

TEACHER = "PaLM 540B"
NLI_LABELS = ("entailment", "neutral", "contradiction")


class Row(NamedTuple):
  """A gold example, formatted as the authors' code formats it."""

  input: str
  label: str
  meta: dict[str, Any]


def format_nli_row(
  premise: str, hypothesis: str, label_index: int, source_id: str | None = None
) -> Row:
  """Makes the row of a premise and a hypothesis.

  Args:
    premise: the premise.
    hypothesis: the hypothesis.
    label_index: 0 entailment, 1 neutral, 2 contradiction.
    source_id: the example's id where it was published, if it has one.

  Returns:
    The row. Its input holds the text `</s>`, which the authors' tokenizer
    turns into an EOS id in the middle of the encoder's input.

  Source: authors' run.py.
  """
  meta = {} if source_id is None else {"source_id": source_id}
  return Row(f"{premise}</s>{hypothesis}", NLI_LABELS[label_index], meta)


class _Fields:
  """The fields of one JSON object, checked as they are taken."""

  def __init__(self, fields: Mapping[str, Any], where: str):
    self._fields = fields
    self._where = where

  def get_text(self, name: str) -> str:
    value = self._fields.get(name)
    if not isinstance(value, str):
      raise self.make_error(name, "is not text")
    return value

  def get_texts(self, name: str) -> list[str]:
    value = self._fields.get(name)
    if not isinstance(value, list) or not all(
      isinstance(text, str) for text in value
    ):
      raise self.make_error(name, "is not a list of texts")
    return value

  def get_label_index(self, name: str) -> int:
    value = self._fields.get(name)
    # `type`, because isinstance would take true for 1.
    if type(value) is not int or not 0 <= value < len(NLI_LABELS):
      raise self.make_error(name, "is not 0, 1 or 2")
    return value

  def make_error(self, name: str, problem: str) -> UserError:
    if name not in self._fields:
      problem = "missing"
    else:
      problem = f"{self._fields[name]!r} {problem}"
    return UserError(f"{self._where}:{name}: {problem}.")


def _format_cqa(fields: _Fields) -> Row:
  choices = fields.get_texts("choices")
  label = fields.get_text("answer")
  if label not in choices:
    raise fields.make_error("answer", "is none of the choices")
  lines = [fields.get_text("question"), "Answer Choices:"]
  lines += [
    f"({chr(ord('a') + index)}) {choice}"
    for index, choice in enumerate(choices)
  ]
  meta = {"source_id": fields.get_text("id"), "choices": choices}
  return Row("\n".join(lines), label, meta)


def _format_svamp(fields: _Fields) -> Row:
  return Row(fields.get_text("input"), fields.get_text("label"), {})


def _format_asdiv(fields: _Fields) -> Row:
  text = f"{fields.get_text('Body')}\n{fields.get_text('Question')}"
  # A number, not an equation: "7 (apples)" gives "7".
  label = fields.get_text("Answer").partition(" ")[0]
  return Row(text, label, {"formula": fields.get_text("Formula")})


def _format_anli1(fields: _Fields) -> Row:
  return _format_nli(fields, source_id=fields.get_text("uid"))


def _format_esnli(fields: _Fields) -> Row:
  return _format_nli(fields, source_id=None)


def _format_nli(fields: _Fields, source_id: str | None) -> Row:
  return format_nli_row(
    fields.get_text("premise"),
    fields.get_text("hypothesis"),
    fields.get_label_index("label"),
    source_id,
  )


@dataclasses.dataclass(frozen=True)
class _Layout:
  """One data set of the release.

  Attributes:
    format_fn: makes a row of one line of its files.
    file_splits: our name of each split it has -> the name in its files.
  """

  format_fn: Callable[[_Fields], Row]
  file_splits: Mapping[str, str]


_TRAIN_TEST = {"train": "train", "test": "test"}
_TRAIN_VALID_TEST = {"train": "train", "validation": "valid", "test": "test"}
_LAYOUTS = {
  "svamp": _Layout(_format_svamp, _TRAIN_TEST),
  "cqa": _Layout(_format_cqa, _TRAIN_TEST),
  "anli1": _Layout(_format_anli1, _TRAIN_VALID_TEST),
  "esnli": _Layout(_format_esnli, _TRAIN_VALID_TEST),
  "asdiv": _Layout(_format_asdiv, {"train": "train"}),
}


def read_split(
  data_dir: str | os.PathLike | None,
  dataset: str,
  split: str,
  teacher_parse: str,
) -> list[Record]:
  """Reads one split as released, in its order.

  Args:
    data_dir: the folder that holds one folder for each data set.
    dataset: "svamp", "cqa", "anli1", "esnli" or "asdiv".
    split: "train", "validation" or "test".
    teacher_parse: how the teacher's outputs are read, "strict" or "tolerant".

  Returns:
    The records. Where the release has no outputs for the split, rationale,
    teacher's label, teacher and status are None.

  Raises:
    UserError: a file is missing or malformed, the data set has no such split,
      or rows and outputs differ in number.
  """
  return combine(
    dataset,
    split,
    _read_rows(data_dir, dataset, split),
    read_teacher_outputs(data_dir, dataset, split),
    teacher_parse,
  )


def read_teacher_outputs(
  data_dir: str | os.PathLike | None, dataset: str, split: str
) -> list[str]:
  """Reads the teacher's raw outputs of one split.

  Args:
    data_dir: as for `read_split`.
    dataset: as above.
    split: as above.

  Returns:
    The outputs in the order of the split's rows; empty where there are none.

  Raises:
    UserError: the data set's folder is missing, it has no such split, one of
      the numbered files is missing, or a file is not a JSON list of texts.
  """
  outputs = []
  for path in _find_output_files(data_dir, dataset, split):
    try:
      part = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
      raise UserError(f"{path} cannot be read ({error}).") from error
    if not isinstance(part, list) or not all(
      isinstance(output, str) for output in part
    ):
      raise UserError(f"{path} is not a JSON list of texts.")
    outputs += part
  return outputs


def combine(
  dataset: str,
  split: str,
  rows: Sequence[Row],
  outputs: Sequence[str],
  teacher_parse: str,
) -> list[Record]:
  """Pairs gold rows with the teacher's outputs, by position.

  Args:
    dataset: as for `read_split`.
    split: as above; rows and outputs are of this split.
    rows: the gold examples.
    outputs: one for each row, or none at all.
    teacher_parse: as above.

  Returns:
    The records, with ids such as "cqa-train-0".

  Raises:
    UserError: rows and outputs differ in number.
  """
  if outputs and len(outputs) != len(rows):
    raise UserError(
      f"{dataset} {split}: {len(rows)} rows but {len(outputs)} teacher"
      " outputs. They pair by position, so the numbers must be equal: complete"
      f" {dataset}/llm or the rows."
    )
  records = []
  for index, row in enumerate(rows):
    record = Record(
      id=f"{dataset}-{split}-{index}",
      input=row.input,
      label=row.label,
      meta=row.meta,
    )
    if outputs:
      parsed = parse_output(
        outputs[index], dataset, teacher_parse, row.meta.get("choices")
      )
      record = dataclasses.replace(
        record,
        rationale=parsed.rationale,
        teacher_label=parsed.label,
        teacher=TEACHER,
        status=parsed.status,
      )
    records.append(record)
  return records


def has_rows(
  data_dir: str | os.PathLike | None, dataset: str, split: str
) -> bool:
  """Tells whether the file with a split's gold rows is there.

  Args:
    data_dir: as for `read_split`.
    dataset: as above.
    split: as above.

  Returns:
    True where the file exists. The NLI train files are larger than most copies
    of the release care to carry.

  Raises:
    UserError: the data set's folder is missing, or it has no such split.
  """
  return _get_rows_path(data_dir, dataset, split).is_file()


def source_files(
  data_dir: str | os.PathLike | None, dataset: str
) -> list[pathlib.Path]:
  """Lists every file that the splits of a data set are read from.

  Args:
    data_dir: as for `read_split`.
    dataset: as above.

  Returns:
    The files that exist, in an order that depends on their names only.

  Raises:
    UserError: the data set's folder or one of its numbered files is missing.
  """
  paths = []
  for split in _LAYOUTS[dataset].file_splits:
    rows_path = _get_rows_path(data_dir, dataset, split)
    paths += [rows_path] if rows_path.is_file() else []
    paths += _find_output_files(data_dir, dataset, split)
  return paths


def _read_rows(
  data_dir: str | os.PathLike | None, dataset: str, split: str
) -> list[Row]:
  path = _get_rows_path(data_dir, dataset, split)
  if not path.is_file():
    raise UserError(
      f"{path} is missing. {_name_the_folder(dataset)} See that it holds the"
      " whole release."
    )
  format_fn = _LAYOUTS[dataset].format_fn
  return [
    format_fn(_Fields(fields, where)) for where, fields in read_json_lines(path)
  ]


def _get_rows_path(
  data_dir: str | os.PathLike | None, dataset: str, split: str
) -> pathlib.Path:
  folder = _get_folder(data_dir, dataset)
  return folder / f"{dataset}_{_get_file_split(dataset, split)}.json"


def _find_output_files(
  data_dir: str | os.PathLike | None, dataset: str, split: str
) -> list[pathlib.Path]:
  """Returns the files of the teacher's outputs in the order of their rows."""
  folder = _get_folder(data_dir, dataset) / "llm"
  file_split = _get_file_split(dataset, split)
  pattern = re.compile(rf"{file_split}_CoT_([0-9]+)\.json")
  # By number: sorted as text, 10 would come before 2.
  paths = {
    int(match[1]): path
    for path in folder.glob(f"{file_split}_CoT_*.json")
    if (match := pattern.fullmatch(path.name))
  }
  for index in range(len(paths)):
    if index not in paths:
      raise UserError(
        f"{folder / f'{file_split}_CoT_{index}.json'} is missing, though"
        " files with higher numbers are there. Outputs pair with rows by"
        " position, so none may be left out."
      )
  return [paths[index] for index in sorted(paths)]


def _get_file_split(dataset: str, split: str) -> str:
  file_splits = _LAYOUTS[dataset].file_splits
  if split not in file_splits:
    raise UserError(
      f"{dataset} has no {split!r} split as released, only"
      f" {', '.join(file_splits)}."
    )
  return file_splits[split]


def _get_folder(
  data_dir: str | os.PathLike | None, dataset: str
) -> pathlib.Path:
  if data_dir is None:
    raise UserError(
      f"{dataset} is read from the official release, and where that lies was"
      f" not given. {_name_the_folder(dataset)}"
    )
  folder = pathlib.Path(data_dir) / dataset
  if not folder.is_dir():
    raise UserError(f"{folder} is no folder. {_name_the_folder(dataset)}")
  return folder


def _name_the_folder(dataset: str) -> str:
  return (
    "DATA_DIR (--gin.DATA_DIR) or the environment variable"
    " DISTILL_JAX_DATA_DIR names the folder that holds the unpacked"
    f" datasets.zip of the authors' repository, with {dataset}/ in it."
  )
