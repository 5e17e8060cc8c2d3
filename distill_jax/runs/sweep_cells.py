"""The runs of a sweep: each arm, size and seed as settings of `train`.

gin builds each run, with the arm's macros in place of the sweep's, so whatever
training can be told an arm can be told.
"""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import Any

from distill_jax.config import gin_bindings
from distill_jax.data import datasets, task_kinds
from distill_jax.data.settings import DataSettings
from distill_jax.errors import UserError
from distill_jax.runs import prepare, train

_OWN_KEYS = ("SIZES", "SEEDS", "EVAL_TASK")
# What the sweep gives each run, and what to write instead.
_GIVEN = {
  "SEED": "give SEEDS, a list",
  "MODEL_DIR": "each run has a folder of its own",
}


@dataclasses.dataclass(frozen=True)
class Arm:
  """One way to train.

  Attributes:
    name: how the report calls it.
    macros: of the run file, in place of the sweep's.
    seeds: of initialization, order and dropout, by the number of training
      examples to ask for.
    eval_task: the label task that is scored; None: that of its mixture.
  """

  name: str
  macros: Mapping[str, Any]
  seeds: Mapping[int, Sequence[int]]
  eval_task: str | None = None

  @property
  def slug(self) -> str:
    """The name as the start of a folder's name."""
    return re.sub(r"\W+", "-", self.name.lower()).strip("-")


@dataclasses.dataclass(frozen=True)
class Cell:
  """One run of a sweep.

  Attributes:
    arm: how it trains.
    size: training examples asked for.
    seed: its seed.
    settings: of the run; None where they could not be made.
    gin_text: the same, as a file that `--run_mode=train` takes.
    eval_task: the label task that is scored; None: the run's token cache tells.
    error: why there are no settings, such as a data set that does not load.
  """

  arm: Arm
  size: int
  seed: int
  settings: train.TrainRun | None = None
  gin_text: str = ""
  eval_task: str | None = None
  error: Exception | None = None

  @property
  def folder_name(self) -> str:
    """The name of its folder."""
    return f"{self.arm.slug}-{self.size}-seed{self.seed}"

  @property
  def work(self) -> float:
    """Steps times rows, to weigh its time by."""
    if self.settings is None:
      return 0.0
    return float(self.settings.train_steps * self.settings.feed.batch_rows)

  def describe(self) -> str:
    """Returns words such as "step by step, 125 examples, seed 3"."""
    return f"{self.arm.name}, {self.size:,} examples, seed {self.seed}"


def read_arms(
  arms: Mapping[str, Mapping[str, Any]],
  sizes: Sequence[int],
  seeds: Sequence[int] | Mapping[int, Sequence[int]],
) -> list[Arm]:
  """Reads ARMS.

  Args:
    arms: macros by the arm's name; SIZES, SEEDS and EVAL_TASK among them are
      the arm's own.
    sizes: of arms that have none of their own.
    seeds: of arms that have none of their own; a dictionary maps a size to its
      seeds.

  Raises:
    UserError: names the arm and what cannot be.
  """
  if not isinstance(arms, Mapping) or not arms:
    raise UserError(
      f"ARMS is {arms!r}; it must give at least one arm, as {{'name':"
      " {'MIXTURE_OR_TASK_NAME': 'task', ...}}."
    )
  _read_seeds("", sizes, seeds)
  read: list[Arm] = []
  for name, macros in arms.items():
    where = f"ARMS[{name!r}]"
    if not isinstance(name, str) or not Arm(str(name), {}, {}).slug:
      raise UserError(f"{where}: an arm's name needs a letter or digit.")
    if not isinstance(macros, Mapping) or not all(
      isinstance(key, str) for key in macros
    ):
      raise UserError(
        f"{where} is {macros!r}; it must be a dictionary of macros to values."
      )
    for macro, instead in _GIVEN.items():
      if macro in macros:
        raise UserError(f"{where} has {macro}; leave it out: {instead}.")
    own_seeds = macros.get("SEEDS", seeds)
    own_sizes = macros.get("SIZES", sizes)
    if "SIZES" not in macros and isinstance(macros.get("SEEDS"), Mapping):
      own_sizes = tuple(own_seeds)
    by_size = _read_seeds(f"{where}: ", own_sizes, own_seeds)
    eval_task = macros.get("EVAL_TASK")
    if eval_task is not None and (
      not isinstance(eval_task, str) or not eval_task
    ):
      raise UserError(
        f"{where}: EVAL_TASK is {eval_task!r}; it must be a task's name."
      )
    others = {k: v for k, v in macros.items() if k not in _OWN_KEYS}
    arm = Arm(name, others, by_size, eval_task)
    for other in read:
      if other.slug == arm.slug:
        raise UserError(
          f"ARMS has {other.name!r} and {name!r}, whose runs would share the"
          f" folders {arm.slug}-*. Give one of them another name."
        )
    read.append(arm)
  return read


