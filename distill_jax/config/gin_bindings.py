"""Reads gin files and bindings, and refuses what nobody reads.

Of the settings it knows by name MODEL_CONFIG, which a file of its own must
give, those that are paths, and those that are gone. gin keeps what it parsed
and what was read in two private dictionaries; both are touched here and nowhere
else.
"""

import ast
import contextlib
import dataclasses
import difflib
import importlib.util  # noqa: F401  gin uses it without importing it
import logging
import os
import re
import typing
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import gin
from distill_jax.config import declaration, fields, replaced_choices
from distill_jax.errors import UserError
from gin import config as gin_config

_QUOTING = (
  "Texts need quotes inside a list or dictionary, and where the setting takes"
  " no text alone: --gin.EVAL_SPLITS=\"('test',)\"."
)
# Settings that name a file or folder, here or on a bucket.
_PATHS = (
  "CACHE_DIR",
  "CHECKPOINT_PATH",
  "DATA_DIR",
  "INITIAL_CHECKPOINT_PATH",
  "MODEL_DIR",
  "VOCAB_PATH",
)
# VOCAB_PATH = 'bytes' is ByT5's vocabulary.
_NO_PATHS = ("bytes",)

# Settings that there were, and what to write instead.
_GONE = {
  "METHODS": (
    "METHODS is no setting any more; ARMS is. Write\n"
    "  ARMS = {'name': {'MIXTURE_OR_TASK_NAME': 'task', 'EVAL_TASK': 'label"
    " task', 'BATCH_SIZE': rows}, ...}\n"
    "for METHODS = (('name', 'task', 'label task', rows), ...). EVAL_TASK may"
    " be left out, and an arm may set any other setting of training too."
  ),
}

_record = replaced_choices.BindingRecord()
# Their arguments are what the macros of a run file stand for.
_SCHEDULES = ("constant", "linear_decay", "cosine_decay", "rsqrt_decay")


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
  global _record
  _record = replaced_choices.BindingRecord()
  with _record.recording():
    _parse(files, bindings, search_paths)
  _make_paths_absolute()


def _make_paths_absolute() -> None:
  """Makes what is kept of the settings true from any folder."""
  for macro in _PATHS:
    parameters = gin_config._CONFIG.get((macro, "gin.macro"), {})
    value = parameters.get("value")
    if (
      isinstance(value, str)
      and value.strip()
      and "://" not in value
      and value not in _NO_PATHS
    ):
      parameters["value"] = os.path.abspath(os.path.expanduser(value))


def _parse(files, bindings, search_paths) -> None:
  for path in search_paths:
    gin.add_config_file_search_path(path)
  for file in files:
    try:
      with _without_search_noise():
        # By the module, whose function is watched.
        gin_config.parse_config_file(file)
    except Exception as error:
      raise UserError(_explain_file(file, search_paths, error)) from error
  known = _macros()
  _raise_on_gone(known)
  for binding in bindings:
    name = binding.partition("=")[0].strip()
    _raise_on_gone({name})
    if re.fullmatch(r"\w+", name) and name not in known:
      raise UserError(
        f"--gin.{name}: no gin file given knows {name}. {_suggest(name, known)}"
      )
    try:
      gin.parse_config(_with_imports(_quote_text(binding)))
    except Exception as error:
      raise UserError(_explain_binding(binding, error)) from error


def _raise_on_gone(names: Collection[str]) -> None:
  for name in sorted(_GONE.keys() & names):
    raise UserError(_GONE[name])


def _suggest(name: str, known: Collection[str]) -> str:
  close = difflib.get_close_matches(name, known, n=1)
  if close:
    return f"Did you mean {close[0]}?"
  return f"They know: {', '.join(sorted(known)) or 'nothing'}."


def _quote_text(binding: str) -> str:
  """Puts quotes around a bare text, where the macro takes texts.

  Args:
    binding: "NAME = value". What is a literal, begins one, or refers to an
      object stays as it is.
  """
  name, _, value = (part.strip() for part in binding.partition("="))
  if not value or value[0] in "'\"([{@%" or _is_literal_text(value):
    return binding
  types = _find_macro_types(name)
  if types and all(map(fields.takes_text, types)):
    return f"{name} = {value!r}"
  return binding


