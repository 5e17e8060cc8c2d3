"""distill-jax: distilling step by step in JAX, one stage a run mode.

A first run, with data that is generated and a student of 0.3 million
parameters:

  distill-jax --run_mode=train --gin_file=gin/models/t5_1_1/tiny.gin
    --gin_file=gin/runs/train.gin --gin.TRAIN_STEPS=100
    --gin.MIXTURE_OR_TASK_NAME=word_problems_distill
    --gin.MODEL_DIR=/tmp/first_run

Settings are gin macros: --gin.NAME=value. Texts inside a list or dictionary
need quotes. --run_mode=train --help shows the settings of training.
"""

import contextlib
import importlib
import os
import pathlib
import sys
import textwrap
from collections.abc import Iterator
from typing import Any

from absl import flags

from distill_jax import __version__
from distill_jax.config import (
  command_line,
  console_logging,
  gin_bindings,
  gin_help,
  interrupts,
)
from distill_jax.errors import UserError
from distill_jax.runs import mode as mode_lib
from distill_jax.runs.mode import RUN_MODES, RunMode

_PACKAGE = pathlib.Path(__file__).parent
_RUN_MODE = flags.DEFINE_enum(
  "run_mode",
  None,
  list(RUN_MODES),
  f"The stage to run: {', '.join(RUN_MODES)}.",
)
_GIN_FILES = flags.DEFINE_multi_string(
  "gin_file",
  None,
  "A gin file; may be given several times, a model's before a run's. Sought in"
  " this folder, in --gin_search_paths and in the installed package.",
)
_GIN_BINDINGS = flags.DEFINE_multi_string(
  "gin_bindings", [], "A binding; --gin.NAME=value is the same and shorter."
)
_GIN_SEARCH_PATHS = flags.DEFINE_list(
  "gin_search_paths", [], "More folders in which gin files are sought."
)
flags.DEFINE_bool(
  "dry_run",
  False,
  "print the first prompts and an estimate of the cost; send nothing.",
)
flags.DEFINE_bool(
  "evaluate",
  False,
  "compare prompts, teachers and temperatures on labelled questions.",
)
flags.DEFINE_bool(
  "rebuild",
  False,
  "make the records again from the journal; send nothing.",
)
flags.DEFINE_string(
  "shard",
  None,
  "i/n; only the questions i, i + n, ... counted from 0. A run without"
  " it puts the shards together.",
)
_OVERWRITE = flags.DEFINE_bool(
  "overwrite", False, "Replace what an earlier run wrote to the same place."
)
flags.DEFINE_bool(
  "multiprocess_gpu",
  False,
  "join the other processes of this run, found by JAX where the next"
  " three flags are not given. TPU pods and srun are found without it.",
)
flags.DEFINE_string(
  "coordinator_address", None, "HOST:PORT of process 0, free there."
)
flags.DEFINE_integer("process_count", None, "how many processes the run has.")
flags.DEFINE_integer("process_index", None, "which of them this is, from 0.")
_JOIN_SECONDS = flags.DEFINE_integer(
  "join_seconds",
  300,
  "the longest to wait for the other processes at the start.",
  lower_bound=1,
)
_LOST_PROCESS_SECONDS = flags.DEFINE_integer(
  "lost_process_seconds",
  60,
  "a process without a heartbeat for that long ends the others.",
  lower_bound=1,
)


def main(arguments: list[str]) -> int | None:
  """Parses the settings and runs the mode; returns the exit code, if any."""
  if len(arguments) > 1:
    raise UserError(
      f"Unexpected arguments {arguments[1:]}. Settings are given as"
      " --gin.NAME=value; see --help."
    )
  if _RUN_MODE.value is None:
    raise UserError(
      f"--run_mode is missing; it is one of {', '.join(RUN_MODES)}. See --help."
    )
  mode = RUN_MODES[_RUN_MODE.value]
  if not _GIN_FILES.value:
    raise UserError(
      f"--gin_file is missing, e.g. --gin_file={mode.gin_file}. See --help."
    )
  _raise_on_unread_flags(mode)
  with _joined_processes(mode):
    returned = _run_mode(mode, _GIN_FILES.value)
  # The other modes return what they made.
  return returned if mode.returns_exit_code else None


def _run_mode(mode: RunMode, gin_files: list[str]) -> Any:
  """Builds the settings of the mode and runs it."""
  # Gin files import what they configure.
  with interrupts.deferred():
    gin_bindings.parse(gin_files, _GIN_BINDINGS.value, _list_search_paths())
  if mode.finds_its_model:
    # A checkpoint knows its model; a model's gin file may still be given.
    gin_bindings.set_default("MODEL_CONFIG", "None")
  if mode.needs_jax:
    _use_compilation_cache()
  with interrupts.deferred():
    module = importlib.import_module(mode.module)
  read = {name: flags.FLAGS[name].value for name in mode.flags}
  arguments = module.read_flags(**read) if read else {}
  run_settings = gin_bindings.build(getattr(module, mode.settings_class))
  return module.run(
    run_settings,
    operative_config=gin_bindings.operative_config(),
    overwrite=_OVERWRITE.value,
    **arguments,
  )


