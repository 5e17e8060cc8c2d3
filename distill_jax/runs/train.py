"""`--run_mode=train`: builds the objects of a run and trains.

The step is in `training.step`, the loop in `training.loop`, what happens
between steps in `training.hooks`.

Where parameters come from, first that applies: the newest checkpoint in
MODEL_DIR that is whole (resume), INITIAL_CHECKPOINT_PATH, the seed.

SIGTERM or SIGINT ends it after the step under way, saved, with exit code 143 or
130: see `hosts.preemption`.

Several processes run all of this alike; process 0 decides and writes where only
one may, and tells the others (`hosts.distributed`).
"""

import collections
import contextlib
import dataclasses
import functools
import itertools
import logging
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
import optax

from distill_jax.checkpoint import manager
from distill_jax.config import declaration
from distill_jax.config.declaration import field
from distill_jax.data import vocab
from distill_jax.data.feed import batch as batch_lib
from distill_jax.data.feed import pipeline, shards
from distill_jax.data.settings import DataSettings
from distill_jax.errors import UserError
from distill_jax.evaluation import validation
from distill_jax.evaluation.evaluator import Evaluator
from distill_jax.hosts import distributed, end_together
from distill_jax.model import registry
from distill_jax.model.config import ModelConfig
from distill_jax.objective.objective import Objective
from distill_jax.partitioning import mesh as mesh_lib
from distill_jax.partitioning import sharding
from distill_jax.run_folder import (
  data_guard,
  model_dir,
  run_identity,
  run_lock,
  validation_history,
)
from distill_jax.runs import prepare, shared_settings
from distill_jax.training import (
  closing,
  early_stopping,
  fit_checks,
  initial_params,
  loop,
  nonfinite,
  run_hooks,
)
from distill_jax.training import state as state_lib
from distill_jax.training import step as step_lib