def _is_literal_text(text: str) -> bool:
  try:
    ast.literal_eval(text)
  except (ValueError, SyntaxError, MemoryError, RecursionError):
    return False
  return True


def _find_macro_types(macro: str) -> list[Any]:
  """Returns the types of all parameters that a macro's value comes to."""
  found = []
  for (_, selector), parameters in gin_config._CONFIG.items():
    if selector == "gin.macro":
      continue
    hints = _find_types(selector)
    for parameter, value in parameters.items():
      if parameter in hints and macro in _list_macros(value):
        found.append(hints[parameter])
  return found


def _list_macros(value: Any) -> list[str]:
  """Returns the macros that a value comes from, one by way of another."""
  names: list[str] = []
  while (
    isinstance(value, gin_config.ConfigurableReference)
    and value.selector == "gin.macro"
    and value.config_key[0] not in names
  ):
    names.append(value.config_key[0])
    value = gin_config._CONFIG.get(value.config_key, {}).get("value")
  return names


def _with_imports(binding: str) -> str:
  """Puts the files' imports before a binding that names an object."""
  if not binding.partition("=")[2].lstrip().startswith("@"):
    return binding
  imports = sorted(
    statement.format()
    for statement in gin_config._IMPORTS
    if not statement.module.startswith("__gin__")
  )
  return "\n".join(
    ["from __gin__ import dynamic_registration", *imports, binding]
  )


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
    UserError: a required macro was not given, a value does not fit, or nothing
      reads it.
  """
  built = _call(configurable)
  raise_on_unread()
  return built


def _call(configurable):
  raise_on_missing()
  raise_on_wrong_types()
  try:
    with declaration.built_by_gin():
      return gin.get_configurable(configurable)()
  except Exception as error:
    raise UserError(_explain_build(error)) from error


def build_with(configurable, macros: Mapping[str, Any]) -> tuple[Any, str]:
  """Calls a configurable with other values of some macros, for this call.

  Args:
    configurable: a class or function that the gin files import.
    macros: values by name, in place of what the files and bindings give. What
      was parsed is as before when the call returns, or fails.

  Returns:
    What it returns, and the settings that were read for it, as gin text that
    parses again.

  Raises:
    UserError: there is no such macro, nothing reads it, its value cannot be
      written as gin text, or see `build`.
  """
  known = _macros()
  for name, value in macros.items():
    if name not in known:
      raise UserError(
        f"no gin file given knows {name}. {_suggest(name, known)}"
      )
    if not _is_literal(value):
      raise UserError(
        f"{name} is {value!r}; it must be a number, a text, True, False, None"
        " or a list or dictionary of them."
      )
  config, operative = gin_config._CONFIG, gin_config._OPERATIVE_CONFIG
  before = [
    (store, {key: dict(each) for key, each in store.items()})
    for store in (config, operative)
  ]
  try:
    for name, value in macros.items():
      config[name, "gin.macro"] = {"value": value}
    _make_paths_absolute()
    operative.clear()
    built = _call(configurable)
    unread = [name for name in macros if (name, "gin.macro") not in operative]
    if unread:
      raise UserError(
        f"nothing reads {', '.join(sorted(unread))} with these settings. Leave"
        " it out."
      )
    return built, operative_config()
  finally:
    for store, content in before:
      store.clear()
      store.update(content)


def _is_literal(value: Any) -> bool:
  try:
    return ast.literal_eval(repr(value)) == value
  except (ValueError, SyntaxError):
    return False


def raise_on_missing() -> None:
  """Refuses to go on without a macro that must be given.

  Call before objects are built: to them, what is missing looks like a value.

  Raises:
    UserError: names all of them.
  """
  config = gin_config._CONFIG
  missing = {
    scope
    for (scope, selector), parameters in config.items()
    if selector == "gin.macro" and str(parameters["value"]) == "%gin.REQUIRED"
  } | {
    reference.scoped_selector.split("/")[0]
    for reference in gin_config.iterate_references(config)
    if reference.selector == "gin.macro" and reference.config_key not in config
  }
  hints = []
  if "MODEL_CONFIG" in missing:
    hints.append(
      "No model was given. Put a model's gin file before the run's, e.g."
      " --gin_file=gin/models/t5_1_1/tiny.gin."
    )
  if others := sorted(missing - {"MODEL_CONFIG"}):
    arguments = " ".join(f"--gin.{name}=VALUE" for name in others)
    hints.append(f"Missing: {arguments}.")
  if hints:
    raise UserError("\n".join(hints))


def raise_on_wrong_types() -> None:
  """Refuses values that are not of the type of what they are bound to.

  Call before objects are built, which would fail in their own words.

  Raises:
    UserError: names the macro, its value and what it must be.
  """
  config = gin_config._CONFIG
  for (_, selector), parameters in config.items():
    if selector == "gin.macro":
      continue
    hints = _find_types(selector)
    for parameter, value in parameters.items():
      name, value = _follow_macros(f"{selector}.{parameter}", value)
      if parameter not in hints or any(gin_config.iterate_references(value)):
        continue
      problem = fields.explain_mismatch(name, value, hints[parameter])
      if problem is not None:
        raise UserError(problem)


def _find_types(selector: str) -> dict[str, Any]:
  """Returns the types of a configurable's parameters, where they are known."""
  wrapped = gin_config._REGISTRY[selector].wrapped
  is_plain_class = isinstance(wrapped, type) and not dataclasses.is_dataclass(
    wrapped
  )
  try:
    return typing.get_type_hints(
      wrapped.__init__ if is_plain_class else wrapped, include_extras=True
    )
  except (NameError, TypeError):
    return {}