def _list_search_paths() -> list[str]:
  """Returns the folders in which gin files are sought."""
  given = _GIN_SEARCH_PATHS.value
  return [*given, os.getcwd(), str(_PACKAGE), str(_PACKAGE.parent)]


def _raise_on_unread_flags(mode: RunMode) -> None:
  """Refuses flags of other modes.

  Raises:
    UserError: names them, and the modes that they belong to.
  """
  given = {
    name: flags.FLAGS[name].value
    for name in flags.FLAGS
    if flags.FLAGS[name].value != flags.FLAGS[name].default
  }
  unread = mode_lib.find_unread(mode, given)
  if unread:
    readers = {
      f"--run_mode={name}" for names in unread.values() for name in names
    }
    raise UserError(
      f"--run_mode={mode.name} does not read --{', --'.join(unread)};"
      f" {' and '.join(sorted(readers))}"
      f" {'does' if len(readers) == 1 else 'do'}. Leave it out."
    )


@contextlib.contextmanager
def _joined_processes(mode: RunMode) -> Iterator[None]:
  """Joins the other processes of a run, and ends with them."""
  if not mode.needs_jax or mode.sets_up_jax:
    yield
    return
  from distill_jax.hosts import distributed, end_together

  launch = distributed.read_launch(
    {name: flags.FLAGS[name].value for name in mode_lib.PROCESS_FLAGS}
  )
  if not mode.runs_in_several_processes:
    if launch.is_several:
      others = [
        m.name for m in RUN_MODES.values() if m.runs_in_several_processes
      ]
      raise UserError(
        f"--run_mode={mode.name} runs in one process, on all the devices it"
        f" sees; --run_mode={' and '.join(others)} in several. Start it once,"
        " in one task and without JAX_COORDINATOR_ADDRESS."
      )
    yield
    return
  lost_seconds = _LOST_PROCESS_SECONDS.value
  # JAX's own limit is what is left when ours fails, so it comes later.
  if distributed.join(launch, _JOIN_SECONDS.value, 2 * lost_seconds + 10):
    console_logging.speak_as(distributed.process_index())
  with end_together.end_together(lost_seconds):
    yield


def run() -> None:
  """Entry point of the `distill-jax` command."""
  console_logging.set_up()
  # As `python -m` does: a user's own tasks may be a module in this folder.
  sys.path.append(os.getcwd())
  arguments = gin_bindings.rewrite_arguments(sys.argv)
  command_line.run("distill-jax", main, arguments, _print_help, __version__)


def _use_compilation_cache() -> None:
  """Keeps compiled programs, so that a restart or a sweep compiles once."""
  # Importing JAX is left to here: a wrong flag is reported at once.
  with interrupts.deferred():
    import jax

  if not os.environ.get("JAX_COMPILATION_CACHE_DIR"):
    folder = pathlib.Path("~/.cache/distill_jax/xla").expanduser()
    jax.config.update("jax_compilation_cache_dir", str(folder))
  if not os.environ.get("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"):
    # By default a second: it leaves out all that a small student compiles.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)


def _print_help() -> None:
  """Teaches; absl's own help speaks of the module that happens to be main."""
  if flags.FLAGS.is_parsed() and _RUN_MODE.value is not None:
    _print_help_of(RUN_MODES[_RUN_MODE.value])
    return
  print(__doc__)
  print("Run modes:")
  for mode in RUN_MODES.values():
    print(f"  {mode.name:<11} {mode.summary}")
  print("\nFlags:")
  for flag in flags.FLAGS.get_flags_for_module(sys.modules[__name__]):
    _print_flag(flag)
  print("  --verbosity=0\n    Shows the messages of libraries too.")
  print("  --version\n    Shows which distill-jax this is.")


def _print_help_of(mode: RunMode) -> None:
  """Shows the settings and flags of one mode."""
  files = _GIN_FILES.value or [mode.gin_file]
  macros = gin_help.read_macros(files, _list_search_paths())
  print(f"distill-jax --run_mode={mode.name}: {mode.summary}\n")
  print(f"Settings of {', '.join(files)}, each given as --gin.NAME=value.\n")
  print(gin_help.format_macros(macros))
  if mode.all_flags:
    print("\nFlags of this mode:")
  for name in mode.all_flags:
    _print_flag(flags.FLAGS[name])


def _print_flag(flag: flags.Flag) -> None:
  readers = mode_lib.find_readers(flag.name)
  described = textwrap.fill(
    f"{', '.join(readers)}: " * bool(readers) + flag.help,
    width=80,
    initial_indent="    ",
    subsequent_indent="    ",
  )
  print(f"  --{flag.name}\n{described}")


if __name__ == "__main__":
  run()