def _read_seeds(where: str, sizes: Any, seeds: Any) -> dict[int, list[int]]:
  """Returns the seeds of each size."""
  check_numbers(f"{where}SIZES", sizes, 1)
  if not isinstance(seeds, Mapping):
    check_numbers(f"{where}SEEDS", seeds, 0)
    return {size: list(seeds) for size in sizes}
  for size in sizes:
    if size not in seeds:
      raise UserError(
        f"{where}SEEDS is {dict(seeds)!r}, without seeds for {size} examples."
        " Give each of SIZES its own, or one list for all."
      )
    check_numbers(f"{where}SEEDS[{size}]", seeds[size], 0)
  return {size: list(seeds[size]) for size in sizes}


def check_numbers(name: str, values: Any, least: int) -> None:
  """Refuses what is no list of different whole numbers.

  Args:
    name: of the setting.
    values: its value.
    least: the smallest number that may be in it.

  Raises:
    UserError: names the setting.
  """
  is_list = isinstance(values, Sequence) and not isinstance(values, str)
  if not is_list or not values:
    raise UserError(
      f"{name} is {values!r}; it must be a list of at least one number, such as"
      f" ({least},)."
    )
  if not all(type(value) is int and value >= least for value in values):
    raise UserError(
      f"{name} is {values!r}; it must hold whole numbers >= {least}."
    )
  if len(set(values)) < len(values):
    raise UserError(
      f"{name} has one of {list(values)} twice; each run has its own folder."
    )


def make_cells(arms: Sequence[Arm], folder: Any) -> list[Cell]:
  """Makes the settings of all runs: by size, then seed, then arm.

  So a sweep that is stopped has runs of every arm.

  Args:
    arms: see `read_arms`.
    folder: of the sweep, in which each run has its own.

  Raises:
    UserError: a run's settings cannot be; names arm and macro. Any other error
      is kept in the cell, as it is that of one data set.
  """
  made: dict[tuple[str, int, int], Cell] = {}
  firsts: dict[str, train.TrainRun | None] = {}
  for arm in arms:
    training = _describe_training(arm)
    for size in arm.seeds:
      first = firsts.get(training)
      for cell in _make_cells_of_size(arm, size, folder, first):
        made[arm.name, size, cell.seed] = cell
        firsts[training] = firsts.get(training) or cell.settings
  sizes = dict.fromkeys(size for arm in arms for size in arm.seeds)
  seeds = dict.fromkeys(cell.seed for cell in made.values())
  keys = [
    (arm.name, size, seed) for size in sizes for seed in seeds for arm in arms
  ]
  return [made[key] for key in keys if key in made]


