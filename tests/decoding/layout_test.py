"""Where the decoder lies while it decodes, and that it decodes the same ids."""

import dataclasses
import functools
import gc
import logging
import re
import weakref
from unittest import mock

import jax
import numpy as np
import pytest
import t5_batch
import tiny_student
from jax.sharding import PartitionSpec
from tpu_compiler import needs_libtpu

from distill_jax.aot import compilation, hlo_loops, programs, topology
from distill_jax.data import vocab
from distill_jax.decoding import layout as layout_lib
from distill_jax.decoding.strategy import DecodingConfig
from distill_jax.errors import UserError
from distill_jax.evaluation.evaluator import Evaluator
from distill_jax.model.t5.t5 import T5
from distill_jax.partitioning import mesh as mesh_lib
from distill_jax.partitioning import sharding
from distill_jax.training import state as state_lib

# Heads for eight devices; none of the sizes is another's.
_CONFIG = dataclasses.replace(
  tiny_student.CONFIG,
  num_heads=8,
  head_dim=4,
  num_decoder_layers=2,
  vocab_size=40,
)
_TIED_AND_SCANNED = dataclasses.replace(
  _CONFIG, tie_embeddings=True, scan_layers=True, per_layer_relative_bias=True
)
_MESHES = [
  {"fsdp": 8},
  {"fsdp": 4, "model": 2},
  {"data": 2, "fsdp": 2, "model": 2},
]
_STRATEGIES = [
  DecodingConfig(),
  DecodingConfig("beam", num_beams=3),
  DecodingConfig("sample", num_samples=3, top_k=20, seed=3),
]
_ROWS, _INPUTS, _TARGETS = 8, 6, 7
_GIB = 2**30


@pytest.mark.parametrize(
  "num_fsdp, replicated_bytes, memory_bytes, can_split, expected",
  [
    (1, 0, 32 * _GIB, True, "as_trained"),
    (4, 4 * _GIB, 32 * _GIB, True, "replicated"),
    (4, 4 * _GIB + 1, 32 * _GIB, True, "split"),
    (4, 4 * _GIB + 1, 32 * _GIB, False, "replicated"),
    (4, 8 * _GIB, 32 * _GIB, False, "replicated"),
    (4, 8 * _GIB + 1, 32 * _GIB, False, "as_trained"),
    # Of unknown memory nothing is taken.
    (4, 1, None, True, "split"),
    (4, 1, None, False, "as_trained"),
  ],
)
def test_the_choice(
  num_fsdp, replicated_bytes, memory_bytes, can_split, expected
):
  found = layout_lib.choose(num_fsdp, replicated_bytes, memory_bytes, can_split)
  assert found == expected


def test_an_unknown_layout():
  with pytest.raises(UserError, match="DECODE_LAYOUT is 'whole'.*'split'"):
    layout_lib.check("whole")


def test_the_memory_of_a_known_chip_does_not_depend_on_the_host():
  class _Device:
    device_kind = "TPU v4"

  mesh = mock.Mock(spec=jax.sharding.Mesh, devices=np.array([_Device()]))
  assert layout_lib.find_memory(mesh) == 32 * _GIB
  # A CPU has none of its own.
  assert layout_lib.find_memory(mesh_lib.make_mesh({"data": -1})) is None


def _make_layout(name, mesh_sizes, config=_CONFIG, memory_bytes=None):
  """Returns the layout on a mesh without devices."""
  mesh = mesh_lib.make_abstract_mesh(mesh_sizes)
  model = T5(config, sharding.make_constrain_fn(mesh))
  return layout_lib.make_layout(
    name, model, mesh, memory_bytes, state_lib.abstract_params
  )


def test_where_parameters_lie():
  mesh_sizes = {"data": 2, "fsdp": 2, "model": 2}

  def read_specs(name):
    layout = _make_layout(name, mesh_sizes)
    decoder = layout.shardings["decoder"]
    mlp = decoder["layers_0"]["mlp"]
    return [
      leaf.spec
      for leaf in (
        mlp["wi_0"]["kernel"],
        mlp["wo"]["kernel"],
        decoder["layers_1"]["self_attention"]["query"]["kernel"],
        decoder["logits_dense"]["kernel"],
        decoder["decoder_norm"]["scale"],
        decoder["relpos_bias"]["rel_embedding"],
        layout.shardings["token_embedder"]["embedding"],
      )
    ]

  def list_specs(divided):
    return [
      PartitionSpec(*spec)
      for spec in (
        (None, divided),
        (divided, None),
        (None, divided),
        (None, divided),
        (None,),
        (divided, None),
        (divided, None),
      )
    ]

  assert read_specs("replicated") == list_specs("model")
  assert read_specs("split") == list_specs(("model", "fsdp"))
  assert _make_layout("as_trained", mesh_sizes).shardings == {}


