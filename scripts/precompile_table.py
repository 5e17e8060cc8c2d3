"""Writes the table of docs/precompile/README.md anew, from the reports beside.

Run from anywhere: .venv/bin/python scripts/precompile_table.py
"""

import json
import pathlib
import re
import sys

from distill_jax.aot import compile_report

FOLDER = pathlib.Path(__file__).parents[1] / "docs" / "precompile"
_TABLE = re.compile(r"(?:^\|.*\n)+", re.MULTILINE)


def main(folder: pathlib.Path = FOLDER) -> None:
  """Replaces the one table of the folder's README.md.

  Args:
    folder: holds README.md and the reports, *.json.
  """
  reports = {
    path.stem: json.loads(path.read_text(encoding="utf-8"))
    for path in sorted(folder.glob("*.json"))
  }
  readme = folder / "README.md"
  text = readme.read_text(encoding="utf-8")
  table = compile_report.format_summary(reports) + "\n"
  text, count = _TABLE.subn(lambda match: table, text)
  if count != 1:
    sys.exit(f"{readme} has {count} tables; it must have one to replace.")
  readme.write_text(text, encoding="utf-8")


if __name__ == "__main__":
  main()
