"""What makes a run this run: all that decides its losses, as JSON.

A run is resumed only by one of the same identity, see
`run_record.check_resumable`; the number of processes and the mesh are not of
it.
"""

import dataclasses
import functools
import json
import os
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from distill_jax.data import token_cache
from distill_jax.model import registry
from distill_jax.partitioning import sharding
from distill_jax.run_folder import run_record

PyTree = Any
_PROBED_STEPS = (0, 1, 10, 100, 1000, 10_000)
# Under a long warm-up all schedules are one up to there.
_LATER_STEPS = tuple(round(12_000 * 1.25**i) for i in range(21))  # to 1.04e6


def make_record(
  settings: Any,
  cache: token_cache.TokenCache,
  num_params: int,
  mesh: Mesh,
) -> run_record.RunRecord:
  """Describes a run.

  Args:
    settings: `train.TrainRun`.
    cache: what it trains on.
    num_params: number of its parameters.
    mesh: where it runs now.
  """
  data_dir = settings.data.data_dir
  data = {
    "settings": dataclasses.asdict(settings.data)
    | {"data_dir": data_dir and os.path.abspath(data_dir)},
    "task_module": settings.task_module,
    "identity": cache.identity,
    "files": cache.file_hashes,
  }
  return run_record.RunRecord(
    identity=make_identity(settings, cache),
    token_cache_path=str(cache.path.absolute()),
    num_params=num_params,
    mesh=sharding.describe(mesh),
    environment=run_record.describe_environment(),
    data=json.loads(json.dumps(data)),
    train_steps=settings.train_steps,
  )


def make_identity(
  settings: Any, cache: token_cache.TokenCache
) -> dict[str, Any]:
  """Returns what a resumed run must agree on, see `run_record.RunRecord`.

  Args:
    settings: `train.TrainRun`.
    cache: what it trains on.
  """
  identity = {
    "task": settings.mixture_or_task_name,
    "token_cache": cache.fingerprint,
    "tasks": {name: _describe_task(info) for name, info in cache.tasks.items()},
    "model_config": {
      name: value
      for name, value in registry.state_config(settings.model_config).items()
      if name not in settings.model_config.computation_fields
    },
    "feed": dataclasses.asdict(settings.feed),
    "objective": _describe_objective(settings.objective),
    "num_microbatches": settings.num_microbatches,
    "loss_chunk_tokens": settings.loss_chunk_tokens,
    "seed": settings.seed,
    "initial_checkpoint_path": settings.initial_checkpoint_path,
    "optimizer_updates": _probe_optimizer(settings.optimizer),
    "learning_rates": _probe_schedule(settings.learning_rate, _PROBED_STEPS),
    "later_learning_rates": _probe_schedule(
      settings.learning_rate, _LATER_STEPS
    ),
    "vocabulary_sha256": cache.identity["vocabulary_sha256"],
  }
  return json.loads(json.dumps(identity))


def _describe_objective(objective: Any) -> dict[str, Any]:
  """Describes terms; schedules of their weights by what they give."""

  def describe(value: Any) -> Any:
    if isinstance(value, dict):
      return {name: describe(each) for name, each in value.items()}
    if callable(value):
      return _probe_schedule(value, (*_PROBED_STEPS, *_LATER_STEPS))
    return value

  return describe(objective.describe())


def _describe_task(info: token_cache.TaskInfo) -> dict[str, Any]:
  fields = dataclasses.asdict(dataclasses.replace(info, lengths={}))
  # The task's name tells it, and runs of earlier versions do not have it.
  del fields["target"]
  return fields


def _probe_schedule(
  learning_rate: Callable[[int], Any], steps: Sequence[int]
) -> list[str]:
  return [f"{float(learning_rate(step)):.4g}" for step in steps]


@functools.lru_cache(maxsize=32)
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
