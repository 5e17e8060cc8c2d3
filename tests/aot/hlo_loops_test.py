"""Tests of aot.hlo_loops, on loops written by hand, by JAX and by libtpu."""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding, PartitionSpec
from tpu_compiler import needs_libtpu

from distill_jax.aot import hlo_collectives, hlo_loops, topology
from distill_jax.partitioning import mesh as mesh_lib


def _count(hlo):
  """Returns how often each loop runs."""
  _, computations = hlo_loops.split_computations(hlo)
  counter = hlo_loops.TripCounter(computations)
  return [
    counter.count(line, name)
    for name, lines in computations.items()
    for line in lines
    if hlo_loops.find_loop(line)
  ]


def _write(
  body="%new = u32[]{:T(128)} add(%old, %two)",
  compare="compare(%index, %limit), direction=LT",
  first="constant(0)",
  returned="%new",
):
  """Returns a loop as compilers for TPUs write them, its counter at index 1."""
  types = (
    "(bf16[8]{0:T(8,128)(2,1)}, u32[]{:T(128)}, /*index=2*/u32[]{:T(128)})"
  )
  return f"""HloModule jit_f, is_scheduled=true

%fused (a: u32[], b: u32[]) -> u32[] {{
  %a = u32[]{{:T(128)}} parameter(0)
  %b = u32[]{{:T(128)}} parameter(1)
  ROOT %sum = u32[]{{:T(128)}} add(%b, %a)
}}

%body (p: (bf16[8], u32[], u32[])) -> (bf16[8], u32[], u32[]) {{
  %p = {types} parameter(0)
  %x = bf16[8]{{0:T(8,128)(2,1)}} get-tuple-element(%p), index=0
  %old = u32[]{{:T(128)}} get-tuple-element(%p), index=1, x={{"a(b)"}}
  %carried = u32[]{{:T(128)}} get-tuple-element(%p), index=2
  %two = u32[]{{:T(128)}} constant(2)
  {body}
  ROOT %t = {types} tuple(%x, {returned}, /*index=2*/%carried)
}}

%condition (p: (bf16[8], u32[], u32[])) -> pred[] {{
  %p = {types} parameter(0)
  %limit = u32[]{{:T(128)}} constant(4)
  %index = u32[]{{:T(128)}} get-tuple-element(%p), index=1
  %fixed = u32[]{{:T(128)}} get-tuple-element(%p), index=2
  ROOT %more = pred[]{{:T(512)}} {compare}
}}

ENTRY %main (x: bf16[8], n: u32[]) -> bf16[8] {{
  %x = bf16[8]{{0:T(8,128)(2,1)}} parameter(0)
  %n = u32[]{{:T(128)}} parameter(1)
  %first = u32[]{{:T(128)}} {first}
  %copy = u32[]{{:T(128)}} copy(%first)
  %nine = u32[]{{:T(128)}} constant(9)
  %start = {types} tuple(%x, %copy, %nine)
  %loop = {types} while(%start), condition=%condition, body=%body
}}
"""


@pytest.mark.parametrize(
  "changes, trips",
  [
    ({}, 2),
    ({"compare": "compare(%index, %limit), direction=LE"}, 3),
    ({"compare": "compare(%limit, %index), direction=GT"}, 2),
    ({"compare": "compare(%index, %fixed), direction=LT"}, 5),
    ({"first": "constant(1)"}, 2),
    ({"first": "constant(3)"}, 1),
    ({"first": "constant(6)"}, 0),
    # What it starts from is not told.
    ({"first": "copy(%n)"}, 2),
    (
      {"body": "%new = u32[] fusion(%old, %two), kind=kLoop, calls=%fused"},
      2,
    ),
    (
      {
        "body": "%one = u32[]{:T(128)S(6)} constant(1)\n"
        "  %next = u32[]{:T(128)S(6)} add(%old, %one)\n"
        "  %new = u32[]{:T(128)} add(%two, %next), control-predecessors={%x}"
      },
      2,
    ),
    # Nothing to tell the length by.
    ({"body": "%new = u32[] multiply(%old, %two)"}, None),
    ({"returned": "%old"}, None),
    ({"returned": "%carried"}, None),
    ({"compare": "compare(%index, %limit), direction=NE"}, None),
  ],
)
def test_loops_written_by_hand(changes, trips):
  assert _count(_write(**changes)) == [trips]


def test_a_number_that_the_compiler_notes_counts():
  noted = 'body=%body, backend_config={"known_trip_count":{"n":"11"}}'
  assert _count(_write().replace("body=%body", noted)) == [11]


@pytest.mark.parametrize("step, limit", [(1, 7), (2, 8), (3, 8)])
def test_loops_written_by_jax(step, limit):
  def fn(x):
    def body(carry):
      return carry[0] + step, jnp.sin(carry[1])

    start = (jnp.int32(0), x)
    return jax.lax.while_loop(lambda carry: carry[0] < limit, body, start)[1]

  text = jax.jit(fn).lower(jnp.zeros(8)).compile().as_text()
  assert text is not None
  without = text.replace("known_trip_count", "removed")
  expected = [-(-limit // step)]
  assert _count(text) == expected
  assert _count(without) == expected


@pytest.mark.aot
@needs_libtpu
def test_a_ring_of_eight_devices_is_unrolled_by_two():
  """A product with a kernel over fsdp: parts go around from both sides."""
  parsed = topology.parse("v5e-8")
  topology.prepare_environment(parsed)
  mesh = mesh_lib.make_mesh({"fsdp": 8}, topology.make_devices(parsed))
  rows = NamedSharding(mesh, PartitionSpec("fsdp"))

  def compute_gradient(x, kernel):
    def compute_loss(kernel):
      y = jnp.einsum("bld,df->blf", x, kernel.astype(jnp.bfloat16))
      y = jax.lax.with_sharding_constraint(y, rows)
      return (y.astype(jnp.float32) ** 2).sum()

    gradient = jax.grad(compute_loss)(kernel)
    return jax.lax.with_sharding_constraint(gradient, rows)

  traced = jax.jit(compute_gradient).trace(
    jax.ShapeDtypeStruct((128, 512, 4096), jnp.bfloat16, sharding=rows),
    jax.ShapeDtypeStruct((4096, 10240), jnp.float32, sharding=rows),
  )
  compiled = traced.lower(lowering_platforms=("tpu",)).compile()
  text = compiled.as_text()
  assert text is not None
  assert _count(text) == [2, 2]
  traffic = hlo_collectives.read_traffic(text, 8)
  (permutes,) = traffic.by_kind.values()
  # Of eight parts seven come for the product and seven leave of the gradient;
  # the compiler adds two times two that it does not need.
  part_bytes = 4096 * 10240 * 2 // 8
  assert permutes == hlo_collectives.Traffic(18, 18 * part_bytes)
