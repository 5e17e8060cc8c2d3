"""The largest batch that fits, found with few measurements.

Measuring is an argument: compiling takes seconds to minutes.
"""

from collections.abc import Callable

# Far more rows than anybody trains with: where nothing limits a batch.
_MAX_UNITS = 2**20


def find_largest(fits_fn: Callable[[int], bool], unit: int) -> int | None:
  """Finds the largest multiple of `unit` that fits.

  Args:
    fits_fn: whether a number of rows fits; once one does not, no larger one
      should. Where a compiler breaks that rule, the result still fits.
    unit: what the number of rows must divide by.

  Returns:
    The number of rows, or None where not even `unit` fits. `fits_fn` is called
    about twice log2 of the result over `unit` times, never twice for one
    number.
  """
  fitting, tried = 0, 1
  while fits_fn(tried * unit):
    fitting = tried
    if tried >= _MAX_UNITS:
      return fitting * unit
    tried *= 2
  # The largest lies from `fitting` to below `tried`.
  while tried - fitting > 1:
    middle = (fitting + tried) // 2
    if fits_fn(middle * unit):
      fitting = middle
    else:
      tried = middle
  return fitting * unit or None
