"""Measures how fast the host makes training batches, with no model.

  python scripts/benchmark_feed.py
  python scripts/benchmark_feed.py --row_inputs=512 --row_targets=192 \\
    --examples=384 --token_cache=~/.cache/distill_jax/tokens/cqa_distill-0123

A device that trains faster than this waits for its batches. Examples come from
--token_cache, or are drawn with lengths like CQA's. Prints a JSON object for
packed and one for padded rows: `sequences_per_second` counts segments (a pair
of label and rationale is two), `load_seconds` is until the first batch. The
median of --turns of --batches batches counts. Inputs and targets longer than a
packed row lose their end. Needs no TensorFlow.
"""

import argparse
import json
import os
import platform
import statistics
import tempfile
import time
from typing import Any

import benchmark_data

from distill_jax.data import batch_counts, pipeline, token_cache


def measure(
  cache: token_cache.TokenCache, layout: str, options: argparse.Namespace
) -> dict[str, Any]:
  """Returns the rate of a layout's batches.

  Args:
    cache: with the examples.
    layout: "packed" or "padded".
    options: the command line's.
  """
  feed = benchmark_data.make_feed(
    cache,
    layout,
    options.examples,
    {"inputs": options.row_inputs, "targets": options.row_targets},
  )
  started = time.perf_counter()
  batches = pipeline.make_train_iterator(cache, feed)
  next(batches)
  load_seconds = time.perf_counter() - started
  rates, num_segments = [], 0
  for _ in range(options.turns):
    started = time.perf_counter()
    turn = [next(batches) for _ in range(options.batches)]
    seconds = time.perf_counter() - started
    counts = [batch_counts.count(batch).segments for batch in turn]
    rates.append(sum(counts) / seconds)
    num_segments += int(sum(counts))
  batches.close()
  rate = statistics.median(rates)
  return {
    "layout": layout,
    "rows": feed.batch_rows,
    "row_lengths": dict(feed.feature_lengths),
    "examples_per_batch": options.examples,
    "sequences": num_segments,
    "sequences_per_second": rate,
    "slowest_and_fastest_turn": [min(rates), max(rates)],
    "load_seconds": load_seconds,
    "machine": f"{platform.machine()}, {len(os.sched_getaffinity(0))} CPUs",
  }


def parse_options() -> argparse.Namespace:
  """Reads the command line."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("--token_cache", help="a token cache's folder")
  parser.add_argument("--examples", type=int, default=64, help="pairs a batch")
  parser.add_argument("--row_inputs", type=int, default=256)
  parser.add_argument("--row_targets", type=int, default=128)
  parser.add_argument("--batches", type=int, default=20, help="of a turn")
  parser.add_argument("--turns", type=int, default=5)
  return parser.parse_args()


def main() -> None:
  """Measures both layouts."""
  options = parse_options()
  with tempfile.TemporaryDirectory() as folder:
    if options.token_cache:
      path = os.path.expanduser(options.token_cache)
      cache = token_cache.TokenCache(path)
    else:
      cache = benchmark_data.draw_cache(folder, 32128, None)
    for layout in ("packed", "padded"):
      print(json.dumps(measure(cache, layout, options)), flush=True)


if __name__ == "__main__":
  main()