_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class TrainRun:
  """Settings of `--run_mode=train`."""

  model_config: ModelConfig = field(
    help="the student", gin_text="%MODEL_CONFIG"
  )
  mixture_or_task_name: str = field(
    macro="MIXTURE_OR_TASK_NAME", help="the task or mixture that it learns"
  )
  model_dir: str = field(
    macro="MODEL_DIR",
    is_filled=True,
    help="folder for everything that the run writes",
  )
  train_steps: int = field(
    macro="TRAIN_STEPS",
    least=1,
    help="updates in all, those before a resume included",
  )
  data: DataSettings = field(
    help="what shapes the examples", gin_text="@settings.DataSettings()"
  )
  feed: pipeline.FeedConfig = field(
    help="how they become batches", gin_text="@pipeline.FeedConfig()"
  )
  objective: Objective = field(
    help="the terms of the loss", gin_text="@objective.Objective()"
  )
  learning_rate: Callable[[int], Any] = field(
    help="the schedule, for the log; the optimizer has its own",
    gin_text="%LEARNING_RATE_SCHEDULE",
  )
  optimizer: optax.GradientTransformation = field(
    help="from `optim.factory`", gin_text="%OPTIMIZER"
  )
  mesh: Mapping[str, int] = shared_settings.mesh_field(is_common=True)
  dcn_mesh: Mapping[str, int] | None = shared_settings.dcn_mesh_field()
  seed: int = field(
    0,
    macro="SEED",
    least=0,
    is_common=True,
    help="of initialization, dropout and the order of examples",
  )
  num_microbatches: int = field(
    1,
    macro="NUM_MICROBATCHES",
    least=1,
    help="parts that a batch is cut into to save memory",
  )
  loss_chunk_tokens: int | None = field(
    None,
    macro="LOSS_CHUNK_TOKENS",
    least=1,
    help="target tokens of a micro-batch whose logits are in memory at once;"
    " None: all",
  )
  eval_period: int = field(
    1000,
    macro="EVAL_PERIOD",
    least=1,
    is_common=True,
    help="steps between evaluations on validation",
  )
  checkpoint_period: int | None = field(
    None,
    macro="CHECKPOINT_PERIOD",
    least=1,
    help="steps between checkpoints; None: as EVAL_PERIOD. A step that is"
    " better on validation than all before is saved besides",
  )
  early_stopping_evals: int | None = field(
    None,
    macro="EARLY_STOPPING_EVALS",
    least=1,
    help="end after this many evaluations in a row without a better label"
    " accuracy on validation; None: never",
  )
  early_stopping_min_delta: float = field(
    0.0,
    macro="EARLY_STOPPING_MIN_DELTA",
    least=0,
    below=1,
    help="a difference of accuracies; what is better by no more does not count",
  )
  log_period: int = field(
    10, macro="LOG_PERIOD", least=1, help="steps between lines of metrics"
  )
  keep_checkpoints: int = field(
    2,
    macro="KEEP_CHECKPOINTS",
    least=1,
    help="how many of the newest to keep, besides the best",
  )
  on_nonfinite_loss: str = field(
    "stop",
    macro="ON_NONFINITE_LOSS",
    one_of=nonfinite.POLICIES,
    help="at a NaN or infinite loss or gradient: 'stop' the run, or 'skip'"
    " the update of that step",
  )
  max_skipped_steps: int = field(
    10,
    macro="MAX_SKIPPED_STEPS",
    least=0,
    help="updates that ON_NONFINITE_LOSS = 'skip' leaves out in the whole run;"
    " one more ends it",
  )
  preemption_save_seconds: int = field(
    300,
    macro="PREEMPTION_SAVE_SECONDS",
    least=1,
    help="the longest to wait for the checkpoint that SIGTERM or Ctrl-C asks"
    " for",
  )
  eval_batch_rows: int | None = field(
    None,
    macro="EVAL_BATCH_SIZE",
    least=1,
    help="rows of a batch in evaluation; None: as BATCH_SIZE",
  )
  decode_layout: str = shared_settings.decode_layout_field(
    "where the decoder's parameters lie in validation, as in gin/runs/eval.gin"
  )
  max_eval_examples: int | None = field(
    None,
    macro="MAX_EVAL_EXAMPLES",
    least=1,
    help="examples of each validation split; None: all",
  )
  initial_checkpoint_path: str | None = field(
    None,
    macro="INITIAL_CHECKPOINT_PATH",
    is_common=True,
    help="parameters to start from: of a run, Hugging Face, T5X or Orbax; None:"
    " they are drawn by SEED",
  )
  task_module: str = field(
    prepare.DEFAULT_TASK_MODULE,
    macro="MIXTURE_OR_TASK_MODULE",
    help="module that registers the task",
  )
  cache_dir: str | None = field(
    None, macro="CACHE_DIR", help="folder of token caches"
  )

  def __post_init__(self):
    declaration.check(self)
    if self.early_stopping_min_delta and self.early_stopping_evals is None:
      raise UserError(
        f"{declaration.name_of(self, 'early_stopping_min_delta')} is given and"
        f" {declaration.name_of(self, 'early_stopping_evals')} is not. Give"
        " both, or leave it out."
      )


def run(
  settings: TrainRun, operative_config: str = "", overwrite: bool = False
) -> state_lib.TrainState:
  """Trains, or goes on where the run in MODEL_DIR stopped.

  Args:
    settings: see `TrainRun`.
    operative_config: gin text to keep beside the run.
    overwrite: start anew in a MODEL_DIR that holds a run, whose files are
      removed when the new one can start.

  Returns:
    The last state.

  Raises:
    UserError: settings, data or MODEL_DIR do not fit; the loss is not finite;
      the disk is full; no checkpoint is whole; the data was changed.
    SystemExit: a signal came, and the run is saved; see `hosts.preemption`.
  """
  distributed.check_equal(
    "settings", f"{operative_config}\n--overwrite={overwrite}"
  )
  folder = pathlib.Path(settings.model_dir).expanduser().absolute()
  # The processes of one run are one owner.
  with run_lock.RunLock(folder) as lock:
    distributed.share("lock", lock.acquire)
    return _run_locked(settings, folder, lock, operative_config, overwrite)


