"""The metrics of one evaluation, as the lines that the console shows."""

from collections.abc import Mapping
from typing import Any


def summarize(title: str, metrics: Mapping[str, Any]) -> str:
  """Returns lines with the metrics that people look at.

  Args:
    title: the first line.
    metrics: see `evaluator.Evaluator.evaluate`.
  """
  lines = [title]
  if "label_accuracy" in metrics:
    lines.append(
      f"  accuracy {metrics['label_accuracy']:.2%}, 95% interval"
      f" {metrics['label_accuracy_low']:.2%} to"
      f" {metrics['label_accuracy_high']:.2%}, {metrics['num_correct']} of"
      f" {metrics['num_examples']} right, {metrics['num_unparsed']} unparsed"
    )
    if num_outside := metrics["num_gold_outside_label_set"]:
      lines.append(f"  left out: {num_outside} gold labels are no answer")
  if "rouge_tokenizer" in metrics:
    lines.append(
      f"  words for ROUGE: {metrics['rouge_tokenizer']}, for BLEU:"
      f" {metrics['bleu_tokenizer']}"
    )
  shown = {
    key: value
    for key, value in metrics.items()
    if isinstance(value, float) and not key.startswith("label_accuracy")
  }
  lines.append(
    "  " + ", ".join(f"{key} {value:.4g}" for key, value in shown.items())
  )
  return "\n".join(lines)
