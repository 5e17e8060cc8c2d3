"""Writes tests/testdata/sharding/.

How every array of a model lies on every mesh.

  python scripts/sharding_tables.py [--output=FOLDER] [size ...]

One file a size of T5 1.1, with the parameters, the optimizers' state, a batch
and the activations that the model pins, each with its shape, type, how its axes
are divided and what a device holds of it. Only shapes are computed, on meshes
without devices, so 11 billion parameters on 256 devices need neither. A test
writes the files again and compares: a rule that changes shows there.
"""

import argparse
import dataclasses
import math
import pathlib
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import AbstractMesh, NamedSharding, PartitionSpec

import gin
from distill_jax.config import gin_bindings
from distill_jax.data.feed import batch as batch_lib
from distill_jax.data.feed import batch_layout
from distill_jax.decoding import cache as decoding_cache
from distill_jax.errors import UserError
from distill_jax.model.t5.config import T5Config
from distill_jax.model.t5.t5 import T5
from distill_jax.optim import factory, schedules
from distill_jax.partitioning import axes, sharding
from distill_jax.partitioning import mesh as mesh_lib
from distill_jax.training import state as state_lib
from distill_jax.training import step as step_lib

_ROOT = pathlib.Path(__file__).parents[1]
OUTPUT = _ROOT / "tests" / "testdata" / "sharding"
_SCANNED = ("SCAN_LAYERS = True", "ACTIVATION_DTYPE = 'bfloat16'")
# Size -> what is bound besides its gin file.
SIZES: dict[str, tuple[str, ...]] = {
  "tiny": (),
  "small": (),
  "base": (),
  "large": _SCANNED,
  "xl": _SCANNED,
  "xxl": _SCANNED,
}
# Those of gin/meshes/ and gin/precompile/ are among them: a test looks.
MESHES: tuple[Mapping[str, int], ...] = (
  {"data": 8},
  {"fsdp": 4},
  {"fsdp": 8},
  {"fsdp": 16},
  {"data": 4, "model": 2},
  {"data": 2, "fsdp": 2, "model": 2},
  {"fsdp": 4, "model": 4},
  {"data": 2, "fsdp": 4, "model": 4},
  {"fsdp": 8, "model": 8},
  {"fsdp": 16, "model": 8},
  {"fsdp": 16, "model": 16},
)
_ROWS, _ENCODER_LENGTH, _DECODER_LENGTH = 128, 512, 128
_LAYER = re.compile(r"\blayers_\d+\b")
_HEAD = ("", "count", "shape", "dtype", "axes of the mesh")


@dataclasses.dataclass(frozen=True)
class Entry:
  """An array: where it is in its tree, its shape and how it is divided."""

  path: str
  shape: tuple[int, ...]
  dtype: str
  spec: PartitionSpec

  def count_bytes(self, mesh: AbstractMesh) -> int:
    """Counts the bytes that one device of a mesh holds."""
    shape = NamedSharding(mesh, self.spec).shard_shape(self.shape)
    return math.prod(shape) * jnp.dtype(self.dtype).itemsize


def make_table(size: str) -> str:
  """Returns the text of one file.

  Args:
    size: of `SIZES`.
  """
  config = _read_config(size)
  shapes, logical_axes = state_lib.abstract_params(T5(config))
  meshes, refused = _fit_meshes(shapes, logical_axes)
  # Which axes divide what does not depend on the mesh, only by how much.
  any_mesh = next(iter(meshes.values()))
  param_shardings = sharding.shard_params(logical_axes, shapes, any_mesh)
  params = _list_tree(shapes, param_shardings)
  columns = [_name_mesh(sizes) for sizes in MESHES]
  num_params = sum(math.prod(entry.shape) for entry in params)
  lines = [
    f"T5 1.1 {size}, {num_params:,} parameters:"
    f" gin/models/t5_1_1/{size}.gin {' '.join(SIZES[size])}".rstrip(),
    f"{_ROWS} rows of {_ENCODER_LENGTH} inputs and {_DECODER_LENGTH} targets."
    " Bytes are those of one device, KMG are powers of 1024.",
    "Meshes: " + "; ".join(f"{name} is {_spell(sizes)}" for name, sizes
                           in zip(columns, MESHES, strict=True)) + ".",
    *(f"{name} is impossible: {why}" for name, why in refused.items()),
  ]  # fmt: skip
  sections: dict[str, Sequence[Entry]] = {"Parameters": params}
  for name, optimizer in _make_optimizers().items():
    state = jax.eval_shape(optimizer.init, shapes)
    sections[f"Optimizer state, {name}"] = _list_tree(
      state, sharding.shard_optimizer_state(state, param_shardings, shapes)
    )
  sections["Batch"] = _list_batch(any_mesh)
  sections |= _list_activations(config, any_mesh)
  for title, entries in sections.items():
    rows = [(title, *_HEAD[1:], *columns)]
    is_state = title.startswith("Optimizer")
    rows += _make_rows(entries, params if is_state else (), columns, meshes)
    # Activations do not live at the same time.
    if not title.startswith("Activations"):
      totals = [
        f"{sum(entry.count_bytes(meshes[name]) for entry in entries):,}"
        if name in meshes
        else "-"
        for name in columns
      ]
      rows.append(("total, bytes", "", "", "", "", *totals))
    lines += ["", *_align(rows)]
  return "\n".join(lines) + "\n"


