"""Training and evaluation for programs and notebooks: no flags, no gin.

Settings go by their names in Python; what they are not given is as the gin
files of the run modes have it.
"""

import contextlib
import dataclasses
import inspect
import os
import pathlib
import signal
import threading
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from distill_jax.answers.equality import LabelMetric
from distill_jax.config import console_logging
from distill_jax.data import given_records, task_kinds
from distill_jax.data.feed.pipeline import FeedConfig
from distill_jax.data.records import read_json_lines
from distill_jax.data.settings import DataSettings
from distill_jax.data.token_cache import suggest
from distill_jax.errors import UserError
from distill_jax.hosts import preemption
from distill_jax.objective.objective import make_step_by_step
from distill_jax.optim import factory, schedules
from distill_jax.run_folder import model_dir as model_dir_lib
from distill_jax.runs import eval as eval_lib
from distill_jax.runs import train as train_lib
from distill_jax.student.opening import load_student
from distill_jax.student.student import Student

_OPTIMIZERS = {"adafactor": factory.adafactor, "adamw": factory.adamw}
# As in gin/runs/train.gin and train_adamw.gin.
_RATES = {
  "adafactor": {"learning_rate": 1e-3, "schedule": "constant"},
  "adamw": {"learning_rate": 5e-5, "schedule": "linear"},
}
_FEED = {"feature_lengths": {"inputs": 256, "targets": 128}, "batch_rows": 32}
_INTERRUPTED = 128 + signal.SIGINT


@dataclasses.dataclass(frozen=True)
class Run:
  """A run of training, as its folder has it.

  Example:
    >>> import distill_jax as dj
    >>> run = dj.Run("runs/svamp")
    >>> run.metrics[-1]["step"]
    2
    >>> student = run.load_student()

  Attributes:
    model_dir: its folder.
  """

  model_dir: str

  @property
  def metrics(self) -> list[dict[str, Any]]:
    """The lines of its metrics.jsonl: `step`, `split` and what was measured."""
    path = pathlib.Path(self.model_dir).expanduser() / "metrics.jsonl"
    return [fields for _, fields in read_json_lines(path)]

  def load_student(self, **options: Any) -> Student:
    """Opens what was trained; see `load_student` for the options."""
    return load_student(self.model_dir, **options)


def train(
  config: Any,
  data: Any,
  model_dir: str | os.PathLike,
  train_steps: int,
  *,
  kind: str | None = None,
  metric: LabelMetric | None = None,
  label_set: Sequence[str] | None = None,
  overwrite: bool = False,
  **settings: Any,
) -> Run:
  """Trains a student; goes on where the run in `model_dir` stopped.

  Example:
    >>> import distill_jax as dj
    >>> rows = [{"input": f"{i} + 1 ?", "label": str(i + 1)} for i in range(9)]
    >>> run = dj.train(
    ...   dj.presets.t5_1_1("tiny", num_encoder_layers=1, num_decoder_layers=1),
    ...   data=rows,
    ...   model_dir="runs/a",
    ...   train_steps=1,
    ...   feature_lengths={"inputs": 32, "targets": 16},
    ...   batch_rows=8,
    ... )
    >>> run.metrics[0]["step"]
    1

  Args:
    config: the student's architecture, see `presets`.
    data: the name of a task or mixture, such as "svamp_distill"; or records,
      see `given_records.make_dataset`: a list of `Record` or of mappings, a
      DataFrame, or a mapping of "train", "validation" and "test" to these.
    model_dir: folder of the run. What is made of records lies in its
      `token_cache`, unless `cache_dir` is given.
    train_steps: updates in all, those before a resume included.
    kind: of records: a kind of `task_kinds`, such as "distill", "label" or
      "joint"; None: "distill" where a training record has a rationale, else
      "label".
    metric: of records: "exact_match", the default, or "equation".
    label_set: of records: all labels there are; None: any text may be one.
    overwrite: start anew in a folder that holds a run.
    **settings: fields of `runs.train.TrainRun`, `FeedConfig` and `DataSettings`
      by their names (`batch_rows`, `feature_lengths`, `objective`,
      `rationale_loss_weight`, `eval_period`, `initial_checkpoint_path`, ...);
      `optimizer`, "adafactor" or "adamw", with the arguments of `optim.factory`
      (`max_grad_norm`, `weight_decay`, ...); `learning_rate`, `schedule`,
      `warmup_steps` and `final_fraction` of `schedules.make_schedule`.

  Returns:
    The run.

  Raises:
    UserError: no such setting, or what `--run_mode=train` refuses.
    KeyboardInterrupt: it was interrupted, and is saved; the same call goes on.
  """
  if not dataclasses.is_dataclass(config) or isinstance(config, type):
    raise UserError(
      f"config is {config!r:.60}; it must be an architecture, such as"
      " presets.t5_1_1('tiny')."
    )
  folder = _to_text(model_dir, "model_dir")
  if isinstance(data, str):
    given = {"kind": kind, "metric": metric, "label_set": label_set}
    if decided := [key for key, value in given.items() if value is not None]:
      raise UserError(
        f"data is the task {data!r}, which decides {', '.join(decided)}. Leave"
        " that out."
      )
    name = data
  else:
    name = _register_records(data, kind, metric or "exact_match", label_set)
    settings.setdefault(
      "cache_dir", os.path.join(folder, model_dir_lib.TOKEN_CACHE)
    )
  run_settings = make_train_run(config, name, folder, train_steps, settings)
  console_logging.set_up_in_program()
  with _interruptible():
    train_lib.run(
      run_settings,
      _describe_call(config, name, train_steps, settings),
      overwrite=overwrite,
    )
  return Run(folder)


