"""Compares golden runs: all bits, or what every processor gives."""

import json
import math
import pathlib
import re
from typing import Any

# One letter that a student decodes otherwise changes these.
FROM_DECODED_TEXT = re.compile(
  r"label_accuracy.*|num_correct|num_unparsed|num_rationales_right"
)


def make_portable(found: Any) -> Any:
  """Keeps what every processor gives, but for a last digit or two.

  Sums are rounded in another order elsewhere: checksums differ then, and so may
  a decoded text, where two tokens are nearly as likely.
  """
  if isinstance(found, dict):
    return {
      name: make_portable(value)
      for name, value in found.items()
      if name not in ("state", "parameters", "predictions")
      and not re.fullmatch(r"predict.*|.*finish_reasons?", name)
      and not FROM_DECODED_TEXT.fullmatch(name)
    }
  if isinstance(found, list):
    return [make_portable(value) for value in found]
  return float(f"{found:.7g}") if isinstance(found, float) else found


def find_differences(
  first: Any, second: Any, tolerance: float = 0.0, where: str = ""
) -> list[str]:
  """Returns a line for each value that differs.

  Args:
    first: JSON.
    second: JSON.
    tolerance: relative, of numbers that are not whole; whole ones are counts.
    where: the path so far.
  """
  if isinstance(first, dict) and isinstance(second, dict):
    lines = [
      f"{where}/{name}: only in the {number}"
      for number, one, other in (
        ("first", first, second),
        ("second", second, first),
      )
      for name in one
      if name not in other
    ]
    for name in first:
      if name in second:
        lines += find_differences(
          first[name], second[name], tolerance, f"{where}/{name}"
        )
    return lines
  if isinstance(first, list) and isinstance(second, list):
    lines = []
    if len(first) != len(second):
      lines = [f"{where}: {len(first)} entries and {len(second)}"]
    for index, (one, other) in enumerate(zip(first, second, strict=False)):
      lines += find_differences(one, other, tolerance, f"{where}[{index}]")
    return lines
  if isinstance(first, float) and isinstance(second, float) and tolerance:
    if where.endswith("gradient_norm"):
      tolerance *= 10  # It moves more than losses do.
    if not first.is_integer() and math.isclose(
      first, second, rel_tol=tolerance
    ):
      return []
  if type(first) is type(second) and first == second:
    return []
  return [f"{where}: {first!r:.200} and {second!r:.200}"]


def compare(first_path: str, second_path: str) -> int:
  """Prints how two results differ; returns the exit code."""
  first, second = (
    json.loads(pathlib.Path(path).read_text())
    for path in (first_path, second_path)
  )
  lines = find_differences(first, second)
  for line in lines[:40]:
    print(line)
  count = len(re.findall(r"[\d.]+|\"", json.dumps(first)))
  print(
    f"{len(lines)} differences"
    if lines
    else f"Identical: {', '.join(first)}; {count} numbers and texts."
  )
  return 1 if lines else 0
