"""Measures how fast the host makes training batches, with no model.

  python scripts/benchmarks/benchmark_feed.py
  python scripts/benchmarks/benchmark_feed.py --row_inputs=512 \\
    --row_targets=192 \\
    --examples=384 --token_cache=~/.cache/distill_jax/tokens/cqa_distill-0123
  python scripts/benchmarks/benchmark_feed.py --rows=512 --data_shards=4 \\
    --hosts=4

A device that trains faster than this waits for its batches. Examples come from
--token_cache, or are drawn with lengths like CQA's. Prints a JSON object for
packed and one for padded rows: `sequences_per_second` counts segments (a pair
of label and rationale is two), `load_seconds` is until the first batch. The
median of --turns of --batches batches counts. Inputs and targets longer than a
packed row lose their end. Needs no TensorFlow.

With --rows packed rows alone are timed, that many a batch and as full as they
get. With --hosts this process makes what host --host would, of a batch in
--data_shards; `sequences_per_second` is what it makes itself, and
`all_hosts_sequences_per_second` that of all, each being as fast.
"""

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from typing import Any

import benchmark_data

from distill_jax.data import token_cache
from distill_jax.data.feed import batch as batch_lib
from distill_jax.data.feed import batch_counts, pipeline, shards
from distill_jax.errors import UserError


def measure(
  cache: token_cache.TokenCache, layout: str, options: argparse.Namespace
) -> dict[str, Any]:
  """Returns the rate of a layout's batches.

  Args:
    cache: with the examples.
    layout: "packed" or "padded".
    options: the command line's.
  """
  row_lengths = {"inputs": options.row_inputs, "targets": options.row_targets}
  if options.rows is None:
    feed = benchmark_data.make_feed(
      cache, layout, options.examples, row_lengths
    )
  else:
    feed = pipeline.FeedConfig(
      row_lengths, options.rows, num_shards=options.data_shards
    )
  # As hosts hold rows: side by side, and equally many.
  of_host = feed.num_shards // options.hosts
  made = range(options.host * of_host, (options.host + 1) * of_host)
  rows = shards.list_rows(made, feed.num_shards, feed.batch_rows)
  started = time.perf_counter()
  batches = pipeline.make_train_iterator(cache, feed, shards=made)
  next(batches)
  load_seconds = time.perf_counter() - started
  rates, counts = [], batch_counts.BatchCounts()
  for _ in range(options.turns):
    started = time.perf_counter()
    turn = [next(batches) for _ in range(options.batches)]
    seconds = time.perf_counter() - started
    of_turn = sum(
      (batch_counts.count(batch_lib.take_rows(b, rows)) for b in turn),
      start=batch_counts.BatchCounts(),
    )
    rates.append(of_turn.segments / seconds)
    counts += of_turn
  batches.close()
  rate = statistics.median(rates)
  return {
    "layout": layout,
    "rows": feed.batch_rows,
    "row_lengths": dict(feed.feature_lengths),
    "examples_per_batch": options.examples if options.rows is None else None,
    "data_shards": feed.num_shards,
    "hosts": options.hosts,
    "sequences": counts.segments,
    "padding_share": counts.padding_share,
    "sequences_per_second": rate,
    "all_hosts_sequences_per_second": rate * options.hosts,
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
  parser.add_argument("--rows", type=int, help="packed rows a batch, filled")
  parser.add_argument("--data_shards", type=int, default=1, help="of --rows")
  parser.add_argument("--hosts", type=int, default=1, help="that share them")
  parser.add_argument("--host", type=int, default=0, help="which this one is")
  parser.add_argument("--row_inputs", type=int, default=256)
  parser.add_argument("--row_targets", type=int, default=128)
  parser.add_argument("--batches", type=int, default=20, help="of a turn")
  parser.add_argument("--turns", type=int, default=5)
  options = parser.parse_args()
  if options.rows is None and options.data_shards > 1:
    parser.error("--data_shards is of a batch of --rows; give them")
  if options.hosts < 1 or options.data_shards % options.hosts:
    parser.error("--data_shards must divide by --hosts")
  if not 0 <= options.host < options.hosts:
    parser.error("--host must be from 0 to --hosts - 1")
  return options


def main() -> None:
  """Measures the layouts."""
  options = parse_options()
  try:
    _measure_layouts(options)
  except UserError as error:
    print(f"benchmark_feed.py: {error}", file=sys.stderr)
    sys.exit(error.exit_code)


def _measure_layouts(options: argparse.Namespace) -> None:
  # Padded rows are as many as the examples, so --rows is of packed ones.
  layouts = ("packed", "padded") if options.rows is None else ("packed",)
  with tempfile.TemporaryDirectory() as folder:
    if options.token_cache:
      path = os.path.expanduser(options.token_cache)
      cache = token_cache.TokenCache(path)
    else:
      cache = benchmark_data.draw_cache(folder, 32128, None)
    for layout in layouts:
      print(json.dumps(measure(cache, layout, options)), flush=True)


if __name__ == "__main__":
  main()
