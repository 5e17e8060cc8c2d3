"""What `benchmark.py --mode=decode` times: full rows, or examples of a cache.

Knows no flags and prints nothing.
"""

import contextlib
import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from distill_jax.data import token_cache, vocab
from distill_jax.data.feed import batch as batch_lib
from distill_jax.decoding.cache import start_decoding
from distill_jax.decoding.strategy import DecodingConfig, decode
from distill_jax.errors import UserError
from distill_jax.evaluation import length_buckets
from distill_jax.evaluation.evaluator import Evaluator
from distill_jax.model.t5.t5 import T5
from distill_jax.partitioning import sharding

_EOS_ID = 1
_SPLITS = ("validation", "test", "train")


class Timed(NamedTuple):
  """A way of decoding that was compiled.

  Attributes:
    call: decodes once and waits for the end.
    compiled: the program; None where there are several.
    compile_seconds: of the program, or of the first call where there are more.
    num_rows: decoded by a call.
    row_lengths: {'inputs': ..., 'targets': ...} tokens at most.
  """

  call: Callable[[], Any]
  compiled: Any
  compile_seconds: float
  num_rows: int
  row_lengths: dict[str, int]


def compile_full_rows(
  model: T5,
  mesh: Mesh,
  params: Any,
  decoding: DecodingConfig,
  num_rows: int,
  num_inputs: int,
  num_tokens: int,
  ends_after: int | None = None,
) -> Timed:
  """Compiles decoding of random inputs that fill their rows.

  Args:
    model: the model.
    mesh: where the parameters lie.
    params: its parameters.
    decoding: how tokens are chosen.
    num_rows: decoded together.
    num_inputs: tokens of an input.
    num_tokens: decoded of each row at most.
    ends_after: tokens after which every row ends; None: after the last.

  Returns:
    What to time.
  """

  def decode_rows(params, batch):
    tokens = batch["tokens"]
    step_fn, cache = start_decoding(
      model,
      params,
      {
        batch_lib.ENCODER_INPUT_TOKENS: tokens,
        batch_lib.ENCODER_SEGMENT_IDS: (tokens > 0).astype(np.int32),
      },
      num_tokens,
    )

    def end_rows(tokens, step, cache):
      logits, cache = step_fn(tokens, step, cache)
      is_end = jnp.arange(logits.shape[-1]) == _EOS_ID
      must_end = (step == ends_after - 1) & is_end[None]
      return jnp.where(must_end, 1e9, logits), cache

    return decode(
      decoding,
      step_fn if ends_after is None else end_rows,
      cache,
      batch["row_ids"],
      max_decode_length=num_tokens,
      # -1 is no token: all rows go on to the last step.
      eos_id=-1 if ends_after is None else _EOS_ID,
    )

  batch = {
    "tokens": np.random.default_rng(0)
    .integers(3, model.config.vocab_size, (num_rows, num_inputs))
    .astype(np.int32),
    "row_ids": np.arange(num_rows, dtype=np.int32),
  }
  batch = sharding.to_global(batch, mesh)
  started = time.perf_counter()
  compiled: Any = jax.jit(decode_rows).lower(params, batch).compile()
  compile_seconds = time.perf_counter() - started
  return Timed(
    lambda: jax.block_until_ready(compiled(params, batch)),
    compiled,
    compile_seconds,
    num_rows,
    {"inputs": num_inputs, "targets": num_tokens},
  )


def prepare_examples(
  model: T5,
  mesh: Mesh,
  params: Any,
  decoding: DecodingConfig,
  cache: token_cache.TokenCache,
  batch_rows: int,
  num_batches: int,
  row_lengths: dict[str, int],
  caps_labels: bool = True,
  buckets_lengths: bool = True,
) -> Timed:
  """Prepares decoding of a cache's label examples as an evaluation does it.

  Unless it is told otherwise, examples of like length go together, and labels
  are decoded no longer than the longest of their task; with random parameters
  hardly any ends before.

  Args:
    model: the model.
    mesh: where the parameters lie.
    params: its parameters.
    decoding: how tokens are chosen.
    cache: with a label task.
    batch_rows: examples decoded together.
    num_batches: how many a call decodes.
    row_lengths: {'inputs': ..., 'targets': ...} tokens of the longest row.
    caps_labels: whether decoding ends with the longest label of the task.
    buckets_lengths: whether rows are as long as their longest input needs;
      otherwise all are of the longest.

  Returns:
    What to time.

  Raises:
    UserError: the cache has no label task, or no examples of it.
  """
  labels = {
    name: info for name, info in cache.tasks.items() if info.kind == "label"
  }
  if not labels:
    raise UserError(
      f"The cache {cache.path} has no label task; its tasks are"
      f" {', '.join(cache.tasks)}."
    )
  ((name, info), *_) = labels.items()
  split = next((split for split in _SPLITS if info.splits.get(split)), None)
  if split is None:
    raise UserError(f"The cache {cache.path} has no examples of {name}.")
  found = cache.open_split(name, split)
  count = min(batch_rows * num_batches, len(found))
  examples = [found[index] for index in range(count)]
  evaluator = Evaluator(
    model,
    mesh,
    vocab.load_vocabulary(cache.vocabulary_path or vocab.BYTES),
    row_lengths,
    batch_rows,
    decoding,
  )
  longest = row_lengths["targets"]
  if caps_labels:
    longest = -(-info.find_longest("targets") // 8) * 8

  def call():
    with contextlib.ExitStack() as stack:
      if not buckets_lengths:
        stack.enter_context(
          mock.patch.object(length_buckets, "plan_batches", _plan_one_length)
        )
      decoded = evaluator.predict_samples(
        params, examples, info, max_decode_length=longest
      )
      return [[sample.text for sample in samples] for samples in decoded]

  started = time.perf_counter()
  call()
  compile_seconds = time.perf_counter() - started
  lengths = row_lengths | {"targets": min(longest, row_lengths["targets"])}
  return Timed(call, None, compile_seconds, count, lengths)


def _plan_one_length(lengths, longest, batch_rows, row_step, num_row_buckets):
  """As `length_buckets.plan_batches` would, if there were but one length."""
  del row_step, num_row_buckets
  return [
    length_buckets.PlannedBatch(
      list(range(start, min(start + batch_rows, len(lengths)))),
      batch_rows,
      longest,
    )
    for start in range(0, len(lengths), batch_rows)
  ]


def time_call(call: Callable[[], Any], num_calls: int) -> float:
  """Returns the median seconds of so many calls, after one more."""
  call()
  durations = []
  for _ in range(num_calls):
    started = time.perf_counter()
    call()
    durations.append(time.perf_counter() - started)
  return statistics.median(durations)
