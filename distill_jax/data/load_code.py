"""Which code loads a user's records: a hash for the cache's identity.

Knows no data set.
"""

import functools
import hashlib
import inspect
import marshal
import pathlib
import re
from collections.abc import Callable
from typing import Any

from distill_jax.data.records import Record


def hash_load_fn(load_fn: Callable[..., list[Record]]) -> str | None:
  """Returns the SHA-256 of the code that loads a user's records.

  All of the file that holds the function counts, for what it calls there, and
  so do the values bound to it; what it imports does not.

  Args:
    load_fn: of a `DatasetSpec`.

  Returns:
    A hex digest: of the file, or of the function's compiled code where there
    is no file, as in a notebook; None for this package's own code, whose
    version is part of a fingerprint anyway, and for what has no code in
    Python.
  """
  bound: list[Any] = []
  while isinstance(load_fn, functools.partial):
    bound += [load_fn.args, sorted(load_fn.keywords.items())]
    load_fn = load_fn.func
  function = inspect.unwrap(load_fn)
  if not hasattr(function, "__code__"):
    bound.append(getattr(function, "__dict__", None))
    function = type(function).__call__  # an object that is called
  bound += [
    getattr(function, "__defaults__", None),
    getattr(function, "__kwdefaults__", None),
    [cell.cell_contents for cell in getattr(function, "__closure__", ()) or ()],
  ]
  if (function.__module__ or "").partition(".")[0] == __name__.split(".")[0]:
    return None
  try:
    content = pathlib.Path(inspect.getsourcefile(function) or "").read_bytes()
  except (OSError, TypeError):
    code = getattr(function, "__code__", None)
    if code is None:
      return None
    content = code.co_code + marshal.dumps(code.co_consts)
  # An object's address is no part of what it says.
  values = re.sub(r" at 0x[0-9a-f]+", "", repr(bound))
  return hashlib.sha256(content + values.encode()).hexdigest()
