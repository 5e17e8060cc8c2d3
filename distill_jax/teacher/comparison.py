"""Variants of labelling side by side: on which questions, and as a table.

Layer 2; imports errors, data.records and, of its own folder, variants. Knows
the numbers of a tally by their names.
"""

import dataclasses
import hashlib
import heapq
import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from distill_jax.data.records import Record
from distill_jax.errors import UserError
from distill_jax.teacher.variants import Variant

_HEADINGS = (
  "prompt",
  "teacher",
  "temperature",
  "samples",
  "accuracy (95% interval)",
  "parsed",
  "tokens in + out",
  "cost",
  "seconds p50 / p95",
  "answered",
)


@dataclasses.dataclass(frozen=True)
class ComparisonConfig:
  """What `--evaluate` compares.

  Attributes:
    prompts: names or paths of templates; None: PROMPT alone.
    models: teachers; None: those of TEACHER_MODEL, each by itself.
    temperatures: None: TEMPERATURE alone.
    num_examples: labelled questions that each variant answers.
    seed: of the draw of these questions; None: the file's first.
  """

  prompts: Sequence[str] | None = None
  models: Sequence[str] | None = None
  temperatures: Sequence[float] | None = None
  num_examples: int = 100
  seed: int | None = None

  def __post_init__(self):
    for macro, value in (
      ("EVALUATE_PROMPTS", self.prompts),
      ("EVALUATE_TEACHERS", self.models),
      ("EVALUATE_TEMPERATURES", self.temperatures),
    ):
      if value is not None and (
        not isinstance(value, list | tuple) or not value
      ):
        raise UserError(f"{macro} is {value!r}; it is a list, or None.")
    if not isinstance(self.num_examples, int) or self.num_examples < 1:
      raise UserError(
        f"EVALUATE_EXAMPLES is {self.num_examples!r}; it must be a whole number"
        " >= 1."
      )


def choose_labelled(
  questions: Iterable[Record], num_examples: int, seed: int | None
) -> list[Record]:
  """Chooses the questions that variants are compared on.

  Args:
    questions: read to their end, so that all of them are checked.
    num_examples: how many; fewer where fewer have a label.
    seed: of the draw, which goes by their ids and not by their order; None: the
      first ones.

  Returns:
    Questions with a label.
  """
  labelled = (question for question in questions if question.label is not None)
  if seed is not None:
    return heapq.nsmallest(
      num_examples,
      labelled,
      key=lambda question: hashlib.sha256(
        f"{seed} {question.id}".encode()
      ).digest(),
    )
  chosen = list(itertools.islice(labelled, num_examples))
  for _ in labelled:
    pass
  return chosen


def format_table(
  compared: Sequence[tuple[Variant, Mapping[str, Any]]],
) -> str:
  """Lays out what variants achieved.

  Args:
    compared: each variant with what its `Tally.summarize` returned.

  Returns:
    Lines of aligned columns, the best accuracy first; of equals, the order
    given.
  """
  ranked = sorted(compared, key=lambda pair: -(pair[1]["accuracy"] or 0.0))
  rows = [_HEADINGS, *(_format_row(*pair) for pair in ranked)]
  widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
  return "\n".join(
    "  ".join(
      cell.ljust(width) for cell, width in zip(row, widths, strict=True)
    ).rstrip()
    for row in rows
  )


def _format_row(
  variant: Variant, summary: Mapping[str, Any]
) -> tuple[str, ...]:
  return (
    variant.template.name,
    ", ".join(variant.models),
    f"{variant.temperature:g}",
    str(variant.num_samples),
    format_accuracy(summary),
    _format_share(summary["parse_rate"]),
    f"{summary['prompt_tokens']} + {summary['completion_tokens']}",
    format_cost(summary),
    " / ".join(
      "-" if summary[name] is None else f"{summary[name]:.2f}"
      for name in ("latency_seconds_p50", "latency_seconds_p95")
    ),
    f"{summary['num_questions'] - summary['num_open']}"
    f" of {summary['num_questions']}",
  )


def format_accuracy(summary: Mapping[str, Any]) -> str:
  """Returns the accuracy with its interval, "-" where there is none."""
  if summary["accuracy"] is None:
    return "-"
  low, high = (100 * summary[f"accuracy_{end}"] for end in ("low", "high"))
  return f"{100 * summary['accuracy']:.1f}% ({low:.1f} to {high:.1f})"


def format_cost(summary: Mapping[str, Any]) -> str:
  """Returns the cost with its currency, "-" where it is not known."""
  if summary["cost"] is None:
    return "-"
  return f"{summary['cost']:.4g} {summary['currency']}"


def _format_share(share: float | None) -> str:
  return "-" if share is None else f"{100 * share:.1f}%"