def _read_config(size: str) -> T5Config:
  gin.clear_config()
  files = [f"gin/models/t5_1_1/{size}.gin"]
  gin_bindings.parse(files, SIZES[size], [str(_ROOT)])
  config = gin.get_configurable(T5Config)()
  gin.clear_config()
  return config


def _fit_meshes(
  shapes: Any, logical_axes: Any
) -> tuple[dict[str, AbstractMesh], dict[str, str]]:
  """Returns the meshes that can hold the parameters, and why others cannot."""
  meshes, refused = {}, {}
  for sizes in MESHES:
    mesh = mesh_lib.make_abstract_mesh(sizes)
    try:
      sharding.shard_params(logical_axes, shapes, mesh)
      meshes[_name_mesh(sizes)] = mesh
    except UserError as error:
      refused[_name_mesh(sizes)] = str(error)
  return meshes, refused


def _name_mesh(sizes: Mapping[str, int]) -> str:
  """Returns {'data': 4, 'model': 2} as "d4m2"."""
  return "".join(f"{name[0]}{size}" for name, size in sizes.items())


def _spell(sizes: Mapping[str, int]) -> str:
  return " ".join(f"{name}={size}" for name, size in sizes.items())


def _make_optimizers() -> dict[str, optax.GradientTransformation]:
  rate = schedules.constant(1e-3)
  return {
    "Adafactor": factory.adafactor(rate),
    "AdamW": factory.adamw(rate, max_grad_norm=None),
    "AdamW with a bfloat16 first moment": factory.adamw(
      rate, max_grad_norm=None, mu_dtype="bfloat16"
    ),
  }


def _list_tree(abstract: Any, shardings: Any) -> list[Entry]:
  leaves = jax.tree_util.tree_leaves_with_path(abstract)
  return [
    Entry(
      jax.tree_util.keystr(path, simple=True, separator="/"),
      leaf.shape,
      str(leaf.dtype),
      leaf_sharding.spec,
    )
    for (path, leaf), leaf_sharding in zip(
      leaves, jax.tree.leaves(shardings), strict=True
    )
  ]


def _abstract_batch() -> dict[str, jax.ShapeDtypeStruct]:
  lengths = dict.fromkeys(batch_lib.ENCODER_KEYS, _ENCODER_LENGTH)
  lengths |= dict.fromkeys(batch_lib.DECODER_KEYS, _DECODER_LENGTH)
  return {
    key: jax.ShapeDtypeStruct((_ROWS, length), batch_lib.DTYPES[key])
    for key, length in lengths.items()
  }


def _list_batch(mesh: AbstractMesh) -> list[Entry]:
  spec = sharding.batch_sharding(mesh).spec
  return [
    Entry(key, leaf.shape, str(leaf.dtype), spec)
    for key, leaf in _abstract_batch().items()
  ]


def _list_activations(
  config: T5Config, mesh: AbstractMesh
) -> dict[str, list[Entry]]:
  """Lists what the model pins in a train step and in decoding."""
  # Layers are alike: one of each pins all there is.
  config = dataclasses.replace(
    config, num_encoder_layers=1, num_decoder_layers=1
  )
  constrain = sharding.make_constrain_fn(mesh)
  seen: dict[Entry, None] = {}

  class Note(type(constrain)):
    def __call__(self, x, axis_names, /):
      name = " ".join(axis_names)
      rules = axes.ACTIVATION_RULES
      spec = axes.to_partition_spec(axis_names, rules, str(axis_names))
      seen[Entry(name, x.shape, str(x.dtype), spec)] = None
      return super().__call__(x, axis_names)

  model = T5(config, Note(mesh, axes.ACTIVATION_RULES))
  params, _ = state_lib.abstract_params(T5(config))
  batch = _abstract_batch()
  jax.eval_shape(
    lambda params, batch: step_lib.apply_model(
      model, params, batch, enable_dropout=False
    ),
    params,
    batch,
  )
  train = list(seen)
  seen.clear()

  def decode(params, inputs):
    step_fn, cache = decoding_cache.start_decoding(
      model, params, inputs, _DECODER_LENGTH
    )
    tokens = inputs[batch_lib.ENCODER_INPUT_TOKENS]
    return step_fn(tokens[:, 0], jnp.int32(0), cache)

  inputs = batch_layout.ENCODER_DECODER.select_inputs(batch)
  jax.eval_shape(decode, params, inputs)
  # The encoder is the same.
  decoding = [entry for entry in seen if entry not in train]
  return {"Activations, training": train, "Activations, decoding": decoding}


