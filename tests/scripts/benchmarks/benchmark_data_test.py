"""Tests of scripts/benchmarks/benchmark_data.py."""

import dataclasses
import json

import numpy as np
import pytest
from script_import import import_script
from synthetic_cache import make_cache

from distill_jax.data.feed import batch as batch_lib
from distill_jax.data.feed import batch_counts, pipeline
from distill_jax.model.t5 import flops
from distill_jax.model.t5.config import T5Config

benchmark_data = import_script("benchmark_data")

_CONFIG = T5Config(
  vocab_size=48,
  embed_dim=16,
  num_heads=2,
  head_dim=8,
  mlp_dim=24,
  num_encoder_layers=1,
  num_decoder_layers=2,
)
_ROW = {"inputs": 24, "targets": 16}
_NUM_EXAMPLES = 3


@pytest.fixture(name="cache", scope="module")
def fixture_cache(tmp_path_factory):
  return make_cache(tmp_path_factory.mktemp("cache"), 12, num_rationales=10)


def _take(cache, feed, count):
  iterator = pipeline.make_train_iterator(cache, feed, with_example_ids=True)
  batches = [batch_lib.split_example_ids(next(iterator)) for _ in range(count)]
  iterator.close()
  return batches


def test_layouts_and_the_exported_file_hold_the_same_examples(cache, tmp_path):
  path = tmp_path / "examples.jsonl"
  benchmark_data.export_examples(path, _CONFIG, cache, _NUM_EXAMPLES, 3)
  header, *rows = map(json.loads, path.read_text().splitlines())
  assert T5Config(**header["model"]) == _CONFIG
  exported = [
    {(row["id"], row["kind"]) for row in rows if row["step"] == step}
    for step in range(3)
  ]
  assert all(
    len({name for name, _ in of_step}) == _NUM_EXAMPLES for of_step in exported
  )
  for layout in benchmark_data.LAYOUTS:
    feed = benchmark_data.make_feed(cache, layout, _NUM_EXAMPLES, _ROW)
    for (batch, ids), of_step in zip(
      _take(cache, feed, 3), exported, strict=True
    ):
      found = {name for row_ids in ids for name in row_ids}
      assert found == {name for name, _ in of_step}
      assert batch_counts.count(batch).segments == len(of_step)


def test_exported_tokens_are_those_of_the_cache(cache, tmp_path):
  path = tmp_path / "examples.jsonl"
  benchmark_data.export_examples(path, _CONFIG, cache, 12, 1)
  _, *rows = map(json.loads, path.read_text().splitlines())
  assert len(rows) == 22  # Two have no rationale.
  written = {
    (row["kind"], row["id"], tuple(row["inputs"]), tuple(row["targets"]))
    for row in rows
  }
  assert written == {
    (kind, row.id, tuple(row.inputs), tuple(row.targets))
    for kind in ("label", "rationale")
    for row in cache.open_split(f"toy_{kind}", "train")
  }


# The second trims most examples, and the third all.
@pytest.mark.parametrize(
  "row",
  [_ROW, {"inputs": 6, "targets": 3}, {"inputs": 2, "targets": 1}],
  ids=str,
)
def test_packed_rows_are_as_few_as_do(cache, row):
  feed = benchmark_data.make_feed(cache, "packed", _NUM_EXAMPLES, row)
  assert feed.batch_rows <= 2 * _NUM_EXAMPLES
  fewer = dataclasses.replace(feed, batch_rows=feed.batch_rows - 1)
  segments = [
    [batch_counts.count(batch).segments for batch, _ in taken]
    for taken in (_take(cache, feed, 20), _take(cache, fewer, 20))
  ]
  assert segments[0] != segments[1]


def test_packed_rows_may_be_of_a_multiple(cache):
  feed = benchmark_data.make_feed(cache, "packed", _NUM_EXAMPLES, _ROW)
  rounded = benchmark_data.make_feed(
    cache, "packed", _NUM_EXAMPLES, _ROW, row_multiple=4
  )
  assert rounded.batch_rows == -(-feed.batch_rows // 4) * 4


def test_example_flops_are_of_each_example_by_itself(cache):
  feed = benchmark_data.make_feed(cache, "packed", _NUM_EXAMPLES, _ROW)
  ((batch, ids),) = _take(cache, feed, 1)
  chosen = {name for row_ids in ids for name in row_ids}
  expected = sum(
    flops.count_train_flops(_CONFIG, 1, len(row.inputs), len(row.targets))
    for task in cache.tasks
    for row in cache.open_split(task, "train")
    if row.id in chosen
  )
  assert benchmark_data.count_example_flops(_CONFIG, batch) == expected


def test_drawn_examples_fill_rows(tmp_path):
  cache = benchmark_data.draw_cache(str(tmp_path), 48, _ROW)
  assert benchmark_data.find_longest(cache) == _ROW
  assert benchmark_data.count_longer(cache, _ROW) == 0
  feed = benchmark_data.make_feed(cache, "padded", 2, {})
  ((batch, _),) = _take(cache, feed, 1)
  assert batch_counts.count(batch).padding_share == 0
  assert batch[batch_lib.ENCODER_INPUT_TOKENS].shape == (4, 24)
  assert np.all(batch[batch_lib.ENCODER_INPUT_TOKENS] < 48)
