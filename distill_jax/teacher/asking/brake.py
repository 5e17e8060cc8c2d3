"""Ends a run whose first requests all fail or get useless answers."""

import collections

from distill_jax.errors import UserError
from distill_jax.teacher.asking import exchange


class Brake:
  """Counts the requests of a run that got no useful answer."""

  def __init__(self, max_first: int):
    """Starts with none.

    Args:
      max_first: how many end a run that has no useful answer yet.
    """
    self._max_first = max_first
    self._bad: collections.Counter[str] = collections.Counter()
    # How many of them another run asks again only with RETRY_FAILURES.
    self._num_failed = 0

  def note(self, kind: str, is_final: bool) -> None:
    """Counts a request without a useful answer.

    Args:
      kind: of the failure, or the status of the answer.
      is_final: the request is not asked again.
    """
    self._bad[kind] += 1
    self._num_failed += is_final and kind != exchange.ANSWERED

  def check(self, num_answered: int, problem: str) -> None:
    """Ends the run if it has `max_first` such requests and no useful answer.

    Args:
      num_answered: answers with a text, useless ones included.
      problem: of the request that was counted last.

    Raises:
      UserError: it ends, and what to do.
    """
    num_bad = self._bad.total()
    num_good = num_answered - self._bad[exchange.ANSWERED]
    if num_bad < self._max_first or num_good:
      return
    kinds = ", ".join(f"{n} {kind}" for kind, n in self._bad.most_common())
    said = (
      f"Of the first {num_bad} requests none got an answer of use ({kinds});"
      f" the last: {problem}. Correct what it names and run again."
    )
    if self._bad[exchange.ANSWERED]:
      said += (
        " An answer is not asked for again while the settings stay as they are:"
        " give others, or another OUTPUT_PATH."
      )
    if self._num_failed:
      said += (
        " If the settings stay as they are, RETRY_FAILURES = True asks again"
        " what failed."
      )
    raise UserError(said)