def _run_locked(
  settings: TrainRun,
  folder: pathlib.Path,
  lock: run_lock.RunLock,
  operative_config: str,
  overwrite: bool,
) -> state_lib.TrainState:
  # What takes no data to find out comes before minutes of preparing some.
  mesh = mesh_lib.make_mesh(settings.mesh, dcn_axis_sizes=settings.dcn_mesh)
  settings.model_config.check_platform(mesh.devices.flat[0].platform)
  settings.model_config.check_lengths(settings.feed.feature_lengths)
  fit_checks.check_rows(settings.feed, settings.num_microbatches, mesh)
  cache = prepare.find_for_all(
    settings.mixture_or_task_name,
    settings.data,
    settings.task_module,
    settings.cache_dir,
  )
  prepare.check_teacher_labels(cache, settings.data.max_not_ok_share)
  vocabulary = vocab.load_vocabulary(cache.vocabulary_path or vocab.BYTES)
  fit_checks.check_vocabulary(vocabulary, settings.model_config)
  fit_checks.check_sentinels(cache, vocabulary, settings.model_config)
  fit_checks.check_early_stopping(cache, settings.early_stopping_evals)
  fit_checks.warn_of_trimming(cache, settings.feed.feature_lengths)
  family = registry.find(settings.model_config)
  model = registry.make_module(
    settings.model_config, sharding.make_constrain_fn(mesh)
  )
  abstract, shardings = state_lib.shard_state(model, settings.optimizer, mesh)

  record = run_identity.make_record(
    settings, cache, state_lib.count_params(abstract.params), mesh
  )
  resumes = distributed.share(
    "MODEL_DIR", lambda: model_dir.check(folder, record, overwrite)
  )
  holders = sharding.find_holders(
    mesh, settings.feed.num_shards, settings.feed.batch_rows
  )
  with contextlib.ExitStack() as stack:
    batches = stack.enter_context(
      contextlib.closing(
        pipeline.make_train_iterator(
          cache,
          settings.feed,
          with_example_ids=True,
          put_fn=lambda batch: sharding.to_global(
            batch_lib.split_example_ids(batch)[0], mesh
          ),
          shards=shards.list_made(holders, distributed.process_index()),
          layout=family.layout,
        )
      )
    )
    data = data_guard.DataGuard(cache, batches)
    distributed.check_equal("token cache", data.sha256)
    load_params = functools.partial(
      initial_params.load_initial_params,
      settings.initial_checkpoint_path,
      settings.model_config,
      abstract.params,
      shardings.params,
      vocabulary,
    )
    params = None
    if not resumes:
      params = load_params(folder if overwrite else None)
      # Only now, when no process can refuse the run, is anything written.
      distributed.agree("start", None)
      distributed.share(
        "run.json",
        lambda: model_dir.begin(
          folder, record, operative_config, cache.vocabulary_path
        ),
      )
    model_dir.check_shared(folder, record)
    checkpoints = stack.enter_context(
      contextlib.closing(
        manager.Checkpoints(
          folder, settings.keep_checkpoints, may_set_aside=True
        )
      )
    )
    # Called first when anything below fails.
    stack.push(lambda _, error, trace: end_together.end_with(error))
    if checkpoints.latest_step is None:
      start_step = 0
      state = state_lib.init_state(
        model, settings.optimizer, shardings, settings.seed
      )
      if resumes:  # Stopped before its first checkpoint.
        params = load_params()
      if params is not None:
        state = state.replace(params=params)
    else:
      start_step, state, data_state = checkpoints.restore_newest(
        jax.tree.map(_with_sharding, abstract, shardings)
      )
      _log.info("Resuming from the checkpoint of step %d", start_step)
      data.set_state(data_state)
    _log.info("%s", _describe(settings, folder, record, holders))
    history = validation_history.ValidationHistory(
      distributed.share(
        "validation scores",
        lambda: validation_history.read_scores(folder, start_step),
      )
    )
    stopping = early_stopping.EarlyStopping(
      settings.early_stopping_evals, settings.early_stopping_min_delta
    )
    if start_step >= settings.train_steps:
      _log.info("Step %d is reached already; nothing to train.", start_step)
      closing.show(folder, start_step, checkpoints)
      return state
    if stopping.is_due(history):
      _log.info(
        "The run has stopped early at step %d: %s. To go on, raise"
        " EARLY_STOPPING_EVALS or leave it out.",
        start_step,
        stopping.explain(history),
      )
      closing.show(folder, start_step, checkpoints)
      return state
    if resumes and distributed.is_primary():
      model_dir.note_resume(
        folder, operative_config, start_step, cache.vocabulary_path
      )
    step_fn = step_lib.compile_train_step(
      mesh,
      shardings,
      skips_nonfinite=settings.on_nonfinite_loss == "skip",
      model=model,
      optimizer=settings.optimizer,
      objective=settings.objective,
      num_microbatches=settings.num_microbatches,
      seed=settings.seed,
      loss_chunk_tokens=settings.loss_chunk_tokens,
    )
    evaluator = Evaluator(
      model,
      mesh,
      vocabulary,
      settings.feed.feature_lengths,
      settings.eval_batch_rows or settings.feed.batch_rows,
      decode_layout=settings.decode_layout,
    )
    evaluate_fn = validation.make_evaluate_fn(
      evaluator, cache, settings.max_eval_examples
    )
    state = loop.run_loop(
      state,
      batches,
      step_fn,
      run_hooks.make_hooks(
        settings,
        folder,
        start_step,
        evaluate_fn,
        checkpoints,
        data,
        _find_told_rows(settings.feed, holders),
        lock,
        history,
        stopping,
        operative_config,
      ),
      start_step,
      settings.train_steps,
      end_together.end_with,
    )
    closing.show(folder, int(state.step), checkpoints)
    return state


