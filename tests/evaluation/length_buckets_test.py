"""Few shapes, every example once, and none of them cut."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distill_jax.evaluation import length_buckets


@given(st.integers(1, 600), st.data())
def test_a_bucket_holds_what_is_put_in_it(largest, data):
  step = data.draw(st.sampled_from([1, 2, 4, 8]))
  largest *= step
  buckets = {
    length_buckets.round_up(size, largest, step) for size in range(largest + 1)
  }
  assert len(buckets) <= 4
  size = data.draw(st.integers(0, largest))
  bucket = length_buckets.round_up(size, largest, step)
  assert bucket == min(b for b in buckets if b >= size)
  assert bucket % step == 0


@pytest.mark.parametrize(
  "largest,buckets",
  [
    (512, [64, 128, 256, 512]),
    # Halves rounded up to 8 tokens, and no bucket above the largest.
    (100, [16, 32, 56, 100]),
    (20, [8, 16, 20]),
    (5, [5]),
  ],
)
def test_buckets_of_tokens(largest, buckets):
  found = {
    length_buckets.round_up_length(length, largest)
    for length in range(1, largest + 1)
  }
  assert sorted(found) == buckets


@given(
  st.lists(st.integers(0, 70), max_size=60),
  st.integers(1, 5),
  st.integers(1, 4),
)
def test_a_plan_holds_each_example_once(lengths, groups, row_step):
  batch_rows = groups * row_step
  plan = length_buckets.plan_batches(lengths, 70, batch_rows, row_step)
  indices = [index for batch in plan for index in batch.indices]
  assert sorted(indices) == list(range(len(lengths)))
  # By length, and of equal lengths the first ones first.
  assert indices == sorted(indices, key=lambda i: (-lengths[i], i))
  for batch in plan:
    assert max(lengths[i] for i in batch.indices) <= batch.length <= 70
    assert len(batch.indices) <= batch.rows <= batch_rows
    assert batch.rows % row_step == 0
  assert all(batch.rows == batch_rows for batch in plan[:-1])
  assert len({(batch.rows, batch.length) for batch in plan}) <= 5


def test_a_few_examples_take_few_rows():
  (batch,) = length_buckets.plan_batches([3, 9], 64, 32, 1)
  assert batch == ([1, 0], 4, 16)


@pytest.mark.parametrize("count, rows", [(1, 1), (2, 2), (3, 4), (9, 16)])
def test_more_buckets_of_rows_go_down_to_one(count, rows):
  (batch,) = length_buckets.plan_batches([3] * count, 64, 32, 1, 7)
  assert batch.rows == rows
