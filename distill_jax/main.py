"""distill-jax: distilling step by step in JAX, one stage a run mode.

  label       questions -> a teacher's answers -> records
  prepare     SeqIO tasks -> token cache
  train       token cache -> checkpoints, metrics.jsonl, TensorBoard events
  eval        checkpoint -> metrics and predictions
  infer       checkpoint + any text or JSONL -> predictions JSONL
  sweep       arms x training-set sizes x seeds -> table, plots, report
  precompile  gin files -> memory and bounds on accelerators that are not here

A first run, with data that is generated and a student of 0.3 million
parameters:

  distill-jax --run_mode=train --gin_file=gin/models/t5_1_1/tiny.gin
    --gin_file=gin/runs/train.gin --gin.TRAIN_STEPS=100
    --gin.MIXTURE_OR_TASK_NAME="'word_problems_distill'"
    --gin.MODEL_DIR="'/tmp/first_run'"

Settings are gin macros: --gin.NAME=value. Strings need quotes of their own
inside the shell's. The header of each file in gin/runs/ lists its macros.
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

from distill_jax.config import (
  command_line,
  console_logging,
  gin_bindings,
  interrupts,
)
from distill_jax.errors import UserError

_PACKAGE = pathlib.Path(__file__).parent
# Run mode -> module with the class of its settings and its `run`.
_RUN_MODES = {
  "label": ("distill_jax.runs.label", "LabelRun"),
  "prepare": ("distill_jax.runs.prepare", "PrepareRun"),
  "train": ("distill_jax.runs.train", "TrainRun"),
  "eval": ("distill_jax.runs.eval", "EvalRun"),
  "infer": ("distill_jax.runs.infer", "InferRun"),
  "sweep": ("distill_jax.runs.sweep", "SweepRun"),
  "precompile": ("distill_jax.runs.precompile", "PrecompileRun"),
}
# Modes whose `run` returns an exit code.
_WITH_EXIT_CODE = ("label", "precompile", "sweep")

_RUN_MODE = flags.DEFINE_enum(
  "run_mode",
  None,
  list(_RUN_MODES),
  f"The stage to run: {', '.join(_RUN_MODES)}.",
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
_DRY_RUN = flags.DEFINE_bool(
  "dry_run",
  False,
  "label: print the first prompts and an estimate of the cost; send nothing.",
)
_EVALUATE = flags.DEFINE_bool(
  "evaluate",
  False,
  "label: compare prompts, teachers and temperatures on labelled questions.",
)
_REBUILD = flags.DEFINE_bool(
  "rebuild",
  False,
  "label: make the records again from the journal; send nothing.",
)
_SHARD = flags.DEFINE_string(
  "shard",
  None,
  "label: i/n; only the questions i, i + n, ... counted from 0. A run without"
  " it puts the shards together.",
)
_OVERWRITE = flags.DEFINE_bool(
  "overwrite", False, "Replace what an earlier run wrote to the same place."
)
_MULTIPROCESS_GPU = flags.DEFINE_bool(
  "multiprocess_gpu",
  False,
  "train: join the other processes of this run, found by JAX where the next"
  " three flags are not given. TPU pods and srun are found without it.",
)
_COORDINATOR_ADDRESS = flags.DEFINE_string(
  "coordinator_address", None, "train: HOST:PORT of process 0, free there."
)
_PROCESS_COUNT = flags.DEFINE_integer(
  "process_count", None, "train: how many processes the run has."
)
_PROCESS_INDEX = flags.DEFINE_integer(
  "process_index", None, "train: which of them this is, from 0."
)
_JOIN_SECONDS = flags.DEFINE_integer(
  "join_seconds",
  300,
  "train: the longest to wait for the other processes at the start.",
  lower_bound=1,
)
_LOST_PROCESS_SECONDS = flags.DEFINE_integer(
  "lost_process_seconds",
  60,
  "train: a process not heard from for so long ends the others.",
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
      f"--run_mode is missing; it is one of {', '.join(_RUN_MODES)}. See"
      " --help."
    )
  if not _GIN_FILES.value:
    raise UserError(
      f"--gin_file is missing, e.g. --gin_file=gin/runs/{_RUN_MODE.value}.gin."
      " See --help."
    )
  flags_of_mode = _read_mode_flags()
  with _joined_processes():
    returned = _run_mode(_RUN_MODE.value, _GIN_FILES.value, flags_of_mode)
  # The other modes return what they made.
  return returned if _RUN_MODE.value in _WITH_EXIT_CODE else None


def _run_mode(
  run_mode: str, gin_files: list[str], flags_of_mode: dict[str, Any]
) -> Any:
  """Builds the settings of the mode and runs it."""
  module_name, settings_class = _RUN_MODES[run_mode]
  # Gin files import what they configure.
  with interrupts.deferred():
    gin_bindings.parse(
      gin_files,
      _GIN_BINDINGS.value,
      [
        *_GIN_SEARCH_PATHS.value,
        os.getcwd(),
        str(_PACKAGE),
        str(_PACKAGE.parent),
      ],
    )
  if run_mode in ("eval", "infer"):
    # A checkpoint knows its model; a model's gin file may still be given.
    gin_bindings.set_default("MODEL_CONFIG", "None")
  if run_mode != "label":
    _use_compilation_cache()
  with interrupts.deferred():
    module = importlib.import_module(module_name)
  run_settings = gin_bindings.build(getattr(module, settings_class))
  return module.run(
    run_settings,
    operative_config=gin_bindings.operative_config(),
    overwrite=_OVERWRITE.value,
    **flags_of_mode,
  )


def _read_mode_flags() -> dict[str, Any]:
  """Returns what the flags of one mode say, as arguments of its `run`.

  Raises:
    UserError: another mode was given one of them, or they exclude each other.
  """
  given = [
    holder.name for holder in (_DRY_RUN, _EVALUATE, _REBUILD) if holder.value
  ]
  if _RUN_MODE.value != "label":
    if _SHARD.value is not None:
      given.append(_SHARD.name)
    if given:
      raise UserError(
        f"--run_mode={_RUN_MODE.value} does not read --{', --'.join(given)};"
        " --run_mode=label does. Leave it out."
      )
    return {}
  if len(given) > 1:
    raise UserError(
      f"--{' and --'.join(given)} exclude each other. Give one of them."
    )
  if _EVALUATE.value and _SHARD.value is not None:
    raise UserError(
      "--evaluate compares on few questions and takes no --shard. Leave that"
      " out."
    )
  return {"action": given[0] if given else "label", "shard": _SHARD.value}


@contextlib.contextmanager
def _joined_processes() -> Iterator[None]:
  """Joins the other processes of a training run, and ends with them."""
  if _RUN_MODE.value in ("label", "prepare", "precompile"):
    yield  # JAX is not needed, or not before the mode has set it up.
    return
  from distill_jax.hosts import distributed, end_together

  launch = distributed.read_launch(
    {
      holder.name: holder.value
      for holder in (
        _MULTIPROCESS_GPU,
        _COORDINATOR_ADDRESS,
        _PROCESS_COUNT,
        _PROCESS_INDEX,
      )
    }
  )
  if _RUN_MODE.value != "train":
    if launch.is_several:
      raise UserError(
        f"--run_mode={_RUN_MODE.value} runs in one process, on all the devices"
        " it sees; --run_mode=train in several. Start it once, without"
        " --coordinator_address and in one task."
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
  command_line.run("distill-jax", main, arguments, _print_help)


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
  print(__doc__)
  print("Flags:")
  for holder in (
    _RUN_MODE,
    _GIN_FILES,
    _GIN_BINDINGS,
    _GIN_SEARCH_PATHS,
    _DRY_RUN,
    _EVALUATE,
    _REBUILD,
    _SHARD,
    _OVERWRITE,
    _MULTIPROCESS_GPU,
    _COORDINATOR_ADDRESS,
    _PROCESS_COUNT,
    _PROCESS_INDEX,
    _JOIN_SECONDS,
    _LOST_PROCESS_SECONDS,
  ):
    described = textwrap.fill(
      flags.FLAGS[holder.name].help,
      width=80,
      initial_indent="    ",
      subsequent_indent="    ",
    )
    print(f"  --{holder.name}\n{described}")
  print("  --verbosity=0\n    Shows the messages of libraries too.")


if __name__ == "__main__":
  run()
