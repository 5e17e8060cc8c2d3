"""Ends a run of which the server makes nothing of use from its start.

Layer 1; imports errors and exchange.
"""

import collections

from distill_jax.errors import UserError
from distill_jax.teacher import exchange


class Brake:
  """Counts the requests of a run that got no answer of use."""

  def __init__(self, max_first: int):
    """Starts with none.

    Args:
      max_first: so many end a run in which there is no other.
    """
    self._max_first = max_first
    self._bad: collections.Counter[str] = collections.Counter()
    # Of these, the requests that failed for good.
    self._num_failed = 0

  def note(self, kind: str, is_final: bool) -> None:
    """Counts one.

    Args:
      kind: of the failure, or the status of the answer.
      is_final: it is not asked again.
    """
    self._bad[kind] += 1
    self._num_failed += is_final and kind != exchange.ANSWERED

  def check(self, num_answered: int, problem: str) -> None:
    """Ends the run if it is time.

    Args:
      num_answered: answers with a text, those of no use among them.
      problem: of the last that was counted.

    Raises:
      UserError: there are enough, and no answer is of use.
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
