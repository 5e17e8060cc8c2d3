"""Tests of scripts/precompile_table.py."""

import importlib.util
import pathlib
import shutil

import pytest

_ROOT = pathlib.Path(__file__).parents[2]


@pytest.fixture(name="script", scope="module")
def fixture_script():
  path = _ROOT / "scripts" / "precompile_table.py"
  spec = importlib.util.spec_from_file_location("precompile_table", path)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


def test_the_table_and_nothing_else_is_replaced(script, tmp_path):
  report = sorted(script.FOLDER.glob("*.json"))[0]
  shutil.copy(report, tmp_path)
  readme = tmp_path / "README.md"
  readme.write_text("before\n\n| old |\n| --- |\n| 1 |\n\nafter | not one\n")
  script.main(tmp_path)
  text = readme.read_text()
  assert text.startswith("before\n\n| report |")
  assert text.endswith(" |\n\nafter | not one\n")
  assert f"[{report.stem}]({report.name})" in text
  assert "old" not in text
  script.main(tmp_path)
  assert readme.read_text() == text


def test_without_a_table_nothing_is_written(script, tmp_path):
  readme = tmp_path / "README.md"
  readme.write_text("nothing here\n")
  with pytest.raises(SystemExit, match="has 0 tables"):
    script.main(tmp_path)
  assert readme.read_text() == "nothing here\n"
