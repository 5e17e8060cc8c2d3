"""Flags of a command: --help ends with 0, a mistake with the user's code.

Layer 1; imports errors. absl by itself ends with 1 after both.
"""

from collections.abc import Sequence

from absl import flags

from distill_jax.errors import UserError


def asks_for_help(arguments: Sequence[str]) -> bool:
  """Whether the program is to explain itself.

  Args:
    arguments: the program's, its name first.
  """
  return not {"--help", "-h", "-help"}.isdisjoint(arguments[1:])


def parse_flags(arguments: Sequence[str]) -> list[str]:
  """Gives absl's flags their values; for `app.run`.

  Args:
    arguments: the program's, its name first.

  Returns:
    What is no flag, the program's name first.

  Raises:
    UserError: absl takes no such flag or value; says which.
  """
  try:
    return flags.FLAGS(arguments)
  except flags.Error as error:
    raise UserError(f"{error}\nSee --help.") from error
