"""What `benchmark.py --mode=train` times: one way to feed a model.

Knows no flags and prints nothing.
"""

import statistics
import time
from typing import Any

import benchmark_data
import benchmark_measures
import jax

from distill_jax.data import token_cache
from distill_jax.data.feed import batch_counts, pipeline
from distill_jax.model.t5 import flops
from distill_jax.model.t5.t5 import T5
from distill_jax.partitioning import sharding
from distill_jax.runs import train
from distill_jax.training import state as state_lib
from distill_jax.training import step as step_lib


class Layout:
  """One way to feed the same model; `start` comes before any turn."""

  def __init__(
    self,
    name: str,
    settings: train.TrainRun,
    mesh: jax.sharding.Mesh,
    cache: token_cache.TokenCache,
    feed: pipeline.FeedConfig,
    prefetches: bool = True,
  ):
    """Compiles the step.

    Args:
      name: of the layout.
      settings: of the run.
      mesh: of its devices.
      cache: with the examples.
      feed: how they become batches.
      prefetches: put batches on the devices ahead of their step, as a run does.
    """
    self.name, self.feed = name, feed
    self._config = settings.model_config
    model = T5(self._config, sharding.make_constrain_fn(mesh))
    abstract, shardings = state_lib.shard_state(model, settings.optimizer, mesh)
    self.params = abstract.params
    self._init_fn = state_lib.jit_init(
      model, settings.optimizer, shardings, settings.seed
    )

    def put(batch):
      return sharding.to_global(batch, mesh)

    self._batches = pipeline.make_train_iterator(
      cache, feed, put_fn=put if prefetches else None
    )
    self._put_fn = None if prefetches else put
    step_fn: Any = step_lib.compile_train_step(
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
    _, self._device_batch = self._take_batch()
    started = time.perf_counter()
    self._step_fn = step_fn.compile(abstract, self._device_batch)
    self.compiled = self._step_fn.jitted
    self.compile_seconds = time.perf_counter() - started
    self.seconds: list[float] = []
    self._counts = batch_counts.BatchCounts()
    self._num_flops = self._num_steps = 0

  def compile_init(self) -> None:
    """Compiles what makes the first state, which is not made."""
    self._init_fn.compile()

  def start(self) -> None:
    """Makes the first state, and takes a step that is not counted."""
    self._state = self._init_fn()
    self._state, self._metrics = self._step_fn(self._state, self._device_batch)
    jax.block_until_ready(self._metrics)

  def _take_batch(self) -> tuple[Any, Any]:
    """Returns a batch, and what the devices have of it."""
    if self._put_fn is None:
      return next(self._batches)
    batch = next(self._batches)
    return batch, self._put_fn(batch)

  def take_turn(self, num_steps: int) -> None:
    """Makes so many updates, timed together."""
    batches = []
    started = time.perf_counter()
    for _ in range(num_steps):
      batch, device_batch = self._take_batch()
      self._state, self._metrics = self._step_fn(self._state, device_batch)
      batches.append(batch)
    jax.block_until_ready(self._metrics)
    self.seconds.append((time.perf_counter() - started) / num_steps)
    for batch in batches:
      self._counts += batch_counts.count(batch)
      self._num_flops += benchmark_data.count_example_flops(self._config, batch)
      self._num_steps += 1

  def report(self, peak: benchmark_measures.Peak) -> dict[str, Any]:
    """Returns what was measured."""
    seconds = statistics.median(self.seconds)
    lengths = self.feed.feature_lengths
    counts, num_steps = self._counts, self._num_steps
    num_flops = flops.count_train_flops(
      self._config, self.feed.batch_rows, lengths["inputs"], lengths["targets"]
    )
    return {
      "layout": self.name,
      "rows": self.feed.batch_rows,
      "row_lengths": dict(lengths),
      "examples_per_step": counts.examples / num_steps,
      "steps": num_steps,
      "seconds_per_step": seconds,
      "steps_per_second": 1 / seconds,
      "examples_per_second": counts.examples / num_steps / seconds,
      "sequences_per_second": counts.segments / num_steps / seconds,
      "tokens_per_second": counts.tokens / num_steps / seconds,
      "padding_share": counts.padding_share,
      **benchmark_measures.compute_rates("model", num_flops, seconds, peak),
      **benchmark_measures.compute_rates(
        "example", self._num_flops / num_steps, seconds, peak
      ),
      "peak_flops_per_second": peak.flops_per_second,
      "peak_flops_source": peak.source,
      "compile_seconds": self.compile_seconds,
      "loss": float(self._metrics["loss"]),
    }

  def close(self) -> None:
    """Ends the feeding thread."""
    self._batches.close()
