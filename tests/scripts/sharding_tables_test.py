"""Golden tables of how every array of every size lies on every mesh.

A table that differs shows a changed rule, model or optimizer. If the change is
meant, write the tables again with `python scripts/sharding_tables.py` and let
the review see them.
"""

import math
import pathlib
import re

import jax
import pytest
from script_import import import_script

import gin
from distill_jax.aot import topology
from distill_jax.config import gin_bindings
from distill_jax.model.t5.t5 import T5
from distill_jax.partitioning import axes, sharding
from distill_jax.partitioning import mesh as mesh_lib
from distill_jax.runs import precompile
from distill_jax.training import state as state_lib

_ROOT = pathlib.Path(__file__).parents[2]


_MESH_FILES = sorted((_ROOT / "gin" / "meshes").glob("*.gin"))
_PRESETS = sorted((_ROOT / "gin" / "precompile").glob("*.gin"))

tables = import_script("sharding_tables")


@pytest.mark.parametrize("size", tables.SIZES)
def test_every_table_is_what_the_rules_give(size):
  committed = (tables.OUTPUT / f"t5_1_1_{size}.txt").read_text("utf-8")
  assert tables.make_table(size) == committed, "see this file's first lines"


@pytest.fixture(name="tiny_table", scope="module")
def fixture_tiny_table():
  return tables.make_table("tiny")


def test_another_rule_shows(monkeypatch, tiny_table):
  monkeypatch.setitem(axes.PARAM_RULES, "relpos_buckets", axes.FSDP)
  before, after = (
    table.split("\n\n") for table in (tiny_table, tables.make_table("tiny"))
  )
  changed = set(after[1].splitlines()) - set(before[1].splitlines())
  assert {line.split()[0] for line in changed} == {
    "decoder/relpos_bias/rel_embedding",
    "encoder/relpos_bias/rel_embedding",
    "total,",
  }


def test_another_place_of_the_batch_shows(monkeypatch, tiny_table):
  """The table asks what training asks."""
  monkeypatch.setattr(tables.sharding, "batch_sharding", sharding.replicated)
  before, after = (
    table.split("\n\n") for table in (tiny_table, tables.make_table("tiny"))
  )
  changed = [old != new for old, new in zip(before, after, strict=True)]
  (section,) = (
    old for old, is_new in zip(before, changed, strict=True) if is_new
  )
  assert section.startswith("Batch ")


@pytest.fixture(name="_clean_gin")
def fixture_clean_gin(monkeypatch):
  monkeypatch.setattr(gin.config, "_LOCATION_PREFIXES", [""])
  gin.clear_config()
  yield
  gin.clear_config()


def _drop_ones(sizes):
  return {axis: size for axis, size in sizes.items() if size != 1}


@pytest.mark.usefixtures("_clean_gin")
@pytest.mark.parametrize("path", _MESH_FILES, ids=lambda path: path.stem)
def test_every_mesh_that_a_file_recommends_has_a_column(path):
  model, run = "gin/models/t5_1_1/xxl.gin", "gin/runs/precompile.gin"
  gin_bindings.parse([model, run, str(path)], [], [str(_ROOT)])
  sizes = _drop_ones(gin_bindings.build(precompile.PrecompileRun).mesh)
  # As many devices as there are, of one axis.
  columns = [
    {axis: -1 if sizes.get(axis) == -1 else size for axis, size in mesh.items()}
    for mesh in tables.MESHES
  ]
  assert sizes in columns


@pytest.mark.usefixtures("_clean_gin")
@pytest.mark.parametrize("path", _PRESETS, ids=lambda path: path.stem)
def test_every_mesh_that_is_compiled_for_has_a_column(path):
  gin_bindings.parse([str(path)], [], [str(_ROOT)])
  settings = gin_bindings.build(precompile.PrecompileRun)
  parsed = topology.parse(settings.topology, settings.num_slices)
  if parsed.num_chips == 1:
    return  # Nothing is divided.
  sizes = {
    axis: size * (settings.dcn_mesh or {}).get(axis, 1)
    for axis, size in settings.mesh.items()
  }
  rest = math.prod(size for size in sizes.values() if size > 0)
  sizes = {
    axis: parsed.num_chips // rest if size < 0 else size
    for axis, size in sizes.items()
  }
  assert math.prod(sizes.values()) == parsed.num_chips
  assert _drop_ones(sizes) in tables.MESHES


def test_bytes_are_those_that_devices_hold(tiny_table):
  """Of the tiny model, on the mesh of 2 x 2 x 2 that the tests have."""
  config = tables._read_config("tiny")
  mesh = mesh_lib.make_mesh({"data": 2, "fsdp": 2, "model": 2})
  optimizer = tables._make_optimizers()["Adafactor"]
  abstract, shardings = state_lib.shard_state(T5(config), optimizer, mesh)
  state = jax.jit(
    lambda: jax.tree.map(lambda leaf: jax.numpy.zeros_like(leaf), abstract),
    out_shardings=shardings,
  )()
  held = {
    title: sum(leaf.addressable_shards[0].data.nbytes for leaf in leaves)
    for title, leaves in (
      ("Parameters", jax.tree.leaves(state.params)),
      ("Optimizer state, Adafactor", jax.tree.leaves(state.opt_state)),
    )
  }
  for section in tiny_table.split("\n\n")[1:]:
    lines = section.splitlines()
    title = lines[0].split("  ")[0]
    column = lines[0].split().index("d2f2m2") - len(lines[0].split())
    if title in held:
      total = lines[-1].split()[column]
      assert int(total.replace(",", "")) == held.pop(title)
  assert not held


def test_a_mesh_that_does_not_fit_says_why(tiny_table):
  (line,) = re.findall("f16m16 is impossible: (.*)", tiny_table)
  assert line.startswith("decoder/relpos_bias/rel_embedding (4, 32) cannot be")
  (row,) = re.findall(
    "token_embedder/embedding  .*", tiny_table.split("\n\n")[1]
  )
  assert row.split()[-1] == "-"


def test_files_are_written_where_asked(tmp_path, capsys, tiny_table):
  assert tables.main(["tiny", f"--output={tmp_path / 'new'}"]) == 0
  (path,) = (tmp_path / "new").iterdir()
  assert path.read_text("utf-8") == tiny_table
  assert str(path) in capsys.readouterr().out
  with pytest.raises(SystemExit):
    tables.main(["huge", f"--output={tmp_path}"])