def _make_rows(
  entries: Iterable[Entry],
  params: Sequence[Entry],
  columns: Sequence[str],
  meshes: Mapping[str, AbstractMesh],
) -> list[tuple[str, ...]]:
  """Returns a row for all that differ in the number of their layer only.

  A part of an optimizer's state that lies as the parameters do is one row.
  """

  def measure(members: Sequence[Entry]) -> list[str]:
    return [
      _format_bytes(sum(e.count_bytes(meshes[name]) for e in members))
      if name in meshes
      else "-"
      for name in columns
    ]

  rows, rest = [], list(entries)
  for prefix in dict.fromkeys(_find_prefix(entry, params) for entry in rest):
    members = [e for e in rest if prefix and e.path.startswith(prefix)]
    if _lie_as(members, params, prefix):
      same = "as the parameters"
      (dtype,) = {entry.dtype for entry in members}
      rows.append(
        (f"{prefix}*", str(len(members)), same, dtype, same, *measure(members))
      )
      rest = [entry for entry in rest if entry not in members]
  groups: dict[Entry, list[Entry]] = {}
  for entry in rest:
    groups.setdefault(_without_layer(entry), []).append(entry)
  for entry, members in groups.items():
    shape = " x ".join(map(str, entry.shape)) or "scalar"
    divided = ", ".join(
      "+".join((part,) if isinstance(part, str) else part or ("-",))
      for part in entry.spec
    )
    rows.append(
      (
        entry.path,
        str(len(members)),
        shape,
        entry.dtype,
        divided or "-",
        *measure(members[:1]),
      )
    )
  return rows


def _find_prefix(entry: Entry, params: Sequence[Entry]) -> str:
  """Returns what stands before a parameter's path, as "0/mu/"; else ""."""
  for param in params:
    if entry.path.endswith(f"/{param.path}"):
      return entry.path.removesuffix(param.path)
  return ""


def _lie_as(
  members: Sequence[Entry], params: Sequence[Entry], prefix: str
) -> bool:
  return bool(members) and [
    (entry.path.removeprefix(prefix), entry.shape, entry.spec)
    for entry in members
  ] == [(entry.path, entry.shape, entry.spec) for entry in params]


def _without_layer(entry: Entry) -> Entry:
  path = _LAYER.sub("layers_*", entry.path)
  if entry.shape == (1,):
    # Adafactor's places for what it does not use of a parameter.
    path = re.sub(r"((?:^|/)v(?:_row|_col)?)/.*", r"\1/*, unused", path)
  return dataclasses.replace(entry, path=path)


def _format_bytes(count: int) -> str:
  value, unit = float(count), ""
  for unit in ("", "K", "M", "G"):
    if value < 1024 or unit == "G":
      break
    value /= 1024
  return f"{value:.4g}{unit}"


def _align(rows: Sequence[Sequence[str]]) -> list[str]:
  """Pads columns to their widest cell: text to the left, bytes to the right."""
  widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
  lines = []
  for row in rows:
    cells = [
      cell.ljust(width) if number < len(_HEAD) else cell.rjust(width)
      for number, (cell, width) in enumerate(zip(row, widths, strict=True))
    ]
    lines.append("  ".join(cells).rstrip())
  return lines


def main(arguments: Sequence[str] | None = None) -> int:
  """Writes the files; returns the exit code.

  Args:
    arguments: of the command line; None: the process's.
  """
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("sizes", nargs="*", metavar="size")
  parser.add_argument("--output", type=pathlib.Path, default=OUTPUT)
  parsed = parser.parse_args(arguments)
  if unknown := set(parsed.sizes) - SIZES.keys():
    parser.error(f"no such size: {sorted(unknown)}; there are {list(SIZES)}")
  parsed.output.mkdir(parents=True, exist_ok=True)
  for size in parsed.sizes or SIZES:
    path = parsed.output / f"t5_1_1_{size}.txt"
    path.write_text(make_table(size), encoding="utf-8")
    print(path)
  return 0


if __name__ == "__main__":
  sys.exit(main())
