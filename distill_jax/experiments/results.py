"""The result of a training run, and the files that hold results.

Knows nothing of training, plots or pages: a sweep writes these files,
`aggregation` and reports read them.
"""

import dataclasses
import json
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from distill_jax.errors import UserError
from distill_jax.files import atomic

# Metric of a run that went on where it was stopped; its `seconds` are those of
# the last part alone.
RESUMED = "was_resumed"


@dataclasses.dataclass(frozen=True)
class RunResult:
  """The test score of one training run.

  Attributes:
    arm: name of what was trained, such as "step by step" or "finetuning".
    num_train_examples: training examples the run could use.
    size: training examples that were asked for, by which runs are taken
      together: a share of a data set only comes near it. 0, as in results of
      earlier versions, becomes `num_train_examples`.
    seed: the run's seed.
    num_correct: test examples answered right.
    num_examples: test examples.
    correct_by_id: id of a test example -> whether it was answered right; empty
      when not kept, else one entry an example.
    seconds: wall-clock time of the run.
    metrics: other numbers of the run, JSON-serialisable. Tables show, where
      they are there, "validation_accuracy", "validation_rationale_loss",
      "best_step", "last_step", "tokens" (of inputs and targets trained on,
      padding not counted), "rationale_accuracy" (share of right rationales
      among the test examples) and "teacher_accuracy" (share of the training
      examples whose teacher's label is right).
  """

  arm: str
  num_train_examples: int
  seed: int
  num_correct: int
  num_examples: int
  correct_by_id: Mapping[str, bool]
  seconds: float
  metrics: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  size: int = 0

  def __post_init__(self):
    if not self.size:
      object.__setattr__(self, "size", self.num_train_examples)
    if self.num_train_examples < 1:
      raise ValueError(f"num_train_examples is {self.num_train_examples}")
    if not 0 <= self.num_correct <= self.num_examples or not self.num_examples:
      raise ValueError(f"{self.num_correct} of {self.num_examples} correct")
    if self.correct_by_id and (
      len(self.correct_by_id) != self.num_examples
      or sum(self.correct_by_id.values()) != self.num_correct
    ):
      raise ValueError(
        f"correct_by_id says {sum(self.correct_by_id.values())} of"
        f" {len(self.correct_by_id)}, the counts say {self.num_correct} of"
        f" {self.num_examples}"
      )


@dataclasses.dataclass(frozen=True)
class RunFailure:
  """A run of a sweep that gave no result.

  Attributes:
    arm: name of what was trained.
    size: training examples asked for.
    seed: the run's seed.
    message: why it failed.
  """

  arm: str
  size: int
  seed: int
  message: str


def write_results(
  path: str | os.PathLike[str], rows: Sequence[RunResult]
) -> None:
  """Writes results as one JSON list, which `read_results` reads.

  Args:
    path: the file; replaced as a whole or not at all. Its folder is made.
    rows: the results.
  """
  text = json.dumps([dataclasses.asdict(row) for row in rows], indent=1)
  pathlib.Path(path).parent.mkdir(parents=True, exist_ok=True)
  atomic.write_text(path, text)


def read_results(path: str | os.PathLike[str]) -> list[RunResult]:
  """Reads what `write_results` wrote.

  Args:
    path: the file.

  Returns:
    The results, in the order of the file.

  Raises:
    UserError: the file is absent, no JSON list, or an entry is no result.
  """
  try:
    entries = json.loads(pathlib.Path(path).read_text(encoding="utf-8"))
  except FileNotFoundError:
    raise UserError(f"There are no results at {path}; run a sweep.") from None
  except ValueError as error:
    raise UserError(f"{path} is not a JSON file: {error}.") from None
  if not isinstance(entries, list):
    raise UserError(f"{path} is not a list of results.")
  rows = []
  for index, entry in enumerate(entries):
    try:
      rows.append(parse_result(entry))
    except (TypeError, ValueError, AttributeError) as error:
      raise UserError(
        f"{path}: entry {index} is not a result: {error}."
      ) from None
  return rows


def parse_result(entry: Mapping[str, Any]) -> RunResult:
  """Returns a result from its JSON object.

  Args:
    entry: the fields of `RunResult`; files of earlier versions call the arm
      "method".

  Raises:
    TypeError, ValueError, AttributeError: the entry is no result.
  """
  fields = dict(entry)
  if "arm" not in fields and "method" in fields:
    fields["arm"] = fields.pop("method")
  return RunResult(**fields)
