"""The table of run modes: what `main` must know of each."""

import dataclasses
from typing import Any


@dataclasses.dataclass(frozen=True)
class RunMode:
  """A stage that `--run_mode` names. Its module has the settings and `run`.

  Attributes:
    name: as --run_mode gives it.
    summary: from what to what, for --help.
    module: is imported when the mode runs.
    settings_class: in that module.
    flags: of this mode alone; its module's `read_flags` makes arguments of
      `run` out of them.
    needs_jax: whether `run` computes with it.
    sets_up_jax: whether `run` does before JAX looks for devices.
    runs_in_several_processes: whether several processes may share the work.
    finds_its_model: whether a model's gin file may be left out.
    returns_exit_code: whether that is what `run` returns.
  """

  name: str
  summary: str
  module: str
  settings_class: str
  flags: tuple[str, ...] = ()
  needs_jax: bool = True
  sets_up_jax: bool = False
  runs_in_several_processes: bool = False
  finds_its_model: bool = False
  returns_exit_code: bool = False

  @property
  def all_flags(self) -> tuple[str, ...]:
    """The flags that not every mode reads, and this one does."""
    shared = PROCESS_FLAGS if self.runs_in_several_processes else ()
    return (*self.flags, *shared)

  @property
  def gin_file(self) -> str:
    """The gin file that binds its settings."""
    return f"gin/runs/{self.name}.gin"


# How a process finds the others, of the modes that run in several.
PROCESS_FLAGS = (
  "multiprocess_gpu",
  "coordinator_address",
  "process_count",
  "process_index",
  "join_seconds",
  "lost_process_seconds",
)

RUN_MODES: dict[str, RunMode] = {
  mode.name: mode
  for mode in (
    RunMode(
      "label",
      "questions -> a teacher's answers -> records",
      "distill_jax.runs.label",
      "LabelRun",
      flags=("dry_run", "evaluate", "rebuild", "shard"),
      needs_jax=False,
      returns_exit_code=True,
    ),
    RunMode(
      "prepare",
      "SeqIO tasks -> token cache",
      "distill_jax.runs.prepare",
      "PrepareRun",
      needs_jax=False,
    ),
    RunMode(
      "train",
      "token cache -> checkpoints, metrics.jsonl, TensorBoard events",
      "distill_jax.runs.train",
      "TrainRun",
      runs_in_several_processes=True,
    ),
    RunMode(
      "eval",
      "checkpoint -> metrics and predictions",
      "distill_jax.runs.eval",
      "EvalRun",
      finds_its_model=True,
    ),
    RunMode(
      "infer",
      "checkpoint + any text or JSONL -> predictions JSONL",
      "distill_jax.runs.infer",
      "InferRun",
      finds_its_model=True,
    ),
    RunMode(
      "sweep",
      "arms x training-set sizes x seeds -> table, plots, report",
      "distill_jax.runs.sweep",
      "SweepRun",
      returns_exit_code=True,
    ),
    RunMode(
      "precompile",
      "gin files -> memory and bounds on accelerators that are not here",
      "distill_jax.runs.precompile",
      "PrecompileRun",
      sets_up_jax=True,
      returns_exit_code=True,
    ),
  )
}


def find_readers(flag: str) -> list[str]:
  """Returns the modes that a flag belongs to; none: it belongs to all.

  Args:
    flag: its name.
  """
  return [mode.name for mode in RUN_MODES.values() if flag in mode.all_flags]


def find_unread(mode: RunMode, given: dict[str, Any]) -> dict[str, list[str]]:
  """Finds flags that were given to a mode that does not read them.

  Args:
    mode: the mode that runs.
    given: values of the flags that are not at their defaults, by name.

  Returns:
    The modes that each belongs to, by its name.
  """
  return {
    flag: readers
    for flag in given
    if (readers := find_readers(flag)) and mode.name not in readers
  }
