"""Tests of scripts/write_gin_files.py: the committed files are its output."""

import pytest
from script_import import import_script

script = import_script("write_gin_files")
_REMEDY = "Run .venv/bin/python scripts/write_gin_files.py and commit."


def test_the_files_are_what_the_settings_classes_declare():
  for path, text in script.write_all().items():
    assert path.read_text(encoding="utf-8") == text, f"{path}: {_REMEDY}"


def test_what_is_written_by_hand_is_kept():
  text = script.write_gin_text(
    "# Mine.\n# begin: list of macros\n# old\n# end\n\nMINE = 1\n\n"
    "# begin: macros of distill_jax.runs.prepare.PrepareRun only cache_dir\n"
    "CACHE_DIR = 'old'\n# end\n\nmine.Mine:\n  mine = %MINE\n"
  )
  assert text == (
    "# Mine.\n# begin: list of macros\n# COMMON: CACHE_DIR.\n# RARE: MINE.\n"
    "# end\n\nMINE = 1\n\n"
    "# begin: macros of distill_jax.runs.prepare.PrepareRun only cache_dir\n\n"
    "# [a text, or None] folder of token caches; None:"
    " ~/.cache/distill_jax/tokens\nCACHE_DIR = None\n"
    "# end\n\nmine.Mine:\n  mine = %MINE\n"
  )
  assert script.write_gin_text(text) == text


def test_one_macro_has_one_default():
  with pytest.raises(script.WrongDefault, match="CACHE_DIR is None, and 'a'"):
    script.write_gin_text(
      "CACHE_DIR = 'a'\n"
      "# begin: macros of distill_jax.runs.prepare.PrepareRun\n# end\n"
    )


def test_a_passage_has_an_end():
  with pytest.raises(ValueError, match="There is no '# end'"):
    script.write_gin_text("# begin: list of macros\n")
