"""Numbers as people write them: thousands marks and rounded values.

Takes time linear in the text.
"""

import re
from fractions import Fraction

_RUN = re.compile(r"(?<![0-9,])[0-9][0-9,]*")
_GROUPED = re.compile(r"[1-9][0-9]{0,2}(?:,[0-9]{3})+")
_NUMBER = re.compile(r"-?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)")
_MAX_CHARACTERS = 300  # More digits than any float has.


def remove_thousands_marks(text: str) -> str | None:
  """Removes the commas that divide a number into groups of three digits.

  Args:
    text: any text; commas that do not stand between digits stay.

  Returns:
    The text; None where a comma between two digits is no thousands mark: "2,3"
    may be a decimal or a pair, "20,00" a decimal, and "0,500" is one half.
  """
  parts, end = [], 0
  for match in _RUN.finditer(text):
    run = match[0].rstrip(",")
    if "," in run:
      follows_point = text[match.start() - 1 : match.start()] == "."
      if follows_point or not _GROUPED.fullmatch(run):
        return None
      parts += [text[end : match.start()], run.replace(",", "")]
      end = match.start() + len(run)
  return "".join([*parts, text[end:]])


def parse_number(text: str) -> Fraction | None:
  """Returns the value of a plain decimal number, None for any other text."""
  if len(text) > _MAX_CHARACTERS or not _NUMBER.fullmatch(text):
    return None
  return Fraction(text)


def is_written_value(text: str, value: Fraction) -> bool:
  """Tells whether a number is a value, or that value cut to its own decimals.

  Args:
    text: a plain decimal number. One without decimals must be exact: "3" is not
      10 / 3.
    value: what it stands for.

  Returns:
    True where the text is the value, or the value rounded or truncated to as
    many decimals as the text has: "3.33" for 10 / 3, "6.66" and "6.67" for
    20 / 3.
  """
  written = parse_number(text)
  if written is None:
    return False
  num_decimals = len(text.partition(".")[2])
  if written == value or not num_decimals:
    return written == value
  unit = Fraction(1, 10**num_decimals)
  is_truncated = written * value >= 0 and 0 <= abs(value) - abs(written) < unit
  return is_truncated or abs(value - written) <= unit / 2