def test_memory_decides(caplog):
  caplog.set_level(logging.INFO)
  mesh_sizes = {"fsdp": 4, "model": 2}
  abstract, _ = state_lib.abstract_params(T5(_CONFIG))
  parts = [abstract["decoder"], abstract["token_embedder"]]
  norms = 4 * _CONFIG.embed_dim * (3 * _CONFIG.num_decoder_layers + 1)
  # Of the kernels a half; a norm is whole.
  copy = 2 * state_lib.count_params(parts) + norms // 2
  assert _make_layout("auto", mesh_sizes, memory_bytes=8 * copy).name == (
    "replicated"
  )
  assert "replicated along fsdp" in caplog.text
  assert _make_layout("auto", mesh_sizes, memory_bytes=8 * copy - 8).name == (
    "split"
  )
  assert "split over model and fsdp" in caplog.text
  assert _make_layout("auto", {"model": 4}, memory_bytes=1).name == "as_trained"


def test_a_decoder_that_cannot_be_split(caplog):
  config = dataclasses.replace(_CONFIG, num_heads=4, head_dim=8)
  mesh_sizes = {"fsdp": 4, "model": 2}
  with pytest.raises(UserError, match="cannot be split: .*rel_embedding"):
    _make_layout("split", mesh_sizes, config)
  assert _make_layout("auto", mesh_sizes, config, 2**40).name == "replicated"
  assert not caplog.records
  assert _make_layout("auto", mesh_sizes, config).name == "as_trained"
  assert "Every token gathers the decoder" in caplog.text
  assert _make_layout("replicated", mesh_sizes, config).name == "replicated"


@functools.cache
def _make_evaluator(name, mesh_sizes, decoding, config):
  sizes = dict(mesh_sizes)
  devices = jax.devices() if sizes else jax.devices()[:1]
  mesh = mesh_lib.make_mesh(sizes, devices)
  model = T5(config, sharding.make_constrain_fn(mesh))
  evaluator = Evaluator(
    model,
    mesh,
    vocab.load_vocabulary(vocab.BYTES),
    {"inputs": _INPUTS, "targets": _TARGETS},
    _ROWS,
    decoding,
    name,
  )
  abstract, logical_axes = state_lib.abstract_params(model)
  rng = np.random.default_rng(0)
  # Large enough that inputs matter: answers differ, and ties are none.
  params = jax.tree.map(
    lambda leaf: rng.normal(0.0, 0.7, leaf.shape).astype(np.float32), abstract
  )
  shardings = sharding.shard_params(logical_axes, abstract, mesh)
  return evaluator, jax.device_put(params, shardings)


def _make_arguments(evaluator, params, mesh):
  rng = np.random.default_rng(0)
  tokens = rng.integers(2, 40, (_ROWS, _INPUTS)).astype(np.int32)
  lengths = rng.integers(2, _INPUTS + 1, (_ROWS, 1))
  tokens *= np.arange(_INPUTS) < lengths
  batch = sharding.to_global(
    {
      **t5_batch.make_inputs(tokens, (tokens > 0).astype(np.int32)),
      "row_ids": np.arange(_ROWS, dtype=np.int32),
    },
    mesh,
  )
  decoder_params = evaluator._decoder_params.get(params)
  row_ids = batch.pop("row_ids")
  return params, decoder_params, batch, row_ids, _TARGETS


def _decode(name, mesh_sizes, decoding, config):
  evaluator, params = _make_evaluator(
    name, tuple(mesh_sizes.items()), decoding, config
  )
  arguments = _make_arguments(evaluator, params, evaluator._mesh)
  return np.asarray(evaluator._decode(*arguments))


@pytest.mark.parametrize("decoding", _STRATEGIES)
@pytest.mark.parametrize(
  "mesh_sizes, config",
  list(zip(_MESHES, [_CONFIG, _TIED_AND_SCANNED, _CONFIG], strict=True)),
)
def test_every_layout_decodes_the_same_ids(mesh_sizes, decoding, config):
  expected = _decode("auto", {}, decoding, config)
  # Not the same token over and over.
  assert len(np.unique(expected)) > 5
  for name in ("as_trained", "replicated", "split"):
    found = _decode(name, mesh_sizes, decoding, config)
    np.testing.assert_array_equal(found, expected)


