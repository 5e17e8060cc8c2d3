"""Golden tables of how every array of every size lies on every mesh.

A table that differs shows a changed rule, model or optimizer. If the change is
meant, write the tables again with `python scripts/sharding_tables.py` and let
the review see them.
"""

import importlib.util
import pathlib
import re

import jax
import pytest

from distill_jax.model.t5 import T5
from distill_jax.partitioning import axes
from distill_jax.partitioning import mesh as mesh_lib
from distill_jax.training import state as state_lib

_ROOT = pathlib.Path(__file__).parents[2]


def _import_script():
  path = _ROOT / "scripts" / "sharding_tables.py"
  spec = importlib.util.spec_from_file_location("sharding_tables", path)
  assert spec is not None and spec.loader is not None
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


tables = _import_script()


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
