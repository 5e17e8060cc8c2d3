"""Measures training: packed against padded rows, same model, same examples.

  python scripts/benchmark.py --gin_file=gin/models/t5_1_1/tiny.gin
  python scripts/benchmark.py --gin_file=gin/models/t5_1_1/small.gin \\
    --token_cache=~/.cache/distill_jax/tokens/cqa_distill-0123456789abcdef

Without --token_cache the examples have lengths like CQA's, drawn from a seed.
Each line printed is a JSON object; the last one holds the ratio. Both layouts
train on label/rationale pairs, equally many a step, in one process, their steps
taking turns so that a busy machine slows both alike. Needs no TensorFlow.
"""

import itertools
import json
import os
import pathlib
import platform
import statistics
import tempfile
import time

import jax
import numpy as np
from absl import app, flags

import gin
from distill_jax.config import gin_bindings
from distill_jax.data import pipeline, token_cache
from distill_jax.distill import Objective
from distill_jax.model.config import T5Config
from distill_jax.model.t5 import T5
from distill_jax.optim import factory, schedules
from distill_jax.partitioning import mesh as mesh_lib
from distill_jax.partitioning import sharding
from distill_jax.training import state as state_lib
from distill_jax.training import step as step_lib

_GIN_FILES = flags.DEFINE_multi_string(
  "gin_file", ["gin/models/t5_1_1/tiny.gin"], "A model's gin file."
)
_GIN_BINDINGS = flags.DEFINE_multi_string(
  "gin_bindings", [], "E.g. --gin_bindings='VOCAB_SIZE = 8192'."
)
_TOKEN_CACHE = flags.DEFINE_string(
  "token_cache", None, "Folder of a token cache; default: drawn lengths."
)
_EXAMPLES = flags.DEFINE_integer("examples", 16, "Example pairs a step.")
_STEPS = flags.DEFINE_integer("steps", 10, "Measured steps of each layout.")
_ROW_INPUTS = flags.DEFINE_integer(
  "row_inputs", 256, "Encoder tokens of a packed row."
)
_ROW_TARGETS = flags.DEFINE_integer(
  "row_targets", 128, "Decoder tokens of a packed row."
)


def make_synthetic_cache(folder: str, vocab_size: int):
  """Writes a cache whose lengths are like CQA's (inputs 55, rationales 35)."""
  rng = np.random.default_rng(0)

  def draw(mean, low, high):
    length = int(np.clip(rng.normal(mean, mean / 4), low, high))
    return np.append(rng.integers(3, vocab_size, length), 1).astype(np.int32)

  def info(kind):
    return token_cache.TaskInfo(
      1.0, kind, "exact_match", None, False, "", {}, {}
    )

  def examples():
    for kind, mean, low, high in (
      ("label", 2, 1, 8),
      ("rationale", 35, 15, 80),
    ):
      for index in range(512):
        yield (
          f"drawn_{kind}",
          "train",
          token_cache.Example(
            str(index), draw(55, 35, 110), draw(mean, low, high), "", ""
          ),
        )

  identity = token_cache.make_identity("drawn_distill", {}, "", [])
  path = token_cache.cache_path(folder, identity)
  tasks = {f"drawn_{kind}": info(kind) for kind in ("label", "rationale")}
  token_cache.write_cache(path, identity, tasks, examples(), None)
  return token_cache.TokenCache(path)


