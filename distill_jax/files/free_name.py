"""Names for what is kept aside without taking the place of anything."""

import itertools
import pathlib


def find_free_name(path: pathlib.Path) -> pathlib.Path:
  """Returns a path at which nothing is.

  Args:
    path: the one to take, if it is free.

  Returns:
    It; or the first that is free of `name-2.suffix`, `name-3.suffix`, ...
  """
  found = path
  for number in itertools.count(2):
    if not found.exists():
      break
    found = path.with_name(f"{path.stem}-{number}{path.suffix}")
  return found
