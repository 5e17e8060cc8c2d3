"""Tests of aot.hlo_collectives, on programs whose collectives are known."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import Mesh, PartitionSpec

from distill_jax.aot import hlo_collectives
from distill_jax.aot.hlo_collectives import Traffic

_LENGTH = 64
_BYTES = 4 * _LENGTH  # Of what one device holds.


def _read(fn):
  """Compiles `fn` on 8 devices, as (2, 4), each with [64] float32."""
  mesh = Mesh(np.array(jax.devices()).reshape(2, 4), ("x", "y"))
  sharded = jax.shard_map(
    fn,
    mesh=mesh,
    in_specs=PartitionSpec(("x", "y")),
    out_specs=PartitionSpec(("x", "y")),
    check_vma=False,
  )
  compiled = jax.jit(sharded).lower(jnp.zeros(8 * _LENGTH)).compile()
  return hlo_collectives.read_traffic(compiled.as_text() or "", 8)


@pytest.mark.parametrize(
  "fn, kind, sent_bytes",
  [
    # Of n devices, each sends (n-1)/n of what is reduced, twice.
    (lambda x: lax.psum(x, ("x", "y")), "all-reduce", 2 * _BYTES * 7 // 8),
    (lambda x: lax.psum(x, "y"), "all-reduce", 2 * _BYTES * 3 // 4),
    (lambda x: lax.psum(x, "x"), "all-reduce", 2 * _BYTES // 2),
    # The result is that of 4 devices; all but one's own part has to come.
    (lambda x: lax.all_gather(x, "y"), "all-gather", 3 * _BYTES),
    (
      lambda x: lax.psum_scatter(x, "y", tiled=True),
      "reduce-scatter",
      _BYTES * 3 // 4,
    ),
    (
      lambda x: lax.all_to_all(x.reshape(4, -1), "y", 0, 0),
      "all-to-all",
      _BYTES * 3 // 4,
    ),
    (
      lambda x: lax.ppermute(x, "y", [(i, (i + 1) % 4) for i in range(4)]),
      "collective-permute",
      _BYTES,
    ),
  ],
)
def test_one_collective(fn, kind, sent_bytes):
  traffic = _read(fn)
  assert traffic.by_kind == {kind: Traffic(1, sent_bytes)}
  assert traffic.loops_counted_once == 0
  assert traffic.interconnect_bytes == sent_bytes
  assert traffic.network_bytes == 0


def _scan(length, body):
  return lambda x: lax.scan(lambda c, _: (body(c), None), x, length=length)[0]


def _double(x):
  return lax.psum(jnp.sin(x), ("x", "y"))


def test_a_loop_counts_as_often_as_it_runs():
  once = 2 * _BYTES * 7 // 8
  traffic = _read(_scan(5, _double))
  assert traffic.by_kind == {"all-reduce": Traffic(5, 5 * once)}
  nested = _scan(3, lambda x: _double(_scan(5, _double)(x)))
  traffic = _read(nested)
  assert traffic.by_kind == {"all-reduce": Traffic(18, 18 * once)}


def test_a_loop_that_may_end_early_counts_in_full():
  def fn(x):
    def is_running(carry):
      step, x = carry
      return (step < 7) & (x[0] < 1)

    start = (jnp.int32(0), x)
    return lax.while_loop(
      is_running, lambda carry: (carry[0] + 1, _double(carry[1])), start
    )[1]

  assert _read(fn).by_kind["all-reduce"].count == 7


def test_a_loop_of_unknown_length_is_told():
  def fn(x):
    return lax.while_loop(lambda x: x[0] < 1, _double, x)

  traffic = _read(fn)
  assert traffic.by_kind["all-reduce"].count == 1
  assert traffic.loops_counted_once == 1


def test_no_collective():
  traffic = _read(_scan(3, jnp.sin))
  assert traffic.by_kind == {}


# What compilers for CPUs do not write, in the forms of those for TPUs and GPUs.
_FORMS = [
  (
    "bf16[4,32]{1,0:T(8,128)(2,1)} all-reduce(%x), channel_id=1,"
    " replica_groups=mesh['axis_0'=2,'axis_1'=1,'axis_2'=4] {'axis_2'},"
    " to_apply=%add",
    ("all-reduce", 2 * 256 * 3 // 4),
  ),
  (
    "f32[64]{0} all-reduce(%x), replica_groups=mesh['axis_0'=2,'axis_1'=4],"
    " device_ids=([4,2]T(1,0)) {'axis_0','axis_1'}, to_apply=%add",
    ("all-reduce", 2 * 256 * 7 // 8),
  ),
  (
    "f32[64]{0} all-reduce(%x), replica_groups=mesh['axis_0'=8]"
    " {'axis_0':(2)2}, to_apply=%add",
    ("all-reduce", 2 * 256 // 2),
  ),
  (
    "(f32[64]{0}, bf16[64]{0}) all-reduce(%x, %y), replica_groups={},"
    " to_apply=%add",
    ("all-reduce", 2 * 384 * 7 // 8),
  ),
  (
    "bf16[64]{0} all-gather(%x), replica_groups=[2,4]<=[4,2]T(1,0),"
    " dimensions={0}",
    ("all-gather", 128 * 3 // 4),
  ),
  (
    "(f32[16]{0}, f32[64]{0}) all-gather-start(%x), replica_groups=[2,4]<=[8],"
    " dimensions={0}",
    ("all-gather", 256 * 3 // 4),
  ),
  (
    "((bf16[64]{0}, bf16[8]{0}), bf16[8]{0}, bf16[1]{0})"
    " reduce-scatter-start(%x, %y), replica_groups={}, to_apply=%add",
    ("reduce-scatter", 18 * 7),
  ),
  (
    "f32[64]{0} all-reduce-start(%x), replica_groups={}, to_apply=%add",
    ("all-reduce", 2 * 256 * 7 // 8),
  ),
  (
    "(f32[64]{0}, f32[64]{0}, u32[]{:S(2)}, u32[]{:S(2)})"
    " collective-permute-start(%x), source_target_pairs={{0,1},{1,0}}",
    ("collective-permute", 256),
  ),
  (
    "(f32[64]{0}, u32[]{:S(2)}, token[]) send(%x, %token), channel_id=3,"
    " is_host_transfer=true",
    ("send", 256),
  ),
]


def _make_hlo(instruction):
  return "\n".join(
    [
      "HloModule jit_f, is_scheduled=true",
      "",
      "%add (a: f32[], b: f32[]) -> f32[] {",
      "  ROOT %sum = f32[] add(%a, %b)",
      "}",
      "",
      "ENTRY %main (x: f32[64]) -> f32[64] {",
      "  %x = f32[64]{0} parameter(0)",
      f"  %collective = {instruction}",
      "  %done = f32[64]{0} all-reduce-done(%collective)",
      "}",
    ]
  )


@pytest.mark.parametrize("instruction, expected", _FORMS)
def test_forms_of_other_compilers(instruction, expected):
  kind, sent_bytes = expected
  traffic = hlo_collectives.read_traffic(_make_hlo(instruction), 8, 2)
  assert traffic.by_kind == {kind: Traffic(1, sent_bytes)}
  network_bytes = sent_bytes if kind == "send" else 0
  assert traffic.network_bytes == network_bytes
  assert traffic.interconnect_bytes == sent_bytes - network_bytes


def test_a_send_stays_where_there_is_one_slice():
  instruction, (_, sent_bytes) = _FORMS[-1]
  traffic = hlo_collectives.read_traffic(_make_hlo(instruction), 8)
  assert traffic.network_bytes == 0
  assert traffic.interconnect_bytes == sent_bytes


def test_a_fused_reduce_scatter_in_a_loop():
  hlo = """HloModule jit_f
