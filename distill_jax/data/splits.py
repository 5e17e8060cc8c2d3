"""Which examples train, validate or are left out: index arithmetic only.

Knows no data set. The draws are those of the authors' code, which calls
`train_test_split` of Hugging Face datasets, so that a split made here is
theirs, row by row and in their order.
"""

import math

import numpy as np

from distill_jax.errors import UserError


def train_validation_split(
  num_examples: int, validation_fraction: float, seed: int
) -> tuple[np.ndarray, np.ndarray]:
  """Divides examples into a training and a validation part.

  Args:
    num_examples: how many there are.
    validation_fraction: share of them that validates, above 0 and below 1;
      the count is rounded up.
    seed: seed of the draw.

  Returns:
    Training and validation indices, each [part] int64, in drawn order.

  Raises:
    ValueError: the fraction is not between 0 and 1.
    UserError: one part would be empty.

  Source: authors' data_utils.py, `train_test_split(test_size, seed)`; its rule
    was checked against that library.
  """
  if not 0 < validation_fraction < 1:
    raise ValueError(f"validation_fraction is {validation_fraction}")
  train, validation = _draw(num_examples, validation_fraction, seed)
  if not (train.size and validation.size):
    raise UserError(
      f"{num_examples} examples cannot be divided into a training part and a"
      f" validation part of {validation_fraction:g}: one of them would be"
      " empty. Use more examples."
    )
  return train, validation


def subsample_indices(
  num_examples: int, fraction: float, seed: int
) -> np.ndarray:
  """Draws the training examples to keep.

  Args:
    num_examples: how many there are.
    fraction: share of them to keep, above 0 and at most 1; the count is
      rounded down.
    seed: seed of the draw.

  Returns:
    Indices [kept] int64 in drawn order; all of them in their own order where
    the fraction is 1.

  Raises:
    ValueError: the fraction is outside (0, 1].
    UserError: nothing would be left.

  Source: authors' run.py, the training part of
    `train_test_split(test_size=1 - subsample, seed=run)`.
  """
  if not 0 < fraction <= 1:
    raise ValueError(f"fraction is {fraction}")
  if fraction == 1:
    return np.arange(num_examples)
  kept, _ = _draw(num_examples, 1 - fraction, seed)
  if not kept.size:
    raise UserError(
      f"SUBSAMPLE {fraction:g} of {num_examples} training examples keeps"
      " none. Raise it."
    )
  return kept


def _draw(
  num_examples: int, drawn_fraction: float, seed: int
) -> tuple[np.ndarray, np.ndarray]:
  """Returns what remains and what is drawn, each [part] int64."""
  order = np.random.default_rng(seed).permutation(num_examples)
  num_drawn = math.ceil(drawn_fraction * num_examples)
  return order[num_drawn:], order[:num_drawn]
