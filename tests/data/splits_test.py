"""Tests of data/splits.py against splits recorded from the authors' code."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from distill_jax.data.splits import subsample_indices, train_validation_split
from distill_jax.errors import UserError


@pytest.mark.parametrize(
  "num_examples, num_train, first_validation",
  [
    # Recorded from Hugging Face datasets: SVAMP and CQA.
    (800, 720, [759, 697, 2, 105, 672, 620]),
    (9741, 8766, [4032, 2432, 4722, 1506, 47, 8187]),
  ],
)
def test_split_is_the_authors(num_examples, num_train, first_validation):
  train, validation = train_validation_split(num_examples, 0.1, seed=0)
  assert len(train) == num_train
  assert validation[:6].tolist() == first_validation


@given(st.integers(2, 300), st.floats(0.01, 0.9), st.integers(0, 5))
def test_parts_are_disjoint_and_complete(num_examples, fraction, seed):
  try:
    train, validation = train_validation_split(num_examples, fraction, seed)
  except UserError:
    assert np.ceil(fraction * num_examples) == num_examples
    return
  both = np.concatenate([train, validation])
  assert sorted(both) == list(range(num_examples))
  assert len(validation) == np.ceil(fraction * num_examples)


def test_subsample_is_the_training_part_of_a_split():
  kept = subsample_indices(9741, 0.125, seed=3)
  train, _ = train_validation_split(9741, 1 - 0.125, seed=3)
  assert kept.tolist() == train.tolist()
  assert len(kept) == 1217
  assert kept.tolist() != subsample_indices(9741, 0.125, seed=4).tolist()


def test_the_whole_keeps_its_order():
  assert subsample_indices(5, 1.0, seed=0).tolist() == [0, 1, 2, 3, 4]


def test_empty_parts_are_refused():
  with pytest.raises(UserError, match="1 examples cannot be divided"):
    train_validation_split(1, 0.1, seed=0)
  with pytest.raises(UserError, match="SUBSAMPLE 0.001 of 800"):
    subsample_indices(800, 0.001, seed=0)
  with pytest.raises(ValueError, match="validation_fraction is 1.5"):
    train_validation_split(10, 1.5, seed=0)
  with pytest.raises(ValueError, match="fraction is 0.0"):
    subsample_indices(10, 0.0, seed=0)