def _find_told_rows(
  feed: pipeline.FeedConfig, holders: list[list[int]]
) -> np.ndarray | None:
  """Returns the rows of a batch that are this process's to tell process 0.

  None: process 0 has all of them.
  """
  if feed.num_shards == 1 or distributed.process_count() == 1:
    return None
  told = shards.list_told(holders, distributed.process_index())
  return shards.list_rows(told, feed.num_shards, feed.batch_rows)


def _describe(settings: TrainRun, folder, record, holders) -> str:
  """One line of what was decided for the user."""
  feed, microbatches = settings.feed, settings.num_microbatches
  layout = "packed" if feed.packed else "one example a row"
  if feed.num_shards > 1:
    most = max(collections.Counter(itertools.chain(*holders)).values())
    layout += f", at most {most} of {feed.num_shards} shards by a process"
  return (
    f"{folder}: {record.num_params:,} parameters on {record.mesh};"
    f" {feed.batch_rows} rows of {dict(feed.feature_lengths)} a step"
    f" ({feed.pairing}, {layout}, {microbatches} micro-batch"
    f"{'es' * (microbatches > 1)});"
    f" {_describe_weights(settings.objective)}"
  )


def _describe_weights(objective: Objective) -> str:
  """Returns words such as "lambda 1", or the weights of other terms."""
  described = objective.describe()
  weight = described.pop("rationale_loss_weight", None)
  if isinstance(weight, (int, float)) and described.keys() <= {"z_loss"}:
    return f"lambda {weight:g}"
  return "loss " + " + ".join(
    f"{'(schedule)' if callable(term.weight) else f'{term.weight:g}'}"
    f" {term.name}"
    for term in objective.terms
    if term.weight != 0
  )


def _with_sharding(leaf, leaf_sharding):
  return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf_sharding)
