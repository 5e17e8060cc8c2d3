"""Tests of checkpoint/shape_check.py: what does not fit is named."""

import dataclasses

import jax
import orbax.checkpoint as ocp
import pytest
import tiny_student

from distill_jax.checkpoint import shape_check
from distill_jax.errors import UserError
from distill_jax.model.t5.t5 import T5
from distill_jax.training import state as state_lib


@pytest.fixture(name="stored", scope="module")
def fixture_stored(tmp_path_factory):
  """Parameters of `tiny_student`, on the disk."""
  path = tmp_path_factory.mktemp("1") / "state"
  params = jax.device_put(tiny_student.make_params())
  with ocp.PyTreeCheckpointer() as checkpointer:
    checkpointer.save(path, {"params": params})
  return path


def get_params(**changes):
  config = dataclasses.replace(tiny_student.CONFIG, **changes)
  shapes, _ = state_lib.abstract_params(T5(config))
  return {"params": shapes}


def test_what_was_stored_fits(stored):
  shape_check.check_shapes(stored, get_params())


@pytest.mark.parametrize(
  "changes,lines",
  [
    (
      {"mlp_dim": 32},
      [
        "6 of 29 tensors differ",
        "params/encoder/layers_0/mlp/wo/kernel: checkpoint has (24, 16), model"
        " expects (32, 16)",
      ],
    ),
    (
      {"num_encoder_layers": 2},
      [
        "9 of 38 tensors differ",
        "params/encoder/layers_1/mlp/wo/kernel: checkpoint has nothing, model"
        " expects (24, 16)",
        "... and 1 more",
      ],
    ),
    (
      {"tie_embeddings": True},
      [
        "1 of 28 tensors differ",
        "params/decoder/logits_dense/kernel: checkpoint has (16, 48), model"
        " expects nothing",
      ],
    ),
  ],
)
def test_another_model_is_refused_by_its_shapes(stored, changes, lines):
  with pytest.raises(UserError) as error:
    shape_check.check_shapes(stored, get_params(**changes))
  for line in lines:
    assert line in str(error.value)