def evaluate(
  student: Run | Student | str | os.PathLike,
  split: str | Sequence[str] = "test",
  *,
  task: str | Sequence[str] | None = None,
  overwrite: bool = False,
  **settings: Any,
) -> dict[str, dict[str, Any]]:
  """Measures a student on a split; keeps what it finds in its run's folder.

  Example:
    >>> import distill_jax as dj
    >>> results = dj.evaluate("runs/svamp", split="test")
    toy_label/test at step 2...
    >>> sorted(results)
    ['toy_label/test', 'toy_rationale/test']
    >>> results["toy_label/test"]["decoding"]["strategy"]
    'greedy'

  Args:
    student: a run, a student, or the path of a run or checkpoint.
    split: one, or several.
    task: a task or mixture by name; None: what the run was trained on.
    overwrite: replace results of the same checkpoint, task, split and way to
      measure.
    **settings: fields of `runs.eval.EvalRun` and `DataSettings` by their names
      (`decoding`, `prediction`, `batch_rows`, `max_examples`, ...). Of a
      checkpoint of no run `model_dir` is the folder for the results.

  Returns:
    Metrics by "<task>/<split>", as `--run_mode=eval` writes them.

  Raises:
    UserError: no such setting, or what `--run_mode=eval` refuses.
  """
  if isinstance(student, Run):
    path = student.model_dir
  elif isinstance(student, Student):
    path = student.path
  else:
    path = _to_text(student, "student")
  made = {"data", "checkpoint_path", "mixture_or_task_name", "splits"}
  parts = _sort_settings(
    "evaluate", settings, {eval_lib.EvalRun: made, DataSettings: set()}
  )
  console_logging.set_up_in_program()
  return eval_lib.run(
    eval_lib.EvalRun(
      data=DataSettings(**parts[DataSettings]),
      checkpoint_path=path,
      mixture_or_task_name=task,
      splits=split,
      **parts[eval_lib.EvalRun],
    ),
    overwrite=overwrite,
  )


