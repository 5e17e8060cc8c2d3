"""Tests of aot.programs: what is lowered from shapes is what training runs."""

import dataclasses

import jax
import numpy as np
import pytest
import tiny_student

from distill_jax.aot import programs
from distill_jax.data import vocab
from distill_jax.errors import UserError
from distill_jax.evaluation.evaluator import Evaluator
from distill_jax.partitioning import mesh as mesh_lib
from distill_jax.partitioning import sharding

_MESH = {"data": 2, "fsdp": 2, "model": 2}
_ROWS = tiny_student.PACKING.batch_rows
_LENGTHS = {
  "inputs": tiny_student.PACKING.encoder_length,
  "targets": tiny_student.PACKING.decoder_length,
}


@pytest.fixture(name="student", scope="module")
def fixture_student():
  return programs.make_student(
    tiny_student.CONFIG,
    tiny_student.OPTIMIZERS["adafactor"],
    mesh_lib.make_mesh(_MESH),
  )


def _lower_training(student):
  return programs.lower_train_step(
    student,
    programs.make_batch(student, _ROWS, _LENGTHS),
    tiny_student.OBJECTIVE,
    num_microbatches=1,
    loss_chunk_tokens=None,
    skips_nonfinite=False,
  )


def test_the_train_step_is_the_one_that_training_compiles(student):
  run = tiny_student.start("adafactor", _MESH)
  batch = sharding.to_global(tiny_student.make_batch(), student.mesh)
  expected = run.step_fn.lower(run.state, batch)
  assert _lower_training(student).as_text() == expected.as_text()


@pytest.mark.parametrize("name", ["split", "replicated", "as_trained"])
def test_decoding_is_the_one_of_evaluation(name):
  student = programs.make_student(
    # Heads for fsdp times model.
    dataclasses.replace(tiny_student.CONFIG, num_heads=4, head_dim=4),
    tiny_student.OPTIMIZERS["adafactor"],
    mesh_lib.make_mesh(_MESH),
  )
  batch = programs.make_batch(student, _ROWS, _LENGTHS)
  inputs = student.family.layout.select_inputs(batch)
  evaluator = Evaluator(
    student.model,
    student.mesh,
    vocab.load_vocabulary("bytes"),
    _LENGTHS,
    _ROWS,
    decode_layout=name,
  )
  layout = programs.make_decoder_layout(student, name)
  params = student.state.params
  row_ids = np.arange(_ROWS, dtype=np.int32)
  expected = evaluator._decode.lower(
    params, layout.describe_params(params), inputs, row_ids, 5
  )
  lowered = programs.lower_decoding(student, batch, 5, layout)
  assert lowered.as_text() == expected.as_text()


def test_bytes_of_a_device_are_what_it_holds(student):
  run = tiny_student.start("adafactor", _MESH)
  device = jax.devices()[3]

  def count(tree):
    return sum(
      shard.data.nbytes
      for leaf in jax.tree.leaves(tree)
      for shard in leaf.addressable_shards
      if shard.device == device
    )

  state = student.state
  assert programs.count_device_bytes(state.params) == count(run.state.params)
  assert programs.count_device_bytes(state) == count(run.state)
  batch = sharding.to_global(tiny_student.make_batch(), student.mesh)
  expected = programs.make_batch(student, _ROWS, _LENGTHS)
  assert programs.count_device_bytes(expected) == count(batch)


@pytest.mark.parametrize("is_tied", [False, True])
@pytest.mark.parametrize("is_scanned", [False, True])
@pytest.mark.parametrize("dtype, itemsize", [("float32", 4), ("bfloat16", 2)])
def test_parameters_that_decoding_reads(is_tied, is_scanned, dtype, itemsize):
  config = dataclasses.replace(
    tiny_student.CONFIG,
    dtype=dtype,
    num_decoder_layers=3,
    tie_embeddings=is_tied,
    scan_layers=is_scanned,
  )
  student = programs.make_student(
    config,
    tiny_student.OPTIMIZERS["adafactor"],
    mesh_lib.make_mesh({"data": 1}, jax.devices()[:1]),
  )
  # Kernels of 16 x 16 and 16 x 24, norms of 16, a bias of 32 buckets for each
  # of 2 heads; logits of 48 tokens.
  encoder = 4 * 16 * 16 + 3 * 16 * 24 + 2 * 16 + 16 + 32 * 2
  cross_key_value = 2 * 16 * 16
  layer = 6 * 16 * 16 + 3 * 16 * 24 + 3 * 16
  logits = 16 * 48
  once = encoder + 3 * cross_key_value
  every_token = 3 * layer + 16 + 32 * 2 + logits
  # Read once more to be cast.
  cast = every_token if dtype == "bfloat16" else 0
  expected = 4 * (once + cast) + 7 * itemsize * every_token
  layout = programs.make_decoder_layout(student, "auto")
  assert programs.count_decoding_reads(student, 7, layout) == expected


@pytest.mark.parametrize("name, num_parts", [("split", 4), ("replicated", 1)])
def test_a_token_reads_the_decoder_as_it_is_laid_out(name, num_parts):
  config = dataclasses.replace(tiny_student.CONFIG, num_heads=8, head_dim=2)
  student = programs.make_student(
    config,
    tiny_student.OPTIMIZERS["adafactor"],
    mesh_lib.make_mesh({"fsdp": 4}, jax.devices()[:4]),
  )
  layout = programs.make_decoder_layout(student, name)
  reads = [
    programs.count_decoding_reads(student, length, layout) for length in (7, 8)
  ]
  kernels = (6 * 16 * 16 + 3 * 16 * 24 + 16 * 48 + 32 * 8) // num_parts
  assert reads[1] - reads[0] == 4 * (kernels + 4 * 16)  # Norms are whole.


def test_shapes_of_a_batch(student):
  made = programs.make_batch(student, _ROWS, _LENGTHS)
  batch = tiny_student.make_batch()
  assert {key: (leaf.shape, leaf.dtype) for key, leaf in made.items()} == {
    key: (value.shape, value.dtype) for key, value in batch.items()
  }


def test_a_mesh_that_divides_no_parameter():
  with pytest.raises(UserError, match="Choose another MESH"):
    programs.make_student(
      tiny_student.CONFIG,
      tiny_student.OPTIMIZERS["adafactor"],
      mesh_lib.make_mesh({"model": 7}, jax.devices()[:7]),
    )
