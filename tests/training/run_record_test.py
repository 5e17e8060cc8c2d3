"""Tests of training/run_record.py."""

import dataclasses
import json
import pathlib
import subprocess

import jax
import pytest

import distill_jax
from distill_jax.errors import UserError
from distill_jax.training import run_record

_RECORD = run_record.RunRecord(
  identity={
    "task": "toy_distill",
    "token_cache": "0123",
    "model_config": {"embed_dim": 16, "mlp_activations": ["gelu"]},
    "seed": 0,
  },
  token_cache_path="/caches/toy",
  num_params=10,
  mesh="data 8",
  environment={"jax": "0"},
)


def _with_identity(**changes):
  return dataclasses.replace(_RECORD, identity=_RECORD.identity | changes)


def test_round_trip(tmp_path):
  assert run_record.read_record(tmp_path) is None
  _with_identity(seed=1).write(tmp_path)
  _RECORD.write(tmp_path)
  assert run_record.read_record(tmp_path) == _RECORD
  assert [path.name for path in tmp_path.iterdir()] == ["run.json"]


@pytest.mark.parametrize("content", ["", "{", "[]", '{"identity": {}}', "3"])
def test_a_file_that_is_not_ours(tmp_path, content):
  (tmp_path / "run.json").write_text(content)
  with pytest.raises(UserError, match="run.json cannot be read"):
    run_record.read_record(tmp_path)


def test_the_run_of_a_checkpoint(tmp_path):
  checkpoint = tmp_path / "checkpoints" / "30"
  with pytest.raises(UserError, match="has no run.json, so the model of .*30"):
    run_record.require_record(checkpoint)
  _RECORD.write(tmp_path)
  assert run_record.require_record(checkpoint) == _RECORD


def test_the_same_settings_resume_on_another_machine(tmp_path):
  moved = dataclasses.replace(
    _RECORD, mesh="data 1", environment={}, token_cache_path="/elsewhere"
  )
  run_record.check_resumable(_RECORD, moved, tmp_path)


def test_other_settings_are_named_one_by_one(tmp_path):
  wanted = _with_identity(
    seed=1, model_config={"embed_dim": 16, "mlp_activations": ["relu"]}, new=2
  )
  with pytest.raises(UserError) as raised:
    run_record.check_resumable(_RECORD, wanted, tmp_path)
  assert str(raised.value).splitlines() == [
    f"{tmp_path} holds a run with other settings:",
    "  model_config.mlp_activations: ['gelu'] before, ['relu'] now",
    "  new: None before, 2 now",
    "  seed: 0 before, 1 now",
    "Give another MODEL_DIR, the settings it was started with (its config.gin),"
    " or --overwrite to replace it.",
  ]


def test_vocabulary_is_kept_with_the_run(tmp_path):
  assert run_record.vocabulary_path(tmp_path) is None
  (tmp_path / "cache").mkdir()
  source = tmp_path / "cache" / "my.model"
  source.write_bytes(b"pieces")
  run_record.keep_vocabulary(tmp_path, str(source))
  source.unlink()
  kept = pathlib.Path(run_record.vocabulary_path(tmp_path))
  assert kept.read_bytes() == b"pieces"


def test_environment_names_versions_and_survives_json():
  environment = run_record.describe_environment()
  assert environment["jax"] == jax.__version__
  assert environment["distill_jax"] == distill_jax.__version__
  assert json.loads(json.dumps(environment)) == environment


@pytest.mark.parametrize(
  "error", [FileNotFoundError("git"), subprocess.TimeoutExpired("git", 10)]
)
def test_a_machine_without_git(monkeypatch, error):
  def fail(*_, **__):
    raise error

  monkeypatch.setattr(subprocess, "run", fail)
  assert run_record.describe_environment()["git_commit"] is None
