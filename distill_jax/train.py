"""`--run_mode=train`: builds the objects of a run and trains.

Layer 4; no maths and no TensorFlow. The step is in `training.step`, the loop in
`training.loop`, what happens between steps in `training.hooks`.

Where parameters come from, first that applies: the newest checkpoint in
MODEL_DIR that is whole (resume), INITIAL_CHECKPOINT_PATH, the seed.

SIGTERM or SIGINT ends it after the step under way, saved, with exit code 143 or
130: see `training.preemption`.
"""

import contextlib
import dataclasses
import json
import logging
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from distill_jax import prepare
from distill_jax.checkpoint import formats, manager
from distill_jax.data import batch as batch_lib
from distill_jax.data import pipeline, token_cache, vocab
from distill_jax.data.settings import DataSettings
from distill_jax.distill import Objective
from distill_jax.errors import UserError
from distill_jax.evaluation.evaluator import Evaluator
from distill_jax.model.config import T5Config
from distill_jax.model.t5 import T5
from distill_jax.partitioning import mesh as mesh_lib
from distill_jax.partitioning import sharding
from distill_jax.training import (
  data_guard,
  hooks,
  loop,
  metric_files,
  model_dir,
  nonfinite,
  preemption,
  progress,
  run_record,
)
from distill_jax.training import state as state_lib
from distill_jax.training import step as step_lib

_log = logging.getLogger(__name__)

PyTree = Any


@dataclasses.dataclass(frozen=True)
class TrainRun:
  """Settings of `--run_mode=train`.

  Attributes:
    model_config: the student.
    mixture_or_task_name: what it learns.
    model_dir: folder for everything the run writes.
    train_steps: updates in all, those before a resume included.
    data: what shapes the examples.
    feed: how they become batches.
    objective: weights of the loss's terms.
    learning_rate: the schedule, for the log; the optimizer has its own.
    optimizer: from `optim.factory`.
    mesh: devices along each axis, see `partitioning.mesh`.
    seed: of initialization and dropout; the order of examples has `feed.seed`.
    num_microbatches: parts a batch is cut into to save memory.
    loss_chunk_tokens: target tokens of a micro-batch whose logits are in memory
      at once; None: all.
    eval_period: steps between evaluations on validation.
    checkpoint_period: steps between checkpoints; None: as `eval_period`, so
      that each can be the best.
    log_period: steps between lines of metrics.
    keep_checkpoints: how many of the newest to keep, besides the best.
    on_nonfinite_loss: "stop" the run at a loss or gradient that is no number,
      or "skip" the update of that step; see `training.nonfinite`.
    max_skipped_steps: in the whole run; one more ends it.
    preemption_save_seconds: the longest to wait for the checkpoint that a
      signal asks for.
    eval_batch_rows: rows a batch in evaluation; None: as in training.
    max_eval_examples: of each validation split; None: all.
    initial_checkpoint_path: parameters to start from, in any form that
      `checkpoint.formats` opens.
    task_module: module that registers the task.
    cache_dir: folder of token caches.
  """

  model_config: T5Config
  mixture_or_task_name: str
  model_dir: str
  train_steps: int
  data: DataSettings
  feed: pipeline.FeedConfig
  objective: Objective
  learning_rate: Callable[[int], Any]
  optimizer: optax.GradientTransformation
  mesh: Mapping[str, int] = dataclasses.field(
    default_factory=lambda: {"data": -1}
  )
  seed: int = 0
  num_microbatches: int = 1
  loss_chunk_tokens: int | None = None
  eval_period: int = 1000
  checkpoint_period: int | None = None
  log_period: int = 10
  keep_checkpoints: int = 2
  on_nonfinite_loss: str = "stop"
  max_skipped_steps: int = 10
  preemption_save_seconds: int = 300
  eval_batch_rows: int | None = None
  max_eval_examples: int | None = None
  initial_checkpoint_path: str | None = None
  task_module: str = prepare.DEFAULT_TASK_MODULE
  cache_dir: str | None = None

  def __post_init__(self):
    for field, least, macro in (
      ("train_steps", 1, "TRAIN_STEPS"),
      ("num_microbatches", 1, "NUM_MICROBATCHES"),
      ("loss_chunk_tokens", 1, "LOSS_CHUNK_TOKENS"),
      ("eval_period", 1, "EVAL_PERIOD"),
      ("checkpoint_period", 1, "CHECKPOINT_PERIOD"),
      ("log_period", 1, "LOG_PERIOD"),
      ("keep_checkpoints", 1, "KEEP_CHECKPOINTS"),
      ("max_skipped_steps", 0, "MAX_SKIPPED_STEPS"),
      ("preemption_save_seconds", 1, "PREEMPTION_SAVE_SECONDS"),
      ("eval_batch_rows", 1, "EVAL_BATCH_SIZE"),
      ("max_eval_examples", 1, "MAX_EVAL_EXAMPLES"),
      ("seed", 0, "SEED"),
    ):
      value = getattr(self, field)
      if value is None and _FIELDS[field].default is None:
        continue
      if not isinstance(value, int) or value < least:
        raise UserError(
          f"{macro} is {value!r}; it must be a whole number >= {least}."
        )
    if self.on_nonfinite_loss not in nonfinite.POLICIES:
      raise UserError(
        f"ON_NONFINITE_LOSS is {self.on_nonfinite_loss!r}; it must be one of"
        f" {', '.join(map(repr, nonfinite.POLICIES))}."
      )
    if not isinstance(self.model_dir, str):
      raise UserError(f"MODEL_DIR is {self.model_dir!r}; it must be a path.")