def make_train_run(
  config: Any,
  task: str,
  model_dir: str,
  train_steps: int,
  settings: Mapping[str, Any],
) -> train_lib.TrainRun:
  """Makes the settings of `--run_mode=train` from keywords; see `train`.

  Args:
    config: the architecture.
    task: a task or mixture by name.
    model_dir: folder of the run.
    train_steps: updates in all.
    settings: by name.

  Raises:
    UserError: no such setting, or one that cannot be.
  """
  settings = dict(settings)
  optimizer = settings.pop("optimizer", "adafactor")
  if optimizer not in _OPTIMIZERS:
    raise UserError(
      f"optimizer is {optimizer!r}; it must be one of"
      f" {', '.join(map(repr, _OPTIMIZERS))}."
    )
  make_optimizer = _OPTIMIZERS[optimizer]
  made = {
    *("model_config", "mixture_or_task_name", "model_dir", "train_steps"),
    *("data", "feed", "learning_rate", "optimizer"),
  }
  parts = _sort_settings(
    "train",
    settings,
    {
      train_lib.TrainRun: made,
      FeedConfig: set(),
      make_step_by_step: set(),
      DataSettings: set(),
      schedules.make_schedule: {"train_steps"},
      make_optimizer: {"learning_rate"},
    },
    {"optimizer"},
  )
  weights, run_settings = parts[make_step_by_step], parts[train_lib.TrainRun]
  objective = run_settings.pop("objective", None)
  if objective is not None and weights:
    raise UserError(
      f"objective is given, and {' and '.join(weights)} too; give the weights"
      " to the objective's terms."
    )
  rate = schedules.make_schedule(
    train_steps=train_steps,
    **{**_RATES[optimizer], **parts[schedules.make_schedule]},
  )
  return train_lib.TrainRun(
    model_config=config,
    mixture_or_task_name=task,
    model_dir=model_dir,
    train_steps=train_steps,
    data=DataSettings(**parts[DataSettings]),
    feed=FeedConfig(**{**_FEED, **parts[FeedConfig]}),
    objective=objective or make_step_by_step(**weights),
    learning_rate=rate,
    optimizer=make_optimizer(rate, **parts[make_optimizer]),
    **run_settings,
  )


def _sort_settings(
  function: str,
  settings: Mapping[str, Any],
  owners: Mapping[Any, set[str]],
  others: Collection[str] = (),
) -> dict[Any, dict[str, Any]]:
  """Gives each setting to the classes and functions that have it.

  Args:
    function: that was called, for messages.
    settings: by name.
    owners: what takes settings, with those of its names that are not for users.
    others: names that are known besides.

  Raises:
    UserError: nothing has a setting of the name.
  """
  names = {
    owner: inspect.signature(owner).parameters.keys() - hidden
    for owner, hidden in owners.items()
  }
  known = set().union(others, *names.values())
  for name in settings:
    if name not in known:
      raise UserError(
        f"{function} has no setting {name!r}.{suggest(name, sorted(known))}"
        f" There are: {', '.join(sorted(known))}."
      )
  return {
    owner: {name: settings[name] for name in settings if name in own}
    for owner, own in names.items()
  }


def _register_records(
  data: Any,
  kind: str | None,
  metric: LabelMetric,
  label_set: Sequence[str] | None,
) -> str:
  """Makes records a data set; returns the name of its task or mixture."""
  known = [*task_kinds.MIXTURES, *task_kinds.KINDS]
  if kind is not None and kind not in known:
    raise UserError(
      f"kind is {kind!r}.{suggest(str(kind), known)} It must be one of"
      f" {', '.join(map(repr, known))}."
    )
  spec = given_records.make_dataset(data, metric, label_set)
  given_records.register(spec)
  if kind is None:
    train_records = spec.load_fn("train", DataSettings())
    has_rationales = any(record.rationale for record in train_records)
    kind = "distill" if has_rationales else "label"
  return f"{spec.name}_{kind}"


def _describe_call(
  config: Any, task: str, train_steps: int, settings: Mapping[str, Any]
) -> str:
  """Text for config.gin: comments, since no gin file was read."""
  lines = [
    "Trained from Python, by distill_jax.train with",
    f"config = {config!r}",
    f"task = {task!r}",
    f"train_steps = {train_steps!r}",
    *(f"{name} = {value!r}" for name, value in sorted(settings.items())),
  ]
  return "".join(f"# {' '.join(line.split())}\n" for line in lines)


def _to_text(path: Any, name: str) -> str:
  if not isinstance(path, str | os.PathLike) or not os.fspath(path):
    raise UserError(f"{name} is {path!r:.60}; it must be a path.")
  return os.fspath(path)


@contextlib.contextmanager
def _interruptible() -> Iterator[None]:
  """Gives the program its signals back, and Ctrl-C its name in Python.

  A notebook would end at a second Ctrl-C, in whichever cell.
  """
  is_main = threading.current_thread() is threading.main_thread()
  numbers = preemption.SIGNALS if is_main else ()
  before = {number: signal.getsignal(number) for number in numbers}
  try:
    yield
  except SystemExit as end:
    if end.code != _INTERRUPTED:
      raise
    raise KeyboardInterrupt(
      "Training was stopped and is saved. The same call goes on from there."
    ) from end
  finally:
    for number, handler in before.items():
      signal.signal(number, handler or signal.SIG_DFL)