def _make_cells_of_size(
  arm: Arm, size: int, folder, first: train.TrainRun | None
) -> list[Cell]:
  """Makes the runs of a size.

  Args:
    arm: see `make_cells`.
    size: one of its sizes.
    folder: of the sweep.
    first: settings of the first run that trains alike; None: it is among these.
  """
  cells = []
  try:
    sizing = _find_size_macros(arm, size, folder)
    for seed in arm.seeds[size]:
      cell = Cell(arm, size, seed)
      settings, text = _build(
        arm,
        {**sizing, "SEED": seed, "MODEL_DIR": f"{folder}/{cell.folder_name}"},
      )
      # Such runs differ in seed, folder and data only. With one optimizer for
      # all of them, compiled steps are found again.
      first = first or settings
      settings = dataclasses.replace(
        settings, optimizer=first.optimizer, learning_rate=first.learning_rate
      )
      cell = dataclasses.replace(
        cell,
        settings=settings,
        gin_text=text,
        eval_task=_find_eval_task(arm, settings.mixture_or_task_name),
      )
      cell = dataclasses.replace(cell, gin_text=_describe(cell) + text)
      cells.append(cell)
  except UserError as error:
    raise UserError(f"Arm {arm.name!r}: {error}") from error
  except Exception as error:
    return [Cell(arm, size, seed, error=error) for seed in arm.seeds[size]]
  return cells


def _describe_training(arm: Arm) -> str:
  """Returns what arms have in common that differ in nothing but their data."""
  of_data = {field.name.upper() for field in dataclasses.fields(DataSettings)}
  others = {k: v for k, v in arm.macros.items() if k not in of_data}
  return repr(sorted(others.items()))


def _build(arm: Arm, given: Mapping[str, Any]) -> tuple[train.TrainRun, str]:
  return gin_bindings.build_with(train.TrainRun, {**arm.macros, **given})


def _find_size_macros(arm: Arm, size: int, folder) -> dict[str, Any]:
  """Returns the macros that give an arm's data set a number of examples."""
  settings, _ = _build(arm, {"MODEL_DIR": str(folder)})
  if settings.task_module != prepare.DEFAULT_TASK_MODULE:
    # The size of a user's own data set is asked for before any task is.
    prepare.require_own_tasks(settings.task_module)
  resized = _resize(settings.data, settings.mixture_or_task_name, size)
  return {
    # Each field has the macro of its name, see gin/runs/data.gin.
    field.name.upper(): getattr(resized, field.name)
    for field in dataclasses.fields(DataSettings)
    if getattr(resized, field.name) != getattr(settings.data, field.name)
  }


def _resize(data: DataSettings, task: str, size: int) -> DataSettings:
  dataset, _ = task_kinds.split_task_name(task)
  return datasets.resize(data, dataset, size)


def _find_eval_task(arm: Arm, name: str) -> str | None:
  """Returns the label task that is scored, where the mixture's name tells it.

  Raises:
    UserError: the mixture of a known data set has no such task.
  """
  dataset, kind = task_kinds.split_task_name(name)
  kinds = task_kinds.MIXTURES.get(kind or "", (kind,))
  labels = [
    f"{dataset}_{each}" for each in kinds if each not in (None, "rationale")
  ]
  is_known = kind is not None and dataset in datasets.names()
  if is_known and not labels:
    raise UserError(
      f"MIXTURE_OR_TASK_NAME is {name!r}, which has no label task to score."
    )
  if is_known and arm.eval_task not in (None, *labels):
    raise UserError(
      f"EVAL_TASK is {arm.eval_task!r}; the label task of {name} is"
      f" {', '.join(labels)}. Leave it out, or correct it."
    )
  return arm.eval_task or (labels[0] if labels else None)


def _describe(cell: Cell) -> str:
  """Returns gin comments on the run that the settings below are of."""
  scored = cell.eval_task or "the label task of its mixture"
  return (
    f"# One run of a sweep: {cell.describe()!r}. It is scored on {scored}.\n"
    "# By itself it is run with --run_mode=train and this --gin_file.\n\n"
  )