%all-reduce-scatter.3 (p: f32[64]) -> f32[8] {
  %p = f32[64]{0} parameter(0)
  %all-reduce.1 = f32[64]{0} all-reduce(%p), replica_groups={}, to_apply=%add
  ROOT %slice = f32[8]{0} dynamic-slice(%all-reduce.1, %id)
}

%body (c: (s32[], f32[64])) -> (s32[], f32[64]) {
  %c = (s32[]{:T(128)}, f32[64]{0}) parameter(0)
  %one = s32[]{:T(128)} constant(1)
  %old = s32[]{:T(128)} get-tuple-element(%c), index=0
  %new = s32[]{:T(128)} add(%old, %one)
  %fused = f32[8]{0} fusion(%x), kind=kCustom, calls=%all-reduce-scatter.3
  ROOT %t = (s32[]{:T(128)}, f32[64]{0}) tuple(%new, %x)
}

%condition (c: (s32[], f32[64])) -> pred[] {
  %c = (s32[]{:T(128)}, f32[64]{0}) parameter(0)
  %limit = s32[]{:T(128)} constant(24)
  %index = s32[]{:T(128)} get-tuple-element(%c), index=0
  ROOT %lt = pred[]{:T(512)} compare(%index, %limit), direction=LT
}

ENTRY %main (x: f32[64]) -> f32[64] {
  %loop = (s32[], f32[64]) while(%t), condition=%condition, body=%body
}
"""
  traffic = hlo_collectives.read_traffic(hlo, 8)
  assert traffic.by_kind == {"reduce-scatter": Traffic(24, 24 * 256 * 7 // 8)}


def test_the_collectives_that_are_asked_for_are_the_ones_counted():
  # Sharded by the compiler: a product over a divided axis is a sum.
  mesh = Mesh(np.array(jax.devices()), ("x",))
  sharding = functools.partial(jax.NamedSharding, mesh)
  a = jax.ShapeDtypeStruct(
    (16, 32), jnp.float32, sharding=sharding(PartitionSpec(None, "x"))
  )
  b = jax.ShapeDtypeStruct(
    (32, 4), jnp.float32, sharding=sharding(PartitionSpec("x"))
  )
  whole = sharding(PartitionSpec())
  compiled = jax.jit(jnp.matmul, out_shardings=whole).lower(a, b).compile()
  traffic = hlo_collectives.read_traffic(compiled.as_text() or "", 8)
  assert traffic.by_kind == {"all-reduce": Traffic(1, 2 * 16 * 4 * 4 * 7 // 8)}