def _follow_macros(name: str, value: Any) -> tuple[str, Any]:
  """Returns the macro that a value comes from, and the value."""
  seen = set()
  while (
    isinstance(value, gin_config.ConfigurableReference)
    and value.config_key in gin_config._CONFIG
    and value.config_key[1] == "gin.macro"
    and value.config_key not in seen
  ):
    seen.add(value.config_key)
    name = value.config_key[0]
    value = gin_config._CONFIG[value.config_key]["value"]
  return name, value


def raise_on_unread() -> None:
  """Refuses settings that were parsed and that nothing has read.

  Those that would be read, had no later file replaced what reads them, are no
  mistake. Call after all objects are built.

  Raises:
    UserError: names them.
  """
  config, operative = gin_config._CONFIG, gin_config._OPERATIVE_CONFIG
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
      if parameter not in read and not _record.excuses(
        (scope, selector), parameter
      ):
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
    scope for scope, selector in gin_config._CONFIG if selector == "gin.macro"
  }


@contextlib.contextmanager
def _without_search_noise() -> Iterator[None]:
  """Silences gin's error for each folder that it searches in vain."""

  def keep(record):
    return record.module != "resource_reader"

  logging.root.addFilter(keep)
  try:
    yield
  finally:
    logging.root.removeFilter(keep)


def _explain_file(
  file: str, search_paths: Sequence[str], error: Exception
) -> str:
  absent = re.match(r"Unable to open file: (.*?)\. Searched", str(error))
  if absent is None:
    return f"The gin file {file} cannot be read: {error}"
  if absent[1] != file:
    file = f"{absent[1]}, which {file} includes,"
  folders = ", ".join(dict.fromkeys(search_paths))
  return (
    f"There is no gin file {file} in {folders}. Correct its path, or add the"
    " folder it starts from with --gin_search_paths."
  )


def _explain_binding(binding: str, error: Exception) -> str:
  flag = f"--gin.{binding.replace(' = ', '=', 1)}"
  if isinstance(error, SyntaxError):
    return f"{flag}: the value is no Python literal. {_QUOTING}"
  # Further lines repeat the binding.
  message, _, _ = str(error).partition("\n")
  return f"{flag}: {message}"


def _explain_build(error: Exception) -> str:
  """Takes out of gin's message the calls on the way and the addresses."""
  message, _, calls = str(error).partition("\n  In call to configurable ")
  if isinstance(error, UserError):
    return message
  name = re.match(r"'\w+'", calls)
  owner = f" of {name[0]}" if name else ""
  # Further lines list what gin would have passed.
  message, _, _ = message.partition("\n")
  hint = ""
  if name and name[0].strip("'") in _SCHEDULES:
    hint = (
      ". SCHEDULE, LEARNING_RATE and WARMUP_STEPS choose a schedule by name; a"
      " schedule object with settings is for a gin file"
    )
  return f"The settings{owner} do not fit: {message}{hint}"
