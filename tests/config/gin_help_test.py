"""Tests of gin_help.py: what gin files say of their macros."""

import pytest

from distill_jax.config import gin_help
from distill_jax.errors import UserError

_BASE = """# A header that names BATCH_SIZE.
from __gin__ import dynamic_registration

# [a text] where it
# writes
MODEL_DIR = %gin.REQUIRED
BATCH_SIZE = 32

# a comment of nothing

SEED = 0
thing.Thing:
  seed = %SEED
"""
_RUN = """include 'base.gin'

# [a whole number] rows
BATCH_SIZE = 64
SEED = 7
"""


@pytest.fixture(name="folder")
def fixture_folder(tmp_path):
  (tmp_path / "base.gin").write_text(_BASE)
  (tmp_path / "run.gin").write_text(_RUN)
  return str(tmp_path)


def test_macros_are_read_with_those_of_included_files(folder):
  macros = gin_help.read_macros(["run.gin"], [folder])
  assert macros == {
    "MODEL_DIR": gin_help.MacroHelp(
      "MODEL_DIR", "%gin.REQUIRED", "a text", "where it writes", "base.gin"
    ),
    "BATCH_SIZE": gin_help.MacroHelp(
      "BATCH_SIZE", "64", "a whole number", "rows", "run.gin"
    ),
    "SEED": gin_help.MacroHelp("SEED", "7", "", "", "run.gin"),
  }


def test_a_later_file_keeps_what_an_earlier_one_explains(folder):
  macros = gin_help.read_macros(["run.gin", "base.gin"], [folder])
  assert macros["BATCH_SIZE"].value == "32"
  assert macros["BATCH_SIZE"].meaning == "rows"


def test_help_shows_what_must_be_given_first(folder):
  text = gin_help.format_macros(gin_help.read_macros(["run.gin"], [folder]))
  assert text == (
    "Required:\n  MODEL_DIR\n      A text. Where it writes\n\nOthers:\n"
    "  BATCH_SIZE = 64\n      A whole number. Rows\n  SEED = 7"
  )


def test_a_missing_file_is_named(folder):
  with pytest.raises(UserError, match="There is no gin file other.gin in"):
    gin_help.read_macros(["other.gin"], [folder])
