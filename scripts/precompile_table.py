"""Writes the table of docs/precompile.md anew, from tests/testdata/precompile/.

Run from anywhere: .venv/bin/python scripts/precompile_table.py
"""

import json
import pathlib
import re
import sys

from distill_jax.aot import compile_report

_ROOT = pathlib.Path(__file__).parents[1]
PAGE = _ROOT / "docs" / "precompile.md"
REPORTS = _ROOT / "tests" / "testdata" / "precompile"
# As the page has it.
LINK = "../tests/testdata/precompile"
_TABLE = re.compile(r"(?:^\|.*\n)+", re.MULTILINE)


def main(page: pathlib.Path = PAGE, folder: pathlib.Path = REPORTS) -> None:
  """Replaces the one table of a page.

  Args:
    page: in Markdown.
    folder: holds the reports, *.json.
  """
  reports = {
    path.stem: json.loads(path.read_text(encoding="utf-8"))
    for path in sorted(folder.glob("*.json"))
  }
  text = page.read_text(encoding="utf-8")
  table = compile_report.format_summary(reports, LINK) + "\n"
  text, count = _TABLE.subn(lambda match: table, text)
  if count != 1:
    sys.exit(f"{page} has {count} tables; it must have one to replace.")
  page.write_text(text, encoding="utf-8")


if __name__ == "__main__":
  main()
