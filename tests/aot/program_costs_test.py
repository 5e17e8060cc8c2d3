"""Tests of aot.program_costs, against a small model's figures."""

import dataclasses

import pytest
import tiny_student

from distill_jax.aot import program_costs, programs
from distill_jax.model.t5 import flops
from distill_jax.partitioning import mesh as mesh_lib

_LENGTHS = {"inputs": 16, "targets": 12}


@pytest.fixture(name="student", scope="module")
def fixture_student():
  return programs.make_student(
    dataclasses.replace(tiny_student.CONFIG, remat_policy="full"),
    tiny_student.OPTIMIZERS["adamw"],
    mesh_lib.make_mesh({"fsdp": 4, "model": 2}),
  )


def test_the_train_step(student):
  parts, work = program_costs.measure_training(student, 8, _LENGTHS, 2, 24)
  state = student.state
  assert parts["parameters"] == programs.count_device_bytes(state.params)
  # Two moments, and counters.
  assert 0 <= parts["optimizer"] - 2 * parts["parameters"] <= 16
  # Seven features of int32 or float32, whole rows in four places.
  assert parts["batch"] == 8 // 4 * 4 * (3 * 16 + 6 * 12)
  config = student.model.config
  assert work.model_flops == flops.count_train_flops(config, 8, 16, 12)
  assert work.recomputed_flops == flops.count_recomputed_flops(
    config, 8, 16, 12, loss_chunk_tokens=24
  )
  # Two micro-batches, each forward and backward; once to update them.
  assert work.device_hbm_bytes == (
    (2 * 2 + 2) * parts["parameters"] + 2 * parts["optimizer"]
  )
  assert work.tokens == 8 * (16 + 12)


@pytest.mark.parametrize("name", ["as_trained", "replicated"])
def test_decoding(student, name):
  layout = programs.make_decoder_layout(student, name)
  parts, work = program_costs.measure_decoding(student, 8, _LENGTHS, layout)
  params = student.state.params
  assert parts["parameters"] == programs.count_device_bytes(params)
  if name == "as_trained":
    assert "decoder_copy" not in parts
  else:
    # All but the decoder's relative bias, which fsdp does not divide.
    moved = programs.count_device_bytes(
      [params["decoder"], params["token_embedder"]]
    )
    bias = programs.count_device_bytes(params["decoder"]["relpos_bias"])
    assert parts["decoder_copy"] == 4 * (moved - bias) + bias
  assert parts["batch"] == 8 // 4 * 4 * 2 * 16
  assert "optimizer" not in parts
  assert work.model_flops == flops.count_forward_flops(
    student.model.config, 8, 16, 12
  )
  assert work.recomputed_flops == 0
  assert work.device_hbm_bytes == programs.count_decoding_reads(
    student, 12, layout
  )
  assert work.tokens == 8 * 12
