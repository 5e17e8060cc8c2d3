"""How long a server asks to wait, from the headers of its reply."""

import datetime
import email.utils
import math
from collections.abc import Mapping


def get_seconds(
  headers: Mapping[str, str], now: datetime.datetime
) -> float | None:
  """Returns how long the server asks to wait; None where it does not say.

  Reads `retry-after-ms`, then `retry-after` in seconds or as a date. A date is
  measured from the reply's own `date` where it has one: the two clocks may
  differ. A time that is past is 0.

  Args:
    headers: of the reply; finds names in any case.
    now: this machine's time, with its zone.
  """
  milliseconds = _read_number(headers.get("retry-after-ms"))
  if milliseconds is not None:
    return milliseconds / 1000
  text = headers.get("retry-after")
  seconds = _read_number(text)
  if seconds is not None:
    return seconds
  wanted = _read_date(text)
  if wanted is None:
    return None
  said_now = _read_date(headers.get("date"))
  return max(0.0, (wanted - (said_now or now)).total_seconds())


def _read_number(text: str | None) -> float | None:
  try:
    number = float(text or "")
  except ValueError:
    return None
  return number if math.isfinite(number) and number >= 0 else None


def _read_date(text: str | None) -> datetime.datetime | None:
  try:
    date = email.utils.parsedate_to_datetime(text or "")
  except (ValueError, OverflowError):
    return None
  # A date without a zone is one in GMT, as HTTP's are.
  return date if date.tzinfo else date.replace(tzinfo=datetime.UTC)
