"""Tests of mode.py: the table of run modes is true."""

import importlib
import inspect
import pathlib

import pytest

from distill_jax.runs import mode as mode_lib

_ROOT = pathlib.Path(__file__).parents[2]


@pytest.mark.parametrize(
  "mode", mode_lib.RUN_MODES.values(), ids=lambda m: m.name
)
def test_a_mode_has_settings_a_run_and_a_gin_file(mode):
  module = importlib.import_module(mode.module)
  assert inspect.isclass(getattr(module, mode.settings_class))
  parameters = inspect.signature(module.run).parameters
  assert {"operative_config", "overwrite"} <= parameters.keys()
  if mode.flags:
    assert {*mode.flags} == {*inspect.signature(module.read_flags).parameters}
  assert (_ROOT / mode.gin_file).is_file()


def test_a_flag_belongs_to_its_modes():
  assert mode_lib.find_readers("dry_run") == ["label"]
  assert mode_lib.find_readers("process_count") == ["train"]
  assert mode_lib.find_readers("overwrite") == []
  infer = mode_lib.RUN_MODES["infer"]
  given = {"shard": "0/2", "overwrite": True}
  assert mode_lib.find_unread(infer, given) == {"shard": ["label"]}
  label = mode_lib.RUN_MODES["label"]
  assert mode_lib.find_unread(label, given) == {}
