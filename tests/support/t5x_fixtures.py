"""T5X's own checkpoints and numbers, kept outside the project.

A test module sets `pytestmark = t5x_fixtures.MARKS`; it skips where there are
none.
"""

import dataclasses
import pathlib

import numpy as np
import pytest
from flax import traverse_util

from distill_jax.checkpoint import formats

FOLDER = pathlib.Path(__file__).parents[3] / "shared/fixtures/t5x_tiny"
MARKS = [
  pytest.mark.shared,
  pytest.mark.skipif(
    not FOLDER.exists(), reason="no T5X fixtures beside this checkout"
  ),
]
LEGACY = "legacy/checkpoint_1000"
ORBAX = "orbax/checkpoint_1000"
LEGACY_1_0 = "v1_0/legacy/checkpoint_1000"
SINGLE_FILE = "test_t5_tiny/test_t5_tiny.checkpoint_0"


def open_checkpoint(name=LEGACY):
  """Returns the architecture, without dropout, and the parameters."""
  stored = formats.open_checkpoint(FOLDER / name)
  params = {path: tensor.read() for path, tensor in stored.tensors.items()}
  return (
    dataclasses.replace(stored.config, dropout_rate=0.0),
    traverse_util.unflatten_dict(params, sep="/"),
  )


def load_arrays(name):
  """Returns the arrays of an `.npz` file."""
  with np.load(FOLDER / name) as file:
    return dict(file)
