"""Imports a script as a module, for tests of its functions."""

import importlib.util
import pathlib

SCRIPTS = pathlib.Path(__file__).parents[2] / "scripts"


def import_script(name):
  """Returns the module made of `scripts/<name>.py`."""
  spec = importlib.util.spec_from_file_location(name, SCRIPTS / f"{name}.py")
  assert spec is not None and spec.loader is not None
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module
