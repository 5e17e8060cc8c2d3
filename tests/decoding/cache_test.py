import jax
import jax.numpy as jnp
import numpy as np
import pytest

from distill_jax.decoding.cache import reorder_rows, repeat_rows
from distill_jax.model.layers.attention import KeyValue
from distill_jax.model.t5.decoder import DecodeCache


@pytest.fixture
def cache():
  """Two rows in which every number differs."""
  array = jnp.arange(2 * 3 * 2 * 4, dtype=jnp.float32).reshape(2, 3, 2, 4)
  return DecodeCache(
    self_attention=(KeyValue(array, array + 100),) * 2,
    cross_attention=(KeyValue(array + 200, array + 300),) * 2,
    cross_bias=array[:, :1, :1] + 400,
  )


def test_copies_of_a_row_are_adjacent(cache):
  repeated = repeat_rows(cache, 3)
  for before, after in zip(
    jax.tree.leaves(cache), jax.tree.leaves(repeated), strict=True
  ):
    assert len(after) == 6
    for row in range(6):
      np.testing.assert_array_equal(after[row], before[row // 3])


def test_reordering_moves_what_decoding_wrote(cache):
  repeated = repeat_rows(cache, 2)
  written = repeated.replace(
    self_attention=jax.tree.map(
      lambda leaf: leaf + jnp.arange(4.0)[:, None, None, None],
      repeated.self_attention,
    )
  )
  rows = jnp.array([1, 1, 3, 2])
  reordered = reorder_rows(written, rows)
  # Rows trade places among copies, so gathering everything is the same.
  expected = jax.tree.map(lambda leaf: leaf[rows], written)
  for actual, leaf in zip(
    jax.tree.leaves(reordered), jax.tree.leaves(expected), strict=True
  ):
    np.testing.assert_array_equal(actual, leaf)
