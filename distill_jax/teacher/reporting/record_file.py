"""Records out of the journal, with their counts, and the counts in words.

One record is in memory at a time, unless filters, which compare records with
each other, need all of them.
"""

import dataclasses
import hashlib
import json
import os
import pathlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from distill_jax.data import records
from distill_jax.data.records import Record
from distill_jax.errors import UserError
from distill_jax.teacher.asking import journal, ledger
from distill_jax.teacher.filtering.filters import (
  FilterConfig,
  FilterCount,
  apply_filters,
)
from distill_jax.teacher.prompting import variants
from distill_jax.teacher.prompting.variants import Variant
from distill_jax.teacher.reporting import comparison
from distill_jax.teacher.reporting.tally import Tally


def write_records(
  path: pathlib.Path,
  questions: Iterable[Record],
  variant: Variant,
  answers: journal.Answers,
  filter_config: FilterConfig,
  is_partial_good: bool,
  min_outcomes: int = 0,
) -> dict[str, Any]:
  """Writes the records, if all are there or need not be.

  Args:
    path: the file; replaced in one step, or left as it is.
    questions: in the order of the records.
    variant: how they were asked, and are read.
    answers: the journals.
    filter_config: what is kept; `answer_form` and `labels` are the variant's.
    is_partial_good: write those that have an outcome where some have none.
    min_outcomes: of questions, fewer of which replace nothing.

  Returns:
    What `Tally.summarize` says; `num_records`, None where nothing was written;
    `filters`, the counts before and after each.

  Raises:
    UserError: the file cannot be written or a journal not be read; or there are
      fewer outcomes than `min_outcomes`.
  """
  tally = Tally(variant, None)
  counts: list[FilterCount] = []
  num_records: int | None = 0

  def make_records() -> Iterator[Record]:
    for question in questions:
      outcome = variants.find_outcome(variant, question, answers)
      tally.add(outcome)
      if outcome.record is not None:
        yield outcome.record
    if tally.num_open and not is_partial_good:
      raise _IncompleteError
    num_outcomes = tally.num_questions - tally.num_open
    if num_outcomes < min_outcomes:
      raise UserError(
        f"{path} has the outcomes of {min_outcomes} questions; of these, asked"
        f" in this way, the journal has {num_outcomes}. Give the settings and"
        " INPUT_PATH that they were asked with, another OUTPUT_PATH, or"
        " --overwrite to replace the records."
      )

  def filter_records() -> Iterator[Record]:
    nonlocal counts, num_records
    made: Iterable[Record] = make_records()
    # Filters compare records with each other and need all in memory.
    if _is_any_on(filter_config):
      config = dataclasses.replace(
        filter_config,
        answer_form=variant.reading.answer_form,
        labels=variant.reading.labels,
      )
      made, counts = apply_filters(list(made), config)
    for num_records, record in enumerate(made, start=1):  # noqa: B007
      yield record

  try:
    records.write_records(path, filter_records())
  except _IncompleteError:
    num_records = None
  except OSError as error:
    raise UserError(f"{path} cannot be written: {error.strerror}.") from error
  return {
    **tally.summarize(),
    "num_records": num_records,
    "filters": [dataclasses.asdict(count) for count in counts],
  }


def identify(
  variant: Variant,
  input_path: str,
  filter_config: FilterConfig,
  input_sha256: str | None = None,
) -> dict[str, Any]:
  """Returns what decides the records, to be compared by a later run.

  Args:
    variant: how questions are asked, and answers read.
    input_path: where the questions are.
    filter_config: what is kept.
    input_sha256: of the questions, so that a copy of their file is known for
      the same; None: it is known by its path alone.

  Returns:
    JSON, as a file gives it back.
  """
  template = hashlib.sha256(repr(variant.template).encode()).hexdigest()
  identity = variant.describe() | {
    "prompt_sha256": template,
    "input_path": input_path,
    "filters": dataclasses.asdict(filter_config),
  }
  if input_sha256 is not None:
    identity["input_sha256"] = input_sha256
  if variant.parse not in (variants.TOLERANT, variants.STRICT):
    reading = hashlib.sha256(repr(variant.reading).encode()).hexdigest()
    identity["parse_sha256"] = reading
  # Lists for tuples.
  return json.loads(json.dumps(identity))


def describe(
  summary: Mapping[str, Any], records_path: str | os.PathLike
) -> str:
  """Returns what `write_records` returned in a few lines.

  Args:
    summary: it, with `paid`, what `ledger.summarize` returned.
    records_path: where the records are.

  Returns:
    Lines for the screen.
  """
  counts = [f"{n} {status}" for status, n in summary["statuses"].items()]
  for name in ("without_answer", "open"):
    if summary[f"num_{name}"]:
      counts.append(f"{summary[f'num_{name}']} {name.replace('_', ' ')}")
  lines = [f"{summary['num_questions']} questions: {', '.join(counts)}"]
  if summary["accuracy"] is not None:
    accuracy = comparison.format_accuracy(summary)
    lines.append(f"accuracy {accuracy} of {summary['num_gold']} with a label")
  if (warning := comparison.describe_unusable_gold(summary)) is not None:
    lines.append(warning)
  if summary["num_ties"]:
    lines.append(f"votes that were a tie (meta.is_tie): {summary['num_ties']}")
  if summary["failures"]:
    failures = (f"{n} {kind}" for kind, n in summary["failures"].items())
    lines.append(f"requests that failed for good: {', '.join(failures)}")
  for count in summary["filters"]:
    lines.append(
      f"filter {count['name']}: {count['before']} -> {count['after']}"
    )
  if summary["num_records"] is None:
    lines.append("no records are written before every question has an outcome")
  else:
    lines.append(f"{summary['num_records']} records in {records_path}")
  return "\n".join(lines + ledger.describe(summary["paid"]))


def _is_any_on(config: FilterConfig) -> bool:
  """Tells whether anything but the way to filter is set."""
  default = FilterConfig()
  return (
    dataclasses.replace(
      config,
      answer_form=default.answer_form,
      labels=default.labels,
      balance_by=default.balance_by,
      seed=default.seed,
    )
    != default
  )


class _IncompleteError(Exception):
  """Some question has no outcome."""