_FIELDS = {field.name: field for field in dataclasses.fields(TrainRun)}


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
    SystemExit: a signal came, and the run is saved; see `training.preemption`.
  """
  if jax.process_count() > 1:
    raise UserError(
      f"{jax.process_count()} processes would write the same files; training"
      " runs in one process for now, on all the devices it sees."
    )
  cache = prepare.find_or_prepare(
    settings.mixture_or_task_name,
    settings.data,
    settings.task_module,
    settings.cache_dir,
  )
  prepare.check_teacher_labels(cache, settings.data.max_not_ok_share)
  vocabulary = vocab.load_vocabulary(cache.vocabulary_path or vocab.BYTES)
  check_vocabulary(vocabulary, settings.model_config)
  mesh = mesh_lib.make_mesh(settings.mesh)
  _check_rows(settings, mesh)
  _warn_of_trimming(cache, settings.feed.feature_lengths)
  model = T5(settings.model_config, sharding.make_constrain_fn(mesh))
  abstract, shardings = state_lib.shard_state(model, settings.optimizer, mesh)

  folder = pathlib.Path(settings.model_dir).expanduser().absolute()
  record = _make_record(settings, cache, abstract, mesh)
  resumes = model_dir.check(folder, record, overwrite)
  with contextlib.ExitStack() as stack:
    batches = stack.enter_context(
      contextlib.closing(
        pipeline.make_train_iterator(
          cache, settings.feed, with_example_ids=True
        )
      )
    )
    data = data_guard.DataGuard(cache, batches)
    # Only now, when nothing can refuse the run any more, is anything written.
    if resumes:
      initial_params = None
    else:
      initial_params = _load_initial_params(
        settings,
        abstract,
        shardings,
        vocabulary,
        folder if overwrite else None,
      )
      model_dir.begin(folder, record, operative_config, cache.vocabulary_path)
    checkpoints = stack.enter_context(
      contextlib.closing(
        manager.Checkpoints(
          folder, settings.keep_checkpoints, may_set_aside=True
        )
      )
    )
    if checkpoints.latest_step is None:
      start_step = 0
      state = state_lib.init_state(
        model, settings.optimizer, shardings, settings.seed
      )
      if resumes:  # Stopped before its first checkpoint.
        initial_params = _load_initial_params(
          settings, abstract, shardings, vocabulary
        )
      if initial_params is not None:
        state = state.replace(params=initial_params)
    else:
      start_step, state, data_state = checkpoints.restore_newest(
        jax.tree.map(_with_sharding, abstract, shardings)
      )
      _log.info("Resuming from the checkpoint of step %d", start_step)
      data.set_state(data_state)
    _log.info("%s", _describe(settings, folder, record))
    if start_step >= settings.train_steps:
      _log.info("Step %d is reached already; nothing to train.", start_step)
      return state
    if resumes:
      model_dir.note_resume(folder, operative_config, start_step)
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
    evaluate_fn = _make_evaluate_fn(settings, cache, model, mesh, vocabulary)
    return loop.run_loop(
      state,
      batches,
      step_fn,
      lambda batch: sharding.to_global(
        batch_lib.split_example_ids(batch)[0], mesh
      ),
      _make_hooks(settings, folder, start_step, evaluate_fn, checkpoints, data),
      start_step,
      settings.train_steps,
    )


def check_vocabulary(vocabulary: vocab.Vocabulary, config: T5Config) -> None:
  """Refuses a vocabulary with more ids than the model has embeddings.

  Args:
    vocabulary: of the token cache.
    config: of the model.

  Raises:
    UserError: names both sizes.
  """
  if vocabulary.size > config.vocab_size:
    raise UserError(
      f"The vocabulary has {vocabulary.size} ids, but the model embeds only"
      f" {config.vocab_size}. Give --gin.VOCAB_SIZE={vocabulary.size} or more,"
      " or the vocabulary that belongs to the model (VOCAB_PATH)."
    )


def _describe(settings: TrainRun, folder, record) -> str:
  """One line of what was decided for the user."""
  feed, microbatches = settings.feed, settings.num_microbatches
  layout = "packed" if feed.packed else "one example a row"
  return (
    f"{folder}: {record.num_params:,} parameters on {record.mesh};"
    f" {feed.batch_rows} rows of {dict(feed.feature_lengths)} a step"
    f" ({feed.pairing}, {layout}, {microbatches} micro-batch"
    f"{'es' * (microbatches > 1)}); lambda"
    f" {settings.objective.rationale_loss_weight:g}"
  )


def _check_rows(settings: TrainRun, mesh) -> None:
  rows, parts = settings.feed.batch_rows, settings.num_microbatches
  shards = sharding.count_batch_shards(mesh)
  if rows % (parts * shards):
    raise UserError(
      f"BATCH_SIZE is {rows}; it must divide by the {shards} device groups that"
      f" share its rows times the {parts} micro-batches, {shards * parts}."
    )


def _warn_of_trimming(cache, feature_lengths: Mapping[str, int]) -> None:
  """Says how many examples lose their end to TASK_FEATURE_LENGTHS.

  Raises:
    UserError: the targets of every training label are cut.
  """
  for name, info in cache.tasks.items():
    for feature, length in feature_lengths.items():
      trimmed = info.count_longer("train", feature, length)
      total = info.splits.get("train", 0)
      if not trimmed:
        continue
      if trimmed == total and feature == "targets" and info.kind != "rationale":
        raise UserError(
          f"TASK_FEATURE_LENGTHS allows {length} target tokens, which cuts"
          f" every one of the {total} labels of {name}. Give more."
        )
      _log.warning(
        "%d of %d %s of %s are longer than %d tokens and lose their end"
        " (TASK_FEATURE_LENGTHS).",
        trimmed, total, feature, name, length,
      )  # fmt: skip


def _make_record(settings, cache, abstract, mesh) -> run_record.RunRecord:
  identity = {
    "task": settings.mixture_or_task_name,
    "token_cache": cache.fingerprint,
    "tasks": {
      name: dataclasses.asdict(dataclasses.replace(info, lengths={}))
      for name, info in cache.tasks.items()
    },
    "model_config": dataclasses.asdict(settings.model_config),
    "feed": dataclasses.asdict(settings.feed),
    "objective": dataclasses.asdict(settings.objective),
    "num_microbatches": settings.num_microbatches,
    "loss_chunk_tokens": settings.loss_chunk_tokens,
    "seed": settings.seed,
    "initial_checkpoint_path": settings.initial_checkpoint_path,
    "optimizer_updates": _probe_optimizer(settings.optimizer),
    "learning_rates": [
      f"{float(settings.learning_rate(step)):.4g}"
      for step in (0, 1, 10, 100, 1000, 10_000)
    ],
    "vocabulary_sha256": cache.identity["vocabulary_sha256"],
  }
  return run_record.RunRecord(
    identity=json.loads(json.dumps(identity)),
    token_cache_path=str(cache.path.absolute()),
    num_params=state_lib.count_params(abstract.params),
    mesh=sharding.describe(mesh),
    environment=run_record.describe_environment(),
  )


def _load_initial_params(
  settings,
  abstract,
  shardings,
  vocabulary: vocab.Vocabulary,
  overwritten: pathlib.Path | None = None,
) -> PyTree | None:
  """Loads INITIAL_CHECKPOINT_PATH; None where none was given."""
  if settings.initial_checkpoint_path is None:
    _log.info("Starting from scratch, seed %d", settings.seed)
    return None
  stored = formats.open_checkpoint(settings.initial_checkpoint_path)
  path = pathlib.Path(stored.path)
  if overwritten is not None and path.is_relative_to(overwritten):
    raise UserError(
      f"INITIAL_CHECKPOINT_PATH {path} lies in the MODEL_DIR that --overwrite"
      " replaces. Give another MODEL_DIR."
    )
  _check_initial_vocabulary(stored, vocabulary)
  target = jax.tree.map(_with_sharding, abstract.params, shardings.params)
  params = formats.load_params(stored, target)
  _log.info(
    "Starting from the %s; all loaded, 0 missing, 0 unexpected",
    stored.describe(),
  )
  return params


def _check_initial_vocabulary(stored, vocabulary: vocab.Vocabulary) -> None:
  """Refuses ids that mean other words than those the checkpoint learned."""
  if stored.vocabulary_path is None and not stored.uses_bytes:
    _log.warning(
      "No vocabulary lies beside %s: that its ids are those of %s is for you to"
      " know.",
      stored.path,
      vocabulary.path or vocab.BYTES,
    )
    return
  theirs = vocab.load_vocabulary(
    vocab.BYTES if stored.uses_bytes else str(stored.vocabulary_path)
  )
  if theirs.sha256 != vocabulary.sha256:
    raise UserError(
      f"The checkpoint {stored.path} was trained with the vocabulary"
      f" {theirs.path or vocab.BYTES}, the data is tokenized with"
      f" {vocabulary.path or vocab.BYTES}. Add"
      f" --gin.VOCAB_PATH=\"'{theirs.path or vocab.BYTES}'\"."
    )


def _probe_optimizer(optimizer: optax.GradientTransformation) -> list[str]:
  """Describes an optimizer by what it does to two parameters in three steps.

  Its settings are closed over by functions; its updates tell them apart.
  """
  params = {
    "kernel": jnp.linspace(-1.0, 1.0, 128 * 128).reshape(128, 128),
    "scale": jnp.full(4, 0.5),
  }

  @jax.jit
  def probe(params):
    opt_state, seen = optimizer.init(params), []
    for step in range(1, 4):
      gradients = jax.tree.map(lambda p, step=step: jnp.sin(step + p), params)
      updates, opt_state = optimizer.update(gradients, opt_state, params)
      seen += [leaf.ravel()[1] for leaf in jax.tree.leaves(updates)]
    return seen

  return [f"{float(value):.4g}" for value in probe(params)]


def _with_sharding(leaf, leaf_sharding):
  return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf_sharding)


def _make_hooks(
  settings, folder, start_step, evaluate_fn, checkpoints, data
) -> list[loop.Hook]:
  train_steps = settings.train_steps
  watch = nonfinite.NonfiniteHook(
    folder, settings.on_nonfinite_loss, settings.max_skipped_steps, start_step
  )
  files = metric_files.MetricFiles(folder, start_step)
  log = hooks.LogHook(
    files,
    progress.ProgressReporter(train_steps, start_step),
    settings.learning_rate,
    settings.log_period,
    train_steps,
    watch,
  )
  evaluation = hooks.EvalHook(
    evaluate_fn, files, settings.eval_period, train_steps, log.paused
  )
  checkpoint = hooks.CheckpointHook(
    checkpoints,
    data.get_state,
    evaluation,
    settings.checkpoint_period or settings.eval_period,
    train_steps,
    watch,
    log.paused,
  )
  # Last, so that the step it stops after has its evaluation.
  stop = preemption.PreemptionHook(
    checkpoint.save,
    checkpoints.wait,
    train_steps,
    settings.preemption_save_seconds,
  )
  return [watch, log, evaluation, checkpoint, stop]


def _make_evaluate_fn(settings, cache, model, mesh, vocabulary):
  """Validation: labels are decoded and scored, rationales just scored."""
  evaluator = Evaluator(
    model,
    mesh,
    vocabulary,
    settings.feed.feature_lengths,
    settings.eval_batch_rows or settings.feed.batch_rows,
  )
  splits = {
    task: pipeline.take(
      cache.open_split(task, "validation"), settings.max_eval_examples
    )
    for task, info in cache.tasks.items()
    if "validation" in info.splits
  }

  def evaluate(params: PyTree, step: int) -> dict[str, dict[str, float]]:
    del step
    results = {}
    for task, examples in splits.items():
      info: token_cache.TaskInfo = cache.tasks[task]
      if info.kind == "rationale":
        results[task] = evaluator.score(params, examples, info)
      else:
        metrics, _ = evaluator.evaluate(params, examples, info)
        metrics.pop("classes", None)
        results[task] = metrics
    return results

  return evaluate
