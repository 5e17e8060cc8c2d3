"""What `scripts/benchmarks/benchmark.py` trains on.

Examples, layouts, and their cost.

Examples come from a token cache, or are drawn; the same ones go into packed and
padded rows, and into a file for programs that compare with ours.
"""

import collections
import dataclasses
import functools
import json
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from distill_jax.data import token_cache
from distill_jax.data.feed import batch as batch_lib
from distill_jax.data.feed import pipeline
from distill_jax.data.feed.pipeline import FeedConfig
from distill_jax.model.t5 import flops
from distill_jax.model.t5.config import T5Config

LAYOUTS = ("padded", "packed")
_NUM_DRAWN = 512
# In which the rows of a packed batch are found to be enough.
_NUM_TRIED_BATCHES = 20


def draw_cache(
  folder: str, vocab_size: int, row_lengths: Mapping[str, int] | None
) -> token_cache.TokenCache:
  """Writes and opens a cache of random tokens.

  Args:
    folder: where to.
    vocab_size: ids are below it.
    row_lengths: {'inputs': ..., 'targets': ...}, of every label and rationale;
      None: like CQA's (inputs 55 tokens, labels 2, rationales 35).
  """
  rng = np.random.default_rng(0)

  def draw_tokens(mean, low, high):
    length = int(np.clip(rng.normal(mean, mean / 4), low, high))
    return np.append(rng.integers(3, vocab_size, length), 1).astype(np.int32)

  def draw_example(kind, index):
    if row_lengths is not None:
      inputs, targets = (
        draw_tokens(length - 1, length - 1, length - 1)
        for length in (row_lengths["inputs"], row_lengths["targets"])
      )
    else:
      inputs = draw_tokens(55, 35, 110)
      is_label = kind == "label"
      targets = draw_tokens(2, 1, 8) if is_label else draw_tokens(35, 15, 80)
    return token_cache.Example(str(index), inputs, targets, "", "")

  def draw_examples():
    for kind in ("label", "rationale"):
      for index in range(_NUM_DRAWN):
        yield f"drawn_{kind}", "train", draw_example(kind, index)

  def make_info(kind):
    return token_cache.TaskInfo(
      1.0, kind, "exact_match", None, False, "", {}, {}
    )

  identity = token_cache.make_identity("drawn_distill", {}, "", [])
  path = token_cache.cache_path(folder, identity)
  tasks = {f"drawn_{kind}": make_info(kind) for kind in ("label", "rationale")}
  token_cache.write_cache(path, identity, tasks, draw_examples(), None)
  return token_cache.TokenCache(path)


