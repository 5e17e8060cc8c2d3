"""Tests of run_folder/run_record.py."""

import dataclasses
import json
import pathlib
import subprocess

import jax
import pytest

import distill_jax
from distill_jax.errors import UserError
from distill_jax.run_folder import run_record

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


_RATES = {"optimizer_updates": ["1"], "learning_rates": ["0.1", "0.05"]}


def _with_rates(train_steps, **changes):
  record = _with_identity(**(_RATES | changes))
  return dataclasses.replace(record, train_steps=train_steps)


@pytest.mark.parametrize("before", [300, None])
def test_training_longer_names_train_steps_and_the_ways_out(before):
  found = _with_rates(before)
  wanted = _with_rates(
    600, learning_rates=["0.1", "0.075"], optimizer_updates=["2"]
  )
  with pytest.raises(UserError) as raised:
    run_record.check_resumable(found, wanted, "/run")
  message = str(raised.value)
  assert "TRAIN_STEPS is 600 now" in message
  assert ("was 300 when the run began" in message) == (before == 300)
  assert "--gin.INITIAL_CHECKPOINT_PATH=\"'/run'\"" in message
  assert "SCHEDULE = 'constant' or 'rsqrt'" in message
  assert "learning_rates: ['0.1', '0.05'] before" in message


def test_another_rate_of_as_many_steps_is_not_put_on_train_steps():
  with pytest.raises(UserError) as raised:
    run_record.check_resumable(
      _with_rates(300), _with_rates(300, learning_rates=["1"]), "/run"
    )
  assert "TRAIN_STEPS" not in str(raised.value)
  with pytest.raises(UserError, match="seed: 0 before") as raised:
    run_record.check_resumable(
      _with_rates(300), _with_rates(600, seed=1, learning_rates=["1"]), "/run"
    )
  assert "TRAIN_STEPS" not in str(raised.value)


def test_more_steps_at_the_same_rates_go_on():
  run_record.check_resumable(_with_rates(300), _with_rates(600), "/run")


def test_a_record_without_train_steps_is_read(tmp_path):
  """As earlier versions wrote it."""
  content = dataclasses.asdict(_RECORD)
  del content["train_steps"]
  (tmp_path / "run.json").write_text(json.dumps(content))
  assert run_record.read_record(tmp_path) == _RECORD


@pytest.mark.parametrize(
  "before, now, is_same",
  [
    ("runs/a", "/home/me/runs/a", True),
    ("./runs/a/", "/home/me/runs/a", True),
    ("/home/me/runs/a", "/home/me/runs/../runs/a", True),
    ("/other/runs/a", "/home/me/runs/a", False),
    ("b/a", "/home/me/runs/a", False),
    ("gs://bucket/a", "gs://bucket/a", True),
    ("gs://bucket/a", "/bucket/a", False),
    (None, "/home/me/runs/a", False),
  ],
)
def test_where_parameters_came_from_is_a_path(before, now, is_same):
  """Earlier versions noted it as it was given."""
  found = _with_identity(initial_checkpoint_path=before)
  wanted = _with_identity(initial_checkpoint_path=now)
  if is_same:
    run_record.check_resumable(found, wanted, "/run")
  else:
    with pytest.raises(UserError, match="initial_checkpoint_path"):
      run_record.check_resumable(found, wanted, "/run")
