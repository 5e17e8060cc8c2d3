"""Tests of distill_jax/__init__.py: what is public, at once and by example."""

import ast
import doctest
import importlib
import inspect
import pathlib
import shutil
import subprocess
import sys
import types

import pytest
from tiny_run import fixture_model_dir as fixture_model_dir

import distill_jax
from distill_jax.config import console_logging

_NEEDS_SEQIO = {"train"}


def _list_public():
  """Yields every public function and class by name, those of `presets` too."""
  for name in distill_jax.__all__:
    value = getattr(distill_jax, name)
    if not isinstance(value, types.ModuleType):
      yield name, value
      continue
    for member, function in inspect.getmembers(value, inspect.isfunction):
      if not member.startswith("_"):
        yield f"{name}.{member}", function


_PUBLIC = dict(_list_public())
_DOCTESTS = [
  found
  for name, value in [("distill_jax", distill_jax), *_PUBLIC.items()]
  for found in doctest.DocTestFinder(recurse=name != "distill_jax").find(
    value, name, globs={}
  )
  if found.examples
]


def _run_python(program):
  process = subprocess.run(
    [sys.executable, "-c", program], capture_output=True, text=True, check=True
  )
  return process.stdout


def test_importing_it_is_fast_and_loads_nothing():
  program = """
import sys, time
before = {*sys.modules}
started = time.perf_counter()
import distill_jax
print(time.perf_counter() - started)
print(sorted(
  name for name in {*sys.modules} - before if not name.startswith("distill_jax")
))
dir(distill_jax)
distill_jax.__version__
print(sorted(name for name in sys.modules if name.startswith("distill_jax")))
"""
  seconds, others, ours = _run_python(program).splitlines()
  assert float(seconds) < 0.1
  assert ast.literal_eval(ours) == ["distill_jax"]
  heavy = {"jax", "flax", "numpy", "gin", "absl", "tensorflow", "seqio"}
  assert not heavy & set(ast.literal_eval(others))


def test_every_name_is_there():
  assert {*distill_jax.__all__} <= {*dir(distill_jax)}
  for name, module in distill_jax._MODULES.items():
    module = importlib.import_module(f"distill_jax.{module}")
    assert getattr(distill_jax, name) is getattr(module, name, module)


def test_the_type_checker_sees_the_same_names():
  tree = ast.parse(pathlib.Path(distill_jax.__file__).read_text())
  (block,) = (node for node in tree.body if isinstance(node, ast.If))
  names = {alias.asname for node in block.body for alias in node.names}
  assert names == {*distill_jax.__all__}


def test_what_is_not_there():
  with pytest.raises(AttributeError, match="has no attribute 'load_studnet'"):
    _ = distill_jax.load_studnet


@pytest.mark.parametrize("name", _PUBLIC)
def test_a_public_name_has_an_example(name):
  assert ">>>" in (inspect.getdoc(_PUBLIC[name]) or ""), name


@pytest.mark.parametrize("found", _DOCTESTS, ids=lambda found: found.name)
def test_an_example_is_true(found, model_dir, tmp_path, monkeypatch):
  if found.name in _NEEDS_SEQIO:
    pytest.importorskip("seqio")
  # It would keep this process's later messages from pytest.
  monkeypatch.setattr(console_logging, "set_up", lambda: None)
  shutil.copytree(model_dir, tmp_path / "runs" / "svamp")
  monkeypatch.chdir(tmp_path)
  runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
  output = []
  result = runner.run(found, out=output.append)
  assert result.failed == 0, "".join(output)
