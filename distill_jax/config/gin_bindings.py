"""Reads gin files and bindings, and refuses what nobody reads.

Layer 1; imports errors. Knows no setting by name. gin keeps what it parsed and
what was read in two private dictionaries; both are touched here and nowhere
else.
"""

import difflib
import re
from collections.abc import Sequence

import gin
from distill_jax.errors import UserError

_QUOTING = (
  "Strings need quotes of their own inside the shell's:"
  " --gin.MODEL_DIR=\"'/tmp/run'\"."
)


def rewrite_arguments(arguments: Sequence[str]) -> list[str]:
  """Turns T5X's `--gin.NAME=value` into `--gin_bindings=NAME = value`.

  Args:
    arguments: the program's arguments.

  Returns:
    The arguments for absl.
  """
  rewritten = []
  for argument in arguments:
    match = re.match(r"--gin\.([^=]+)=(.*)", argument, re.DOTALL)
    if match:
      name, value = match.groups()
      rewritten.append(f"--gin_bindings={name} = {value}")
    else:
      rewritten.append(argument)
  return rewritten


def parse(
  files: Sequence[str], bindings: Sequence[str], search_paths: Sequence[str]
) -> None:
  """Parses gin files, then bindings, which may set only what a file names.

  Args:
    files: in order; a later one overrides an earlier one.
    bindings: "NAME = value" each.
    search_paths: folders in which files, and files they include, are sought.

  Raises:
    UserError: a file is missing or cannot be parsed, a binding cannot be
      parsed, or it sets a macro that no file knows.
  """
  for path in search_paths:
    gin.add_config_file_search_path(path)
  for file in files:
    try:
      gin.parse_config_file(file)
    except OSError as error:
      raise UserError(
        f"There is no gin file {file!r} under {', '.join(search_paths)}, nor"
        f" one that it includes: {error}"
      ) from error
    except Exception as error:
      raise UserError(f"The gin file {file} cannot be read: {error}") from error
  known = _macros()
  for binding in bindings:
    name = binding.partition("=")[0].strip()
    if re.fullmatch(r"\w+", name) and name not in known:
      close = difflib.get_close_matches(name, known, n=1)
      meant = f" Did you mean {close[0]}?" if close else ""
      raise UserError(
        f"--gin.{name}: no gin file given knows {name}.{meant} They know:"
        f" {', '.join(sorted(known)) or 'nothing'}."
      )
    try:
      gin.parse_config(binding)
    except Exception as error:
      raise UserError(
        f"--gin.{binding.replace(' = ', '=', 1)} cannot be read: {error}\n"
        f"{_QUOTING}"
      ) from error


def set_default(macro: str, value: str) -> None:
  """Binds a macro that no file or binding has set.

  Args:
    macro: its name.
    value: gin text.
  """
  if macro not in _macros():
    gin.parse_config(f"{macro} = {value}")


def build(configurable):
  """Calls a configurable with what gin binds; see `raise_on_unread`.

  Args:
    configurable: a class or function that the gin files import.

  Returns:
    What it returns.

  Raises:
    UserError: a required macro was not given, or a value does not fit.
  """
  try:
    built = gin.get_configurable(configurable)()
  except UserError:
    raise
  except Exception as error:
    raise UserError(_explain(error)) from error
  raise_on_unread()
  return built


def raise_on_unread() -> None:
  """Refuses settings that were parsed and that nothing has read.

  Call after all objects are built.

  Raises:
    UserError: names them.
  """
  config, operative = gin.config._CONFIG, gin.config._OPERATIVE_CONFIG
  unread = []
  for (scope, selector), parameters in config.items():
    # An object made inside a macro is read in a scope of the macro's name.
    read = {
      parameter
      for (read_scope, read_selector), read_parameters in operative.items()
      if read_selector == selector
      and (scope == "" or f"{read_scope}/".startswith(f"{scope}/"))
      for parameter in read_parameters
    }
    for parameter in parameters:
      if parameter not in read:
        is_macro = selector == "gin.macro"
        unread.append(scope if is_macro else f"{selector}.{parameter}")
  if unread:
    raise UserError(
      f"Nothing reads these settings: {', '.join(sorted(unread))}. Remove them,"
      " or give the gin file whose object they belong to."
    )


def operative_config() -> str:
  """Returns the settings that were read, as gin text that parses again."""
  return gin.operative_config_str()


def _macros() -> set[str]:
  return {
    scope for scope, selector in gin.config._CONFIG if selector == "gin.macro"
  }


def _explain(error: Exception) -> str:
  """Shortens gin's error to what the user can act on."""
  text = str(error)
  missing = re.search(
    r"macro '(\w+)'|Required bindings for `(\w+)/macro`", text
  )
  unset = re.search(r"No value .*?for.*?macro[^\w]*(\w+)", text)
  for match in (missing, unset):
    if match:
      name = next(group for group in match.groups() if group)
      if name == "MODEL_CONFIG":
        return (
          "No model was given. Put a model's gin file before the run's, e.g."
          " --gin_file=gin/models/t5_1_1/tiny.gin."
        )
      return f"{name} was not given. Add --gin.{name}=... {_QUOTING}"
  return f"The settings do not fit: {text.strip()}"
