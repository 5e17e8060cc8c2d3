"""Variants of labelling side by side: on which questions, and as a table.

Knows the numbers of a tally by their names.
"""

import dataclasses
import hashlib
import heapq
import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from distill_jax.config import declaration
from distill_jax.config.declaration import field
from distill_jax.data.records import Record
from distill_jax.teacher.prompting.variants import Variant

# With a name as long, the table fits in 100 columns.
_MAX_NAME_CHARACTERS = 20


@dataclasses.dataclass(frozen=True)
class ComparisonConfig:
  """What `--evaluate` compares."""

  prompts: Sequence[str] | None = field(
    None,
    macro="EVALUATE_PROMPTS",
    is_filled=True,
    help="names or paths of templates; None: PROMPT alone",
  )
  models: Sequence[str] | None = field(
    None,
    macro="EVALUATE_TEACHERS",
    is_filled=True,
    help="teachers; None: those of TEACHER_MODEL, each by itself",
  )
  temperatures: Sequence[float] | None = field(
    None,
    macro="EVALUATE_TEMPERATURES",
    is_filled=True,
    help="None: TEMPERATURE alone",
  )
  num_examples: int = field(
    100,
    macro="EVALUATE_EXAMPLES",
    least=1,
    help="labelled questions that each variant answers",
  )
  seed: int | None = field(
    None,
    macro="EVALUATE_SEED",
    help="of the draw of these questions; None: the file's first",
  )

  def __post_init__(self):
    declaration.check(self)


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
    What the variants have in common, then lines of aligned columns of what they
    have not and of what they achieved, the best accuracy first; of equals, the
    order given. Costs and tokens are of a labelled question, seconds of a
    request. Questions without an outcome count nowhere but in "answered", which
    is shown where there are any; those whose gold label no answer can be equal
    to count in no accuracy, and are in "unusable gold", with a warning.
  """
  ranked = sorted(compared, key=lambda pair: -(pair[1]["accuracy"] or 0.0))
  varied, common = {}, []
  for name, cells in _describe_variants([pair[0] for pair in ranked]).items():
    if len(set(cells)) > 1:
      varied[name] = cells
    else:
      common.append(f"{name} {cells[0]}")
  columns = varied | _describe_results([pair[1] for pair in ranked])
  widths = [max(map(len, [name, *cells])) for name, cells in columns.items()]
  rows = [tuple(columns), *zip(*columns.values(), strict=True)]
  lines = [
    "  ".join(
      cell.ljust(width) for cell, width in zip(row, widths, strict=True)
    ).rstrip()
    for row in rows
  ]
  warnings = {describe_unusable_gold(summary): None for _, summary in ranked}
  lines += [warning for warning in warnings if warning is not None]
  return "\n".join([", ".join(common), *lines] if common else lines)


def _describe_variants(compared: Sequence[Variant]) -> dict[str, list[str]]:
  names = [", ".join(variant.models) for variant in compared]
  shown = {name: _shorten(name) for name in names}
  if len(set(shown.values())) < len(shown):
    shown = {name: name for name in names}
  return {
    "prompt": [variant.template.name for variant in compared],
    "teacher": [shown[name] for name in names],
    "temp": [_format_temperature(variant.temperature) for variant in compared],
    "samples": [str(variant.num_samples) for variant in compared],
  }


def _format_temperature(temperature: float | None) -> str:
  return "server's" if temperature is None else f"{temperature:g}"


def _shorten(name: str) -> str:
  """Returns a model's name without its folders, or its two ends."""
  if len(name) > _MAX_NAME_CHARACTERS:
    name = name.rpartition("/")[2]
  if len(name) > _MAX_NAME_CHARACTERS:
    end = _MAX_NAME_CHARACTERS // 2
    name = f"{name[: end - 2]}..{name[-end:]}"
  return name


def _describe_results(
  summaries: Sequence[Mapping[str, Any]],
) -> dict[str, list[str]]:
  columns = {
    "accuracy (95%)": list(map(format_accuracy, summaries)),
    "parsed": [_format_share(summary["parse_rate"]) for summary in summaries],
  }
  if any(summary["cost"] is not None for summary in summaries):
    currency = summaries[0]["currency"]
    columns[f"{currency} for 1,000"] = [
      _format_per_question(summary, "cost", 1000) for summary in summaries
    ]
  else:
    columns["tokens in + out"] = [
      " + ".join(
        _format_per_question(summary, f"{side}_tokens")
        for side in ("prompt", "completion")
      )
      for summary in summaries
    ]
  columns["p50, p95 s"] = [
    ", ".join(
      "-" if summary[name] is None else f"{summary[name]:.2f}"
      for name in ("latency_seconds_p50", "latency_seconds_p95")
    )
    for summary in summaries
  ]
  if any(summary["num_unusable_gold"] for summary in summaries):
    columns["unusable gold"] = [
      str(summary["num_unusable_gold"]) for summary in summaries
    ]
  if any(summary["num_open"] for summary in summaries):
    columns["answered"] = [
      f"{summary['num_questions'] - summary['num_open']}"
      f" of {summary['num_questions']}"
      for summary in summaries
    ]
  return columns


def _format_per_question(
  summary: Mapping[str, Any], name: str, num_questions: int = 1
) -> str:
  """Returns how much of a sum as many questions take."""
  num_done = summary["num_questions"] - summary["num_open"]
  if not num_done or summary[name] is None:
    return "-"
  # Answers to questions that are open yet are in the sum, and few.
  return f"{summary[name] / num_done * num_questions:.4g}"


def format_accuracy(summary: Mapping[str, Any]) -> str:
  """Returns the accuracy with its interval, "-" where there is none."""
  if summary["accuracy"] is None:
    return "-"
  low, high = (100 * summary[f"accuracy_{end}"] for end in ("low", "high"))
  return f"{100 * summary['accuracy']:.1f}% ({low:.1f} to {high:.1f})"


def describe_unusable_gold(summary: Mapping[str, Any]) -> str | None:
  """Returns a warning of gold labels that count in no accuracy, if any."""
  if not summary["num_unusable_gold"]:
    return None
  examples = ", ".join(map(repr, summary["unusable_gold"]))
  return (
    f"WARNING: {summary['num_unusable_gold']} gold labels, such as {examples},"
    " are no answer to this prompt (outside its labels or options, or an"
    " equation without value) and count in no accuracy. Correct them, or"
    " choose another PROMPT."
  )


def _format_share(share: float | None) -> str:
  return "-" if share is None else f"{100 * share:.1f}%"
