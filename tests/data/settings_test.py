"""Tests of data/settings.py."""

import dataclasses

import pytest

from distill_jax.data import settings, task_kinds
from distill_jax.errors import UserError


@pytest.fixture(autouse=True)
def fixture_no_settings(monkeypatch):
  monkeypatch.setattr(settings, "_settings", None)


@pytest.mark.parametrize(
  "field, value, told",
  [
    ("subsample", 0.0, "subsample is 0.0; it must be a number above 0 a"),
    ("subsample", 1.5, "subsample is 1.5"),
    ("max_not_ok_share", -0.1, "max_not_ok_share is -0.1"),
    (
      "teacher_parse",
      "loose",
      "parse is 'loose'.* 'strict', 'tolerant'",
    ),
    ("on_rationale_label_conflict", "drop", "of 'keep', 'drop_rationale', 'dr"),
  ],
)
def test_bad_values_are_named(field, value, told):
  with pytest.raises(UserError, match=told):
    settings.DataSettings(**{field: value})


def test_limits_are_allowed():
  settings.DataSettings(subsample=1, max_not_ok_share=0)
  settings.DataSettings(subsample=1e-6, max_not_ok_share=1)


def test_without_settings_the_environment_names_the_data(monkeypatch):
  monkeypatch.delenv("DISTILL_JAX_DATA_DIR", raising=False)
  assert settings.current_settings() == settings.DataSettings()
  monkeypatch.setenv("DISTILL_JAX_DATA_DIR", "/data")
  assert settings.current_settings() == settings.DataSettings(data_dir="/data")


def test_settings_hold_until_they_are_taken_back(monkeypatch):
  monkeypatch.setenv("DISTILL_JAX_DATA_DIR", "/data")
  given = settings.DataSettings(subsample=0.5)
  settings.use_settings(given)
  assert settings.current_settings() is given
  settings.use_settings(None)
  assert settings.current_settings().data_dir == "/data"


def test_settings_cannot_change_unnoticed():
  with pytest.raises(dataclasses.FrozenInstanceError):
    settings.DataSettings().subsample = 0.5


@pytest.mark.parametrize("kind", task_kinds.KINDS.values())
def test_prefix(kind):
  given = settings.DataSettings(label_prefix="L", rationale_prefix="R")
  prefix = settings.get_prefix(kind, given)
  assert prefix == {"label": "L", "rationale": "R", None: ""}[kind.prefix]


@pytest.mark.parametrize("copies", [0, 1.5, True])
def test_a_text_is_corrupted_once_at_least(copies):
  with pytest.raises(UserError, match="span_corruption_copies is"):
    settings.DataSettings(span_corruption_copies=copies)
