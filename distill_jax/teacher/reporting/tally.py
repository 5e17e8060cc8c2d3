"""Counts over labelled questions: what a teacher achieved.

Takes one outcome after the other and keeps only numbers.
"""

import array
import collections
from collections.abc import Sequence
from typing import Any

from distill_jax.teacher.asking import prices
from distill_jax.teacher.filtering import filters
from distill_jax.teacher.prompting.variants import Outcome, Variant

_MAX_EXAMPLES = 3


class Tally:
  """Counts of one variant."""

  def __init__(self, variant: Variant, price_table: prices.PriceTable | None):
    """Starts at nothing.

    Args:
      variant: decides when a label is right.
      price_table: for the cost; None: it is not known.
    """
    self._price_table = price_table
    self._comparison = filters.FilterConfig(
      answer_form=variant.reading.answer_form, labels=variant.reading.labels
    )
    self._statuses: collections.Counter[str] = collections.Counter()
    self._failures: collections.Counter[str] = collections.Counter()
    # Model -> prompt and completion tokens.
    self._tokens: dict[str, list[int]] = {}
    self._latencies = array.array("d")
    self._num_uncounted = 0
    self._num_without_answer = 0
    self._num_gold = 0
    self._num_correct = 0
    self._num_ties = 0
    self._num_unusable_gold = 0
    # The first few in order, so that parts merge to the same.
    self._unusable_gold: set[str] = set()
    self.num_questions = 0
    self.num_open = 0

  def add(self, outcome: Outcome) -> None:
    """Counts a question.

    Args:
      outcome: of it.
    """
    self.num_questions += 1
    self._failures.update(failure.kind for failure in outcome.failures)
    for model, response in outcome.responses:
      tokens = self._tokens.setdefault(model, [0, 0])
      tokens[0] += response.prompt_tokens or 0
      tokens[1] += response.completion_tokens or 0
      self._num_uncounted += (
        response.prompt_tokens is None or response.completion_tokens is None
      )
      self._latencies.append(response.latency_seconds)
    record = outcome.record
    if record is None:
      self.num_open += 1
      return
    if record.status is None:
      self._num_without_answer += 1
    else:
      self._statuses[record.status] += 1
    self._num_ties += bool(record.meta.get("is_tie"))
    if record.label is None:
      return
    if not filters.is_gold_usable(record, self._comparison):
      self._num_unusable_gold += 1
      self._keep_examples({record.label})
      return
    self._num_gold += 1
    self._num_correct += filters.agrees_with_gold(record, self._comparison)

  def merge(self, other: "Tally") -> None:
    """Adds what another tally of the same variant has counted."""
    self._statuses.update(other._statuses)
    self._failures.update(other._failures)
    for model, (prompt, completion) in other._tokens.items():
      tokens = self._tokens.setdefault(model, [0, 0])
      tokens[0] += prompt
      tokens[1] += completion
    self._latencies.extend(other._latencies)
    self._num_uncounted += other._num_uncounted
    self._num_without_answer += other._num_without_answer
    self._num_gold += other._num_gold
    self._num_correct += other._num_correct
    self._num_ties += other._num_ties
    self._num_unusable_gold += other._num_unusable_gold
    self._keep_examples(other._unusable_gold)
    self.num_questions += other.num_questions
    self.num_open += other.num_open

  def _keep_examples(self, labels: set[str]) -> None:
    examples = sorted(self._unusable_gold | labels)
    self._unusable_gold = set(examples[:_MAX_EXAMPLES])

  def summarize(self) -> dict[str, Any]:
    """Returns the numbers, as JSON holds them.

    Returns:
      `num_questions`; `num_open`, without outcome; `num_without_answer`, all of
      whose requests failed for good; `statuses` and `failures`, counts by name,
      the latter of requests. `parse_rate`, the share of status "ok" of the
      questions with an outcome, and `accuracy`, the share whose label is the
      gold one of those that have an outcome and a gold label (what was not read
      is wrong), with 95% Wilson bounds `accuracy_low` and `accuracy_high`;
      None where there is nothing to count. `num_unusable_gold`, whose gold
      label no answer can be equal to and which count in no accuracy, and a few
      such labels, `unusable_gold`. `num_ties`, whose vote was a tie.
      `latency_seconds_p50` and `_p95`, None without responses.
    """
    num_done = self.num_questions - self.num_open
    return {
      "num_questions": self.num_questions,
      "num_open": self.num_open,
      "num_without_answer": self._num_without_answer,
      "statuses": dict(self._statuses.most_common()),
      "failures": dict(self._failures.most_common()),
      "num_ties": self._num_ties,
      "parse_rate": self._statuses["ok"] / num_done if num_done else None,
      **self._summarize_accuracy(),
      "latency_seconds_p50": _quantile(self._latencies, 0.5),
      "latency_seconds_p95": _quantile(self._latencies, 0.95),
    }

  def summarize_use(self) -> dict[str, Any]:
    """Returns what the answers to these questions take, for a comparison.

    An answer that questions share, because they are the same, counts for each
    of them, as it would if they were not. What was paid, `ledger` tells.

    Returns:
      `num_responses`, `prompt_tokens`, `completion_tokens`, as the servers
      counted; `num_uncounted_responses`, to which they did not; `cost` and
      `currency`, None without prices.

    Raises:
      UserError: the price table lacks a model.
    """
    totals = [
      sum(counts) for counts in zip(*self._tokens.values(), strict=True)
    ]
    prompt_tokens, completion_tokens = totals or (0, 0)
    cost = currency = None
    if self._price_table is not None:
      currency = self._price_table.currency
      cost = sum(
        self._price_table.compute_cost(model, *tokens)
        for model, tokens in self._tokens.items()
      )
    return {
      "num_responses": len(self._latencies),
      "prompt_tokens": prompt_tokens,
      "completion_tokens": completion_tokens,
      "num_uncounted_responses": self._num_uncounted,
      "cost": cost,
      "currency": currency,
    }

  def _summarize_accuracy(self) -> dict[str, Any]:
    if not self._num_gold:
      values = (None, None, None)
    else:
      # Here, because it brings statistics that most runs do without.
      from distill_jax.answers import text_metrics

      values = (
        self._num_correct / self._num_gold,
        *text_metrics.wilson_interval(self._num_correct, self._num_gold),
      )
    names = ("accuracy", "accuracy_low", "accuracy_high")
    return {
      **dict(zip(names, values, strict=True)),
      "num_gold": self._num_gold,
      "num_correct": self._num_correct,
      "num_unusable_gold": self._num_unusable_gold,
      "unusable_gold": sorted(self._unusable_gold),
    }


def _quantile(values: Sequence[float], share: float) -> float | None:
  """Returns the smallest value that at least this share does not exceed."""
  if not values:
    return None
  rank = max(1, -(-len(values) * share // 1))
  return sorted(values)[int(rank) - 1]
