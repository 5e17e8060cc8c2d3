"""What is installed: a wheel that works outside the checkout."""

import os
import pathlib
import re
import shutil
import subprocess
import sys
import zipfile

import pytest

ROOT = pathlib.Path(__file__).parents[1]


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
  """Builds the wheel and unpacks it, as an installer would."""
  folder = tmp_path_factory.mktemp("wheel")
  # setuptools builds in place, and would find an earlier build's files.
  source = folder / "source"
  for name in ("distill_jax", "gin", "tasks"):
    shutil.copytree(ROOT / name, source / name)
  for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
    shutil.copy(ROOT / name, source)
  subprocess.run(
    [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps"]
    + ["--no-build-isolation", "-w", str(folder), str(source)],
    check=True,
    capture_output=True,
    cwd=folder,
  )
  (wheel,) = folder.glob("*.whl")
  unpacked = folder / "site"
  with zipfile.ZipFile(wheel) as archive:
    archive.extractall(unpacked)
  return unpacked


def _requirements(installed, extra=None):
  """Returns the names of what the wheel, or one of its extras, requires."""
  (metadata,) = installed.glob("*.dist-info/METADATA")
  lines = metadata.read_text(encoding="utf-8").splitlines()
  found = set()
  for line in lines:
    if line.startswith("Requires-Dist: "):
      requirement, _, condition = line.removeprefix(
        "Requires-Dist: "
      ).partition(";")
      wanted = f'extra == "{extra}"' if extra else ""
      if condition.strip() == wanted:
        found.add(re.split(r"[<>=\[~! ]", requirement)[0].lower())
  return found


def run(installed, folder, *arguments):
  return subprocess.run(
    [sys.executable, *arguments],
    cwd=folder,
    env=os.environ | {"PYTHONPATH": str(installed), "HOME": str(folder)},
    stdin=subprocess.DEVNULL,
    capture_output=True,
    text=True,
    timeout=120,
  )


def test_gin_files_tasks_and_vocabulary_are_inside(installed):
  package = installed / "distill_jax"
  for folder, suffix, target in (
    ("gin", ".gin", package / "gin"),
    ("tasks", ".py", package / "tasks"),
    ("distill_jax", ".model", package),
  ):
    sources = sorted((ROOT / folder).rglob(f"*{suffix}"))
    assert sources
    for source in sources:
      copy = target / source.relative_to(ROOT / folder)
      assert copy.read_bytes() == source.read_bytes()


def test_the_command_finds_its_gin_files_from_anywhere(installed, tmp_path):
  process = run(
    installed,
    tmp_path,
    "-m",
    "distill_jax.main",
    "--run_mode=infer",
    "--gin_file=gin/runs/infer.gin",
    "--gin.INPUT_PATH='-'",
    "--gin.OUTPUT_PATH='-'",
  )
  assert process.returncode == 2
  # Every setting was read; only the run to load is missing.
  assert "Neither CHECKPOINT_PATH nor MODEL_DIR" in process.stderr


@pytest.mark.tf
def test_tasks_register_from_the_wheel(installed, tmp_path):
  process = run(
    installed,
    tmp_path,
    "-c",
    "import distill_jax.tasks as t, seqio;"
    "print(t.__file__); seqio.get_mixture_or_task('svamp_distill')",
  )
  assert process.returncode == 0, process.stderr
  assert process.stdout.startswith(str(installed))


def test_tensorflow_and_seqio_are_an_extra(installed):
  heavy = {"tensorflow", "tensorflow-datasets", "seqio"}
  base = _requirements(installed)
  assert not heavy & base
  assert {"jax", "flax", "openai"} <= base
  assert heavy <= _requirements(installed, "data")


@pytest.mark.tf
def test_tasks_are_importable_where_the_checkout_shadows_the_package(tmp_path):
  # `python -m t5x.main` in a checkout finds `distill_jax` there first.
  for name in ("distill_jax", "tasks"):
    shutil.copytree(ROOT / name, tmp_path / name, symlinks=True)
  process = run(
    tmp_path, tmp_path, "-c", "import distill_jax.tasks as t;print(t.__file__)"
  )
  assert process.returncode == 0, process.stderr
  assert process.stdout.strip() == str(
    tmp_path / "distill_jax" / "tasks" / "__init__.py"
  )
