"""Imports a script as a module, for tests of its functions."""

import importlib.util
import pathlib
import sys

SCRIPTS = pathlib.Path(__file__).parents[2] / "scripts"


def import_script(name):
  """Returns the module made of `scripts/**/<name>.py`."""
  (path,) = SCRIPTS.rglob(f"{name}.py")
  # A script's siblings are found as when it runs.
  if str(path.parent) not in sys.path:
    sys.path.append(str(path.parent))
  spec = importlib.util.spec_from_file_location(name, path)
  assert spec is not None and spec.loader is not None
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module