def longest(cache: token_cache.TokenCache) -> dict[str, int]:
  """Returns the longest inputs and targets, rounded up to 8 tokens."""
  lengths = {"inputs": 0, "targets": 0}
  for task in cache.tasks:
    for example in pipeline.take(cache.open_split(task, "train"), None):
      for key in lengths:
        lengths[key] = max(lengths[key], len(getattr(example, key)))
  return {key: -(-length // 8) * 8 for key, length in lengths.items()}


def count_packed_rows(cache, lengths, num_examples) -> int:
  """Finds the fewest rows in which batches hold `num_examples` pairs."""
  for rows in itertools.count(2):
    feed = pipeline.FeedConfig(
      lengths, rows, max_examples_per_batch=num_examples
    )
    iterator = pipeline.make_train_iterator(cache, feed)
    counts = [pipeline.count_examples(next(iterator)) for _ in range(20)]
    iterator.close()
    if min(counts) == num_examples:
      return rows


class Layout:
  """One way to feed the same model."""

  def __init__(self, name, model, mesh, cache, feed):
    self.name, self.feed, self._mesh = name, feed, mesh
    optimizer = factory.adafactor(schedules.constant(1e-4))
    _, shardings = state_lib.shard_state(model, optimizer, mesh)
    self._state = state_lib.init_state(model, optimizer, shardings, seed=0)
    self._batches = pipeline.make_train_iterator(cache, feed)
    self._step = step_lib.compile_train_step(
      mesh,
      shardings,
      model=model,
      optimizer=optimizer,
      objective=Objective(),
      num_microbatches=1,
      seed=0,
    )
    self.seconds, self.examples, self.tokens, self.padding = [], [], [], []

  def step(self) -> float:
    """Makes one update and returns its seconds."""
    batch = next(self._batches)
    started = time.perf_counter()
    self._state, metrics = self._step(
      self._state, sharding.to_global(batch, self._mesh)
    )
    jax.block_until_ready(metrics)
    seconds = time.perf_counter() - started
    counts = pipeline.measure_padding(batch)
    self.seconds.append(seconds)
    self.examples.append(pipeline.count_examples(batch))
    self.tokens.append(counts["num_tokens"])
    self.padding.append(counts["padding_share"])
    return seconds

  def report(self, compile_seconds: float) -> dict:
    """Returns what was measured, first step left out."""
    seconds = statistics.median(self.seconds[1:])
    return {
      "layout": self.name,
      "rows": self.feed.batch_rows,
      "row_lengths": dict(self.feed.feature_lengths),
      "seconds_per_step": seconds,
      "examples_per_second": statistics.mean(self.examples[1:]) / seconds,
      "tokens_per_second": statistics.mean(self.tokens[1:]) / seconds,
      "padding_share": statistics.mean(self.padding[1:]),
      "compile_seconds": compile_seconds,
    }

  def close(self) -> None:
    """Ends the feeding thread."""
    self._batches.close()


def main(_):
  root = str(pathlib.Path(__file__).parent.parent)
  gin_bindings.parse(_GIN_FILES.value, _GIN_BINDINGS.value, [os.getcwd(), root])
  config = gin.get_configurable(T5Config)()
  mesh = mesh_lib.make_mesh({"data": -1})
  model = T5(config, sharding.make_constrain_fn(mesh))
  with tempfile.TemporaryDirectory() as folder:
    if _TOKEN_CACHE.value:
      cache = token_cache.TokenCache(os.path.expanduser(_TOKEN_CACHE.value))
    else:
      cache = make_synthetic_cache(folder, config.vocab_size)
    packed = {"inputs": _ROW_INPUTS.value, "targets": _ROW_TARGETS.value}
    examples = _EXAMPLES.value
    feeds = {
      "padded": pipeline.FeedConfig(longest(cache), 2 * examples, packed=False),
      "packed": pipeline.FeedConfig(
        packed,
        count_packed_rows(cache, packed, examples),
        max_examples_per_batch=examples,
      ),
    }
    layouts = [
      Layout(name, model, mesh, cache, feed) for name, feed in feeds.items()
    ]
    first = [layout.step() for layout in layouts]
    for _ in range(_STEPS.value):
      for layout in layouts:
        layout.step()
    reports = [
      layout.report(seconds)
      for layout, seconds in zip(layouts, first, strict=True)
    ]
    for layout in layouts:
      layout.close()
  machine = {
    "model": _GIN_FILES.value[-1],
    "devices": sharding.describe(mesh),
    "machine": f"{platform.machine()}, {os.cpu_count()} CPUs",
    "jax": jax.__version__,
    "examples_per_step": examples,
    "steps": _STEPS.value,
  }
  for report in reports:
    print(json.dumps(machine | report))
  padded, fast = (report["examples_per_second"] for report in reports)
  print(json.dumps({"packed_over_padded_examples_per_second": fast / padded}))


if __name__ == "__main__":
  app.run(main)
