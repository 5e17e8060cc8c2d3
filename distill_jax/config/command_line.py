"""How a command starts: --help ends with 0, a user's mistake with its code.

absl by itself ends with 1 after either.
"""

import contextlib
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

from absl import app, flags

from distill_jax.config import interrupts
from distill_jax.errors import UserError

_HELP = {"--help", "-h", "-help"}


def run(
  name: str,
  main_fn: Callable[[list[str]], Any],
  arguments: Sequence[str],
  show_help_fn: Callable[[], None] | None = None,
  version: str | None = None,
) -> None:
  """Parses absl's flags and calls the program, or explains it.

  Args:
    name: of the program, before what it says of a mistake.
    main_fn: takes what is no flag, the program's name first.
    arguments: the program's, its name first.
    show_help_fn: prints what --help asks for; None: the docstring of the module
      that is run, and its flags, as absl does. Flags besides are parsed where
      they can be.
    version: what --version shows; None: there is no such flag.

  Raises:
    SystemExit: the program has ended; with a `UserError`'s code after telling
      it, which a flag or value that absl does not take is too; with 130 or 143
      after Ctrl-C or SIGTERM.
  """
  if version is not None and "--version" in arguments[1:]:
    print(name, version)
    return
  if not _HELP.isdisjoint(arguments[1:]):
    with contextlib.suppress(flags.Error):
      flags.FLAGS([each for each in arguments if each not in _HELP])
    try:
      if show_help_fn is None:
        app.usage(shorthelp=True, writeto_stdout=True)
      else:
        show_help_fn()
      sys.stdout.flush()
    except UserError as error:  # A file that help is read from is missing.
      print(f"{name}: {error}", file=sys.stderr)
      sys.exit(error.exit_code)
    except BrokenPipeError:  # Whoever reads it has read enough, as `head` does.
      # Python would flush it once more at its end, and tell of it.
      os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return
  interrupts.raise_on_signals()
  try:
    app.run(main_fn, list(arguments), flags_parser=_parse_flags)
  except UserError as error:
    print(f"{name}: {error}", file=sys.stderr)
    sys.exit(error.exit_code)
  except KeyboardInterrupt as interrupt:
    # A new line: a progress bar may stand where the cursor is.
    print(f"\n{name}: stopped.", file=sys.stderr)
    sys.exit(interrupts.exit_code(interrupt))


def _parse_flags(arguments: list[str]) -> list[str]:
  try:
    return flags.FLAGS(arguments)
  except flags.Error as error:
    raise UserError(f"{error}\nSee --help.") from error
