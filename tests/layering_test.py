"""The project's shape: who imports whom, and what no module may hold."""

import ast
import graphlib
import pathlib

import pytest

_ROOT = pathlib.Path(__file__).parents[1]
_FILES = sorted(
  [*(_ROOT / "distill_jax").rglob("*.py"), *(_ROOT / "tasks").glob("*.py")]
)
# A folder's modules import those of their own folder and of the folders above
# it in this list.
_FOLDERS = """
  files answers hosts config partitioning data model optim objective decoding
  run_folder checkpoint training evaluation aot teacher experiments student runs
""".split()
# Stand at the top of the package, beside `errors`, which all import.
_TOP = {"main", "t5x_bridge"}
_TENSORFLOW = {
  "clu",
  "mesh_tensorflow",
  "seqio",
  "t5",
  "t5x",
  "tensorflow",
  "tensorflow_datasets",
  "tensorflow_text",
}
# The bridge to T5X: the one module that imports it, and no TensorFlow itself.
_T5X_BRIDGE = "distill_jax/t5x_bridge.py"
# Their one line is tested with `tasks/register.py`; an exception has none.
_TESTED_ELSEWHERE = {
  "distill_jax/errors.py",
  "tasks/animal_legs.py",
  "tasks/anli1.py",
  "tasks/asdiv.py",
  "tasks/cqa.py",
  "tasks/esnli.py",
  "tasks/svamp.py",
  "tasks/word_problems.py",
}

# To be emptied.
_UNTESTED: set[str] = set()


def _relative(path):
  return path.relative_to(_ROOT).as_posix()


def _module_name(path):
  parts = list(path.relative_to(_ROOT).with_suffix("").parts)
  if parts[0] == "tasks":
    parts.insert(0, "distill_jax")
  return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


_MODULES = {_module_name(path): path for path in _FILES}


def _parse(path):
  return ast.parse(path.read_text(encoding="utf-8"), str(path))


def _imported(path):
  """Returns the dotted names of all that a file imports, wherever in it."""
  names = set()
  for node in ast.walk(_parse(path)):
    if isinstance(node, ast.Import):
      names |= {alias.name for alias in node.names}
    elif isinstance(node, ast.ImportFrom):
      module = node.module
      if node.level:
        package = _module_name(path.with_name("__init__.py"))
        module = f"{package}.{module}" if module else package
      for alias in node.names:
        name = f"{module}.{alias.name}"
        # `from package import module`, or `from module import thing`.
        names.add(name if name in _MODULES else module)
  return names


def _folder(name):
  """Returns the folder of a module of the package; None: it has none."""
  parts = name.split(".")
  in_folder = len(parts) > 2 or parts[-1] in (*_FOLDERS, "tasks")
  return parts[1] if in_folder else None


def _find_place(name):
  """Returns where a module stands in the order of imports."""
  if name in ("distill_jax", "distill_jax.errors"):
    return -1
  folder = _folder(name)
  return len(_FOLDERS) if folder in (None, "tasks") else _FOLDERS.index(folder)


def test_every_folder_has_a_place():
  folders = {_folder(name) for name in _MODULES} - {None}
  assert folders - {"tasks"} == set(_FOLDERS)
  beside = {name for name in _MODULES if _folder(name) is None}
  assert beside == {"distill_jax", "distill_jax.errors"} | {
    f"distill_jax.{name}" for name in _TOP
  }


# The package itself lists what is public, and imports it on demand.
@pytest.mark.parametrize("name", sorted(_MODULES.keys() - {"distill_jax"}))
def test_a_module_imports_no_higher_folder(name):
  for imported in _imported(_MODULES[name]) & _MODULES.keys():
    assert _find_place(imported) <= _find_place(name), f"{name}: {imported}"


def test_no_modules_import_each_other_in_a_circle():
  imports = {
    name: _imported(path) & _MODULES.keys() - {"distill_jax"}
    for name, path in _MODULES.items()
  }
  # Raises CycleError with the modules of the circle.
  graphlib.TopologicalSorter(imports).prepare()


@pytest.mark.parametrize("path", _FILES, ids=_relative)
def test_a_file_keeps_the_rules(path):
  tree = _parse(path)
  if path.read_text().strip():
    assert ast.get_docstring(tree), "no module docstring"
  assert path.stem not in ("common", "helpers", "misc", "util", "utils")
  calls = {
    node.func.id
    for node in ast.walk(tree)
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
  }
  assert not calls & {"eval", "exec"}
  may_use_tensorflow = path.parent.name in ("tasks", "tf")
  packages = {name.partition(".")[0] for name in _imported(path)}
  if _relative(path) == _T5X_BRIDGE:
    packages -= {"t5x"}
  assert may_use_tensorflow or not packages & _TENSORFLOW


def test_nothing_imports_the_bridge_to_t5x():
  importers = [
    name
    for name, path in _MODULES.items()
    if "distill_jax.t5x_bridge" in _imported(path)
  ]
  assert importers == []


def test_every_module_has_a_test():
  untested = set()
  for path in _FILES:
    name = _relative(path)
    if path.name == "__init__.py" or name in _TESTED_ELSEWHERE:
      continue
    mirrored = pathlib.Path(name.removeprefix("distill_jax/"))
    test = _ROOT / "tests" / mirrored.with_name(f"{path.stem}_test.py")
    if not test.is_file():
      untested.add(name)
  assert untested <= _UNTESTED
