"""Tests of aot.saved_activations, against shapes worked out by hand."""

import dataclasses

import jax
import pytest
import tiny_student

from distill_jax.aot import programs, saved_activations
from distill_jax.partitioning import mesh as mesh_lib

_LENGTHS = {"inputs": 16, "targets": 12}
_ROWS = 16


def _count(
  mesh=None, rows=_ROWS, num_microbatches=1, loss_chunk_tokens=None, **changes
):
  sizes = mesh or {"data": 1}
  num_devices = 1
  for size in sizes.values():
    num_devices *= size
  student = programs.make_student(
    dataclasses.replace(tiny_student.CONFIG, **changes),
    tiny_student.OPTIMIZERS["adafactor"],
    mesh_lib.make_mesh(sizes, jax.devices()[:num_devices]),
  )
  return saved_activations.count_saved_bytes(
    student,
    rows,
    _LENGTHS,
    tiny_student.OBJECTIVE,
    num_microbatches,
    loss_chunk_tokens,
  )


# A layer's input, the results of query, key and value, those of wi_0 and wi_1,
# and that of out.
_INPUT, _HEADS, _HIDDEN, _OUT = 16, 3 * 2 * 8, 2 * 24, 16


@pytest.mark.parametrize(
  "stack, policy, is_scanned, mesh, width",
  [
    ("encoder", "full", True, None, _INPUT),
    ("decoder", "full", False, None, _INPUT),
    ("encoder", "minimal", False, None, _INPUT + _HEADS + _HIDDEN + _OUT),
    # What the model axis divides is divided; the residual stream is not.
    (
      "encoder",
      "minimal",
      True,
      {"model": 2},
      _INPUT + (_HEADS + _HIDDEN) // 2 + _OUT,
    ),
  ],
)
@pytest.mark.parametrize("dtype, itemsize", [("float32", 4), ("bfloat16", 2)])
def test_what_a_layer_more_saves(
  stack, policy, is_scanned, mesh, width, dtype, itemsize
):
  few, more = (
    _count(
      mesh=mesh,
      dtype=dtype,
      remat_policy=policy,
      scan_layers=is_scanned,
      **{f"num_{stack}_layers": count},
    )
    for count in (1, 2)
  )
  length = _LENGTHS["inputs" if stack == "encoder" else "targets"]
  assert more - few == _ROWS * length * width * itemsize


def test_rows_are_divided_among_devices_and_micro_batches():
  whole = _count(remat_policy="full")
  assert whole < _count(remat_policy="minimal") < _count()
  for mesh, num_microbatches in (({"data": 2, "fsdp": 2}, 1), ({"fsdp": 2}, 2)):
    part = _count(mesh, num_microbatches=num_microbatches, remat_policy="full")
    assert part == whole / 4


def test_logits_in_chunks_are_not_saved():
  saved = _count() - _count(loss_chunk_tokens=_ROWS)
  logits = _ROWS * _LENGTHS["targets"] * tiny_student.CONFIG.vocab_size * 4
  assert saved > 0.9 * logits
