"""Tests of scripts/precompile_table.py."""

import shutil

import pytest
from script_import import import_script

script = import_script("precompile_table")


def test_the_table_and_nothing_else_is_replaced(tmp_path):
  report = sorted(script.REPORTS.glob("*.json"))[0]
  shutil.copy(report, tmp_path)
  page = tmp_path / "page.md"
  page.write_text("before\n\n| old |\n| --- |\n| 1 |\n\nafter | not one\n")
  script.main(page, tmp_path)
  text = page.read_text()
  assert text.startswith("before\n\n| report |")
  assert text.endswith(" |\n\nafter | not one\n")
  assert f"[{report.stem}]({script.LINK}/{report.name})" in text
  assert "old" not in text
  script.main(page, tmp_path)
  assert page.read_text() == text


def test_without_a_table_nothing_is_written(tmp_path):
  page = tmp_path / "page.md"
  page.write_text("nothing here\n")
  with pytest.raises(SystemExit, match="has 0 tables"):
    script.main(page, tmp_path)
  assert page.read_text() == "nothing here\n"
