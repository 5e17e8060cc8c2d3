"""Where answers came from: refuses those of a server that was not asked now.

Knows addresses and counts. A request's key does not hold the server's address,
so that a server may move; whether an answer made elsewhere is the one that is
wanted, the user says.
"""

import collections
import logging
from collections.abc import Iterable, Mapping, Sequence

from distill_jax.errors import UserError
from distill_jax.teacher.asking import ledger
from distill_jax.teacher.transports.config import get_address

_log = logging.getLogger(__name__)

ANY = "any"
# ACCEPT_ADDRESSES: addresses, "any", or None for that of the settings alone.
Accepted = Sequence[str] | str | None


class Origins:
  """Counts of answers by the address asked now and the one that answered."""

  def __init__(self):
    self._counts: collections.Counter[tuple[str, str | None]] = (
      collections.Counter()
    )

  def add(
    self, address: str | None, answered_by: str | None, num: int = 1
  ) -> None:
    """Counts answers.

    Args:
      address: that a request for them would go to now; None: nobody says.
      answered_by: where they came from; None: the journal does not say.
      num: how many.
    """
    if address is not None and address != answered_by:
      self._counts[address, answered_by] += num

  def count_elsewhere(self) -> dict[tuple[str, str], int]:
    """Returns how many came from another address: (asked, answered) -> n."""
    return {
      (address, answered_by): num
      for (address, answered_by), num in self._counts.items()
      if answered_by is not None
    }

  def count_unknown(self) -> int:
    """Returns how many came from where the journal does not say."""
    return sum(
      num for (_, answered), num in self._counts.items() if answered is None
    )


def count_origins(
  ledgers: Iterable[ledger.Ledger], addresses: Mapping[str, str]
) -> Origins:
  """Counts where all answers of some journals came from.

  Args:
    ledgers: theirs.
    addresses: model -> where it is asked now; others are not counted.
  """
  origins = Origins()
  for one in ledgers:
    for setting, account in one.accounts.items():
      if account.num_responses:
        asked = addresses.get(setting.model or "")
        origins.add(asked, setting.address, account.num_responses)
  return origins


def check_accepted(accepted: Accepted) -> None:
  """Refuses an ACCEPT_ADDRESSES that cannot be.

  Raises:
    UserError: it is neither None, "any" nor a list of texts.
  """
  if accepted is None or accepted == ANY:
    return
  if not isinstance(accepted, list | tuple) or not all(
    isinstance(address, str) for address in accepted
  ):
    raise UserError(
      f"ACCEPT_ADDRESSES is {accepted!r}; it is None, {ANY!r}, or a list of"
      " addresses as TEACHER_BASE_URL has them."
    )


def check(origins: Origins, accepted: Accepted) -> None:
  """Refuses answers that were made at another address; says which are taken.

  Args:
    origins: of the answers that would be taken.
    accepted: addresses whose answers count too, "any", or None.

  Raises:
    UserError: some came from an address that is not accepted.
  """
  refused, taken = [], []
  for (address, answered_by), num in origins.count_elsewhere().items():
    said = f"{num} came from {answered_by}, and the settings say {address}"
    is_good = accepted == ANY or (
      accepted is not None and answered_by in map(get_address, accepted)
    )
    (taken if is_good else refused).append(said)
  if refused:
    raise UserError(
      "The journal has answers to these very requests that another server gave:"
      f" {'; '.join(refused)}. If they may be taken, because the server has"
      " moved or both serve the same model, name the address in"
      f" ACCEPT_ADDRESSES, or give {ANY!r}. If not, give another OUTPUT_PATH."
    )
  for said in taken:
    _log.warning("Of the answers, %s (ACCEPT_ADDRESSES): they are taken.", said)
  if num := origins.count_unknown():
    _log.warning(
      "%d answers are of a journal that does not say which server gave them:"
      " they are taken.",
      num,
    )