def find_longest(cache: token_cache.TokenCache) -> dict[str, int]:
  """Returns the longest inputs and targets, rounded up to 8 tokens."""
  lengths = {
    feature: max(
      int(length)
      for info in cache.tasks.values()
      for length in info.lengths["train"][feature]
    )
    for feature in ("inputs", "targets")
  }
  return {feature: -(-length // 8) * 8 for feature, length in lengths.items()}


def make_feed(
  cache: token_cache.TokenCache,
  layout: str,
  num_examples: int,
  packed_lengths: Mapping[str, int],
  row_multiple: int = 1,
) -> FeedConfig:
  """Returns the layout's shape, which holds `num_examples` pairs a batch.

  Args:
    cache: of a label task, a rationale task, or both.
    layout: "packed", in the fewest rows that do; or "padded", an example a row,
      each as long as the longest.
    num_examples: pairs of label and rationale, a batch.
    packed_lengths: {'inputs': ..., 'targets': ...} of a packed row.
    row_multiple: what the number of rows must divide by.
  """
  if layout == "padded":
    feed = FeedConfig(
      find_longest(cache),
      num_examples * len(cache.tasks),
      packed=False,
      max_examples_per_batch=num_examples,
    )
    return _round_rows_up(feed, row_multiple)
  padded = _list_segments(cache, make_feed(cache, "padded", num_examples, {}))
  most = num_examples * len(cache.tasks)
  fewest = max(_bound_rows(segments, packed_lengths) for segments in padded)
  # A pair may not fit a single row.
  for rows in range(min(max(fewest, 2), most), most + 1):
    feed = FeedConfig(packed_lengths, rows, max_examples_per_batch=num_examples)
    packed = _list_segments(cache, feed)
    if list(map(len, packed)) == list(map(len, padded)):
      break
  return _round_rows_up(feed, row_multiple)


def _round_rows_up(feed: FeedConfig, row_multiple: int) -> FeedConfig:
  rows = -(-feed.batch_rows // row_multiple) * row_multiple
  return dataclasses.replace(feed, batch_rows=rows)


def _list_segments(
  cache: token_cache.TokenCache, feed: FeedConfig
) -> list[list[tuple[int, int]]]:
  """Returns the tokens of each segment, on both sides, of the first batches."""
  batches = _take_batches(cache, feed, _NUM_TRIED_BATCHES)
  return [list(_list_lengths(batch)) for batch in batches]


def _bound_rows(
  segments: list[tuple[int, int]], packed_lengths: Mapping[str, int]
) -> int:
  """Returns the fewest packed rows with a place for each segment's tokens."""
  return max(
    # What is longer than a row is trimmed to it.
    -(-sum(min(length, limit) for length in lengths) // limit)
    for lengths, limit in zip(
      zip(*segments, strict=True),
      (packed_lengths["inputs"], packed_lengths["targets"]),
      strict=True,
    )
  )


def _take_batches(
  cache: token_cache.TokenCache, feed: FeedConfig, count: int
) -> Iterator[dict[str, Any]]:
  iterator = pipeline.make_train_iterator(cache, feed, with_example_ids=True)
  try:
    yield from (
      batch_lib.split_example_ids(next(iterator))[0] for _ in range(count)
    )
  finally:
    iterator.close()


def count_longer(
  cache: token_cache.TokenCache, lengths: Mapping[str, int]
) -> int:
  """Counts the inputs and targets that rows of these lengths would trim."""
  return sum(
    info.count_longer("train", feature, length)
    for info in cache.tasks.values()
    for feature, length in lengths.items()
  )


def count_example_flops(config: T5Config, batch: batch_lib.Batch) -> int:
  """Counts what training on a batch costs without its padding.

  Args:
    config: of the model.
    batch: packed or not.

  Returns:
    The FLOPs of its examples, each in a row of its own length.
  """
  return sum(
    count * _count_train_flops(config, *lengths)
    for lengths, count in collections.Counter(_list_lengths(batch)).items()
  )


_count_train_flops = functools.cache(
  lambda config, encoder_length, decoder_length: flops.count_train_flops(
    config, 1, encoder_length, decoder_length
  )
)


def _list_lengths(batch: batch_lib.Batch) -> Iterator[tuple[int, int]]:
  """Yields the tokens of each segment, on both sides."""
  for encoder_ids, decoder_ids in zip(
    batch[batch_lib.ENCODER_SEGMENT_IDS],
    batch[batch_lib.DECODER_SEGMENT_IDS],
    strict=True,
  ):
    num_segments = int(decoder_ids.max())
    yield from zip(
      *(
        np.bincount(ids, minlength=num_segments + 1)[1:].tolist()
        for ids in (encoder_ids, decoder_ids)
      ),
      strict=True,
    )


def export_examples(
  path: pathlib.Path,
  config: T5Config,
  cache: token_cache.TokenCache,
  num_examples: int,
  num_steps: int,
) -> None:
  """Writes the examples of the first steps as JSON lines.

  The first line has the sizes of the model, the others a row each: the `step`
  it belongs to, its `kind`, the record's `id`, `inputs` and `targets`. Every
  layout of the same cache, seed and number of examples has the same in a step.

  Args:
    path: the file, replaced.
    config: of the model.
    cache: with the examples.
    num_examples: pairs a step.
    num_steps: how many.
  """
  feed = make_feed(cache, "padded", num_examples, {})
  iterator = pipeline.make_train_iterator(cache, feed, with_example_ids=True)
  kinds = {
    batch_lib.LABEL_TASK_ID: "label",
    batch_lib.RATIONALE_TASK_ID: "rationale",
  }
  with open(path, "w", encoding="utf-8") as file:
    print(json.dumps({"model": dataclasses.asdict(config)}), file=file)
    for step in range(num_steps):
      batch, ids = batch_lib.split_example_ids(next(iterator))
      assert ids is not None
      for row, row_ids in enumerate(ids):
        if not row_ids:
          continue  # Padding: an example came without its rationale.
        inputs = batch[batch_lib.ENCODER_INPUT_TOKENS][row]
        targets = batch[batch_lib.DECODER_TARGET_TOKENS][row]
        line = {
          "step": step,
          "kind": kinds[int(batch[batch_lib.DECODER_TASK_IDS][row, 0])],
          "id": row_ids[0],
          "inputs": inputs[
            batch[batch_lib.ENCODER_SEGMENT_IDS][row] > 0
          ].tolist(),
          "targets": targets[
            batch[batch_lib.DECODER_SEGMENT_IDS][row] > 0
          ].tolist(),
        }
        print(json.dumps(line), file=file)
  iterator.close()