def _list_gathered_kernels(hlo_text, config):
  """Returns for each kernel that is gathered whether a loop does it."""
  _, computations = hlo_loops.split_computations(hlo_text)
  embed, joined = config.embed_dim, config.num_heads * config.head_dim
  # Kernels' parts of `model`, whole along `embed`.
  kernels = {
    tuple(sorted((embed, size // num_parts)))
    for size in (joined, config.mlp_dim, config.vocab_size)
    for num_parts in (1, 2)
  }
  in_loops = {name: False for name in computations}

  def visit(name):
    if name in in_loops and not in_loops[name]:
      in_loops[name] = True
      for line in computations[name]:
        loop = hlo_loops.find_loop(line)
        callees = hlo_loops.find_callees(line) + ([loop.body] if loop else [])
        for callee in callees:
          visit(callee)

  for lines in computations.values():
    for line in lines:
      if loop := hlo_loops.find_loop(line):
        visit(loop.body)
  found = []
  for name, lines in computations.items():
    for line in lines:
      if match := re.search(r"= (.*?) all-gather(-start)?\(", line):
        # Of a start the operands stand before the results.
        sizes = re.findall(r"f32\[([\d,]+)\]", match[1])[-1:]
        for shape in sizes:
          long = sorted(size for size in map(int, shape.split(",")) if size > 1)
          if tuple(long) in kernels:
            found.append(in_loops[name])
  return found


@pytest.mark.parametrize("decoding", _STRATEGIES)
@pytest.mark.parametrize("name", ["as_trained", "replicated", "split"])
def test_decoding_gathers_the_kernels_of_the_encoder_alone(name, decoding):
  mesh_sizes = {"data": 2, "fsdp": 2, "model": 2}
  evaluator, params = _make_evaluator(
    name, tuple(mesh_sizes.items()), decoding, _CONFIG
  )
  arguments = _make_arguments(evaluator, params, evaluator._mesh)
  text = evaluator._decode.lower(*arguments).compile().as_text()
  gathered = _list_gathered_kernels(text, _CONFIG)
  # The embedding, and four kernels of attention and three of the MLP.
  if name == "as_trained":
    assert len(gathered) > 8
  else:
    assert gathered == [False] * 8


@needs_libtpu
@pytest.mark.aot
@pytest.mark.parametrize("name", ["as_trained", "replicated", "split"])
def test_no_token_gathers_a_kernel_on_a_tpu(name):
  """Unlike a CPU's, its compiler leaves them in the loop over tokens."""
  slices = topology.parse("v5e:2x2")
  topology.prepare_environment(slices)
  mesh = mesh_lib.make_mesh(
    {"fsdp": 2, "model": 2}, topology.make_devices(slices)
  )
  config = dataclasses.replace(
    _CONFIG, embed_dim=512, mlp_dim=2048, head_dim=128, vocab_size=1280
  )
  student = programs.make_student(
    config, tiny_student.OPTIMIZERS["adafactor"], mesh
  )
  lowered = programs.lower_decoding(
    student,
    programs.make_batch(student, _ROWS, {"inputs": 128, "targets": 16}),
    16,
    programs.make_decoder_layout(student, name),
  )
  done = compilation.compile_program(
    lowered, compilation.make_effort_options(-1.0), "tpu"
  )
  assert done.compiled is not None
  gathered = _list_gathered_kernels(done.compiled.as_text(), config)
  assert any(gathered) == (name == "as_trained")


@pytest.mark.parametrize("name", ["replicated", "split"])
def test_parameters_are_laid_out_once(name):
  mesh_sizes = {"fsdp": 4, "model": 2}
  evaluator, params = _make_evaluator(
    name, tuple(mesh_sizes.items()), DecodingConfig(), _CONFIG
  )
  copies = evaluator._decoder_params
  first = copies.get(params)
  expected = evaluator._decoder_params._layout.shardings
  jax.tree.map(lambda leaf, at: _check_sharding(leaf, at), first, expected)
  for module, tree in first.items():
    jax.tree.map(np.testing.assert_array_equal, tree, params[module])
  # Another tree of the same arrays is the same set.
  assert copies.get(jax.tree.map(lambda leaf: leaf, params)) is first
  others = jax.tree.map(lambda leaf: leaf + 1, params)
  second = copies.get(others)
  jax.tree.map(
    lambda a, b: np.testing.assert_array_equal(a + 1, b), first, second
  )
  evaluator.release_copies()


def _check_sharding(leaf, expected):
  assert leaf.sharding == expected


def test_a_copy_goes_when_it_is_released_or_replaced():
  mesh = mesh_lib.make_mesh({"fsdp": 2}, jax.devices()[:2])
  layout = layout_lib.make_layout(
    "replicated", T5(_CONFIG), mesh, None, state_lib.abstract_params
  )
  copies = layout_lib.DecoderParams(layout)
  params = jax.device_put(tiny_student.make_params(_CONFIG))
  source = weakref.ref(params["decoder"]["decoder_norm"]["scale"])

  def get_copy(params):
    return weakref.ref(copies.get(params)["decoder"]["decoder_norm"]["scale"])

  first = get_copy(params)
  others = jax.tree.map(lambda leaf: leaf + 1, params)
  second = get_copy(others)
  gc.collect()
  assert first() is None and second() is not None
  del params
  gc.collect()
  assert source() is None
  copies.release()
  gc.collect()
  assert second() is None
