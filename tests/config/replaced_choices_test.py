"""Tests of replaced_choices.py; with real runs in gin_bindings_test.py."""

import pytest

import gin
from distill_jax.config.replaced_choices import BindingRecord
from gin import config as gin_config

_BASE = """
OUTER = @INNER/gin.macro()
INNER = %LEAF
LEAF = 1
OTHER = 2
"""


@pytest.fixture(autouse=True)
def fixture_clean_gin():
  gin.clear_config()
  yield
  gin.clear_config()


def _record(tmp_path, own, binding=None):
  (tmp_path / "base.gin").write_text(_BASE)
  (tmp_path / "own.gin").write_text(f"include '{tmp_path}/base.gin'\n{own}")
  record = BindingRecord()
  with record.recording():
    gin_config.parse_config_file(str(tmp_path / "own.gin"))
    if binding:
      gin.parse_config(binding)
  return {
    name
    for name in ("OUTER", "INNER", "LEAF", "OTHER")
    if record.excuses((name, "gin.macro"), "value")
  }


def test_what_only_a_replaced_choice_reads_is_excused(tmp_path):
  assert _record(tmp_path, "OUTER = 3\n") == {"INNER", "LEAF"}
  assert _record(tmp_path, "", "OUTER = 3") == {"INNER", "LEAF"}
  assert _record(tmp_path, "OTHER = 3\n") == set()


def test_what_is_set_with_or_after_the_replacement_is_not(tmp_path):
  assert _record(tmp_path, "LEAF = 4\nOUTER = 3\n") == {"INNER"}
  assert _record(tmp_path, "OUTER = 3\n", "LEAF = 4") == {"INNER"}


def test_the_same_value_again_replaces_nothing(tmp_path):
  assert _record(tmp_path, "INNER = %LEAF\n") == set()


def test_gin_is_left_as_it_was(tmp_path):
  before = gin_config.bind_parameter, gin_config.parse_config_file
  with pytest.raises(Exception, match="own.gin"):
    _record(tmp_path, "OUTER = \n")
  assert (gin_config.bind_parameter, gin_config.parse_config_file) == before
