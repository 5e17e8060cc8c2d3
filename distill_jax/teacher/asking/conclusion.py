"""The end of a labelling run: its exit code, and what is left to do, in words.

Prints to standard error.
"""

import sys
from collections.abc import Mapping
from typing import Any

from distill_jax.teacher.asking import session

DONE, INCOMPLETE = 0, 1
GO_ON = (
  "Give the same command again to go on; nothing that was answered is asked"
  " again."
)


def has_answers(summary: Mapping[str, Any]) -> bool:
  """Tells whether there are answers, or no questions that lack them."""
  num_questions = summary["num_questions"]
  return not num_questions or summary["num_without_answer"] < num_questions


def conclude(
  max_open_failures: int,
  num_open: int,
  sent: session.Session | None,
  advice: str = GO_ON,
  is_any_answered: bool = True,
  budget: str = "",
) -> int:
  """Says what is left to do.

  Args:
    max_open_failures: MAX_OPEN_FAILURES.
    num_open: questions without an outcome.
    sent: the session that left them so; None: nothing was sent.
    advice: what else the user may do.
    is_any_answered: whether any question has one.
    budget: which one there is, in words.

  Returns:
    The exit code; 0, 1, or 128 and the signal that ended it.
  """
  if not num_open and not is_any_answered:
    print(
      "distill-jax: no question has an answer; every request failed for good."
      " Correct what the failures in the journal name. If the settings stay as"
      " they are, --gin.RETRY_FAILURES=True asks again.",
      file=sys.stderr,
    )
    return INCOMPLETE
  if not num_open:
    return DONE
  said = f"{num_open} questions are without an outcome"
  if sent is not None and sent.progress.is_in_trouble:
    said += (
      f"; sending stopped after {max_open_failures} failures in a row"
      " (MAX_OPEN_FAILURES)"
    )
  if sent is not None and sent.progress.is_budget_spent and budget:
    said += (
      f"; sending stopped, because another request might exceed {budget}. To go"
      " on, raise it, and give the same command again"
    )
  if sent is not None and sent.progress.last_failure:
    said += f"; the last failure was {sent.progress.last_failure}"
  print(f"distill-jax: {said}. {advice}", file=sys.stderr)
  if sent is not None and sent.signal_number is not None:
    return 128 + sent.signal_number
  return INCOMPLETE
