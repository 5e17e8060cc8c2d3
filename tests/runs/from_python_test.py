"""Tests of from_python.py: runs without flags, gin files and data files."""

import json
import pathlib
import signal

import jax
import jax.numpy as jnp
import pytest
import tiny_run
from tiny_run import fixture_model_dir as fixture_model_dir
from tiny_run import fixture_own_model_dir as fixture_own_model_dir

import distill_jax
import gin
from distill_jax.config import console_logging, gin_bindings
from distill_jax.errors import UserError
from distill_jax.objective.objective import make_step_by_step
from distill_jax.run_folder import run_identity
from distill_jax.runs import from_python, train

_ROOT = pathlib.Path(__file__).parents[2]
_CONFIG = tiny_run.CONFIG
_SMALL = {
  "vocab_path": "bytes",
  "feature_lengths": {"inputs": 32, "targets": 12},
  "batch_rows": 8,
  "log_period": 1,
}


def _make_rows(count=20):
  return [
    {"input": f"{i} + 1 ?", "label": f"{i + 1}", "rationale": "Add one."}
    for i in range(count)
  ]


@pytest.fixture(autouse=True)
def clean_state(monkeypatch):
  # It would keep this process's later messages from pytest.
  monkeypatch.setattr(console_logging, "set_up", lambda: None)
  gin.clear_config()
  yield
  gin.clear_config()


def _describe(run):
  """Settings that can be compared: functions by what they do."""
  fields = {**vars(run)}
  rate = fields.pop("learning_rate")
  optimizer = fields.pop("optimizer")
  fields["rates"] = [float(rate(step)) for step in (0, 1, 5, 50)]
  fields["updates"] = run_identity._probe_optimizer(optimizer)
  return fields


@pytest.mark.parametrize("optimizer", ["adafactor", "adamw"])
def test_defaults_are_those_of_the_gin_files(optimizer, monkeypatch):
  monkeypatch.setattr(gin.config, "_LOCATION_PREFIXES", [""])
  suffix = {"adafactor": "", "adamw": "_adamw"}[optimizer]
  gin_bindings.parse(
    ["gin/models/t5_1_1/tiny.gin", f"gin/runs/train{suffix}.gin"],
    [
      "MIXTURE_OR_TASK_NAME = 'svamp_distill'",
      "MODEL_DIR = '/runs/a'",
      "TRAIN_STEPS = 100",
    ],
    [str(_ROOT)],
  )
  expected = gin_bindings.build(train.TrainRun)
  made = from_python.make_train_run(
    distill_jax.presets.t5_1_1("tiny"),
    "svamp_distill",
    "/runs/a",
    100,
    {"optimizer": optimizer},
  )
  assert _describe(made) == _describe(expected)


def test_settings_arrive():
  made = from_python.make_train_run(
    _CONFIG,
    "svamp_distill",
    "/runs/a",
    100,
    {
      "seed": 3,
      "rationale_loss_weight": 0.5,
      "subsample": 0.5,
      "pairing": "mixed",
      "eval_period": 7,
      "optimizer": "adamw",
      "weight_decay": 0.1,
      "learning_rate": 1.0,
      "warmup_steps": 10,
    },
  )
  assert (made.seed, made.feed.seed, made.feed.pairing) == (3, 3, "mixed")
  assert made.objective == make_step_by_step(0.5)
  assert (made.data.subsample, made.eval_period) == (0.5, 7)
  assert float(made.learning_rate(10)) == 1.0
  params = {"kernel": jnp.ones((2, 2))}
  state = made.optimizer.init(params)
  for _ in range(20):
    updates, state = made.optimizer.update(
      jax.tree.map(jnp.zeros_like, params), state, params
    )
  assert float(updates["kernel"][0, 0]) < 0  # Weights decay.


@pytest.mark.parametrize(
  "settings, told",
  [
    (
      {"batch_row": 8},
      "has no setting 'batch_row'. Did you mean 'batch_",
    ),
    ({"feed": None}, "train has no setting 'feed'"),
    ({"optimizer": "sgd"}, "optimizer is 'sgd'; it must be one of 'adafactor'"),
    ({"weight_decay": 0.1}, "train has no setting 'weight_decay'"),
    ({"batch_rows": 0}, "batch_rows is 0"),
    ({"kind": "distil"}, "data is the task 'svamp_distill', which decides kin"),
  ],
)
def test_settings_that_there_are_not(tmp_path, settings, told):
  with pytest.raises(UserError, match=told):
    distill_jax.train(_CONFIG, "svamp_distill", tmp_path / "a", 3, **settings)
  assert not (tmp_path / "a").exists()


def test_arguments_that_cannot_be(tmp_path):
  with pytest.raises(UserError, match="config is 'tiny'; it must be an archit"):
    distill_jax.train("tiny", "svamp_distill", tmp_path / "a", 3)
  with pytest.raises(UserError, match="model_dir is None; it must be a path"):
    distill_jax.train(_CONFIG, "svamp_distill", None, 3)
  with pytest.raises(UserError, match="kind is 'distil'. Did you mean 'dist"):
    distill_jax.train(_CONFIG, _make_rows(), tmp_path / "a", 3, kind="distil")
  with pytest.raises(UserError, match="evaluate has no setting 'batch_size'"):
    distill_jax.evaluate(tmp_path, batch_size=3)
  with pytest.raises(UserError, match="student is 3; it must be a path"):
    distill_jax.evaluate(3)


def test_a_run_is_evaluated(own_model_dir, capsys):
  run = distill_jax.Run(str(own_model_dir))
  results = distill_jax.evaluate(run)
  assert sorted(results) == ["toy_label/test", "toy_rationale/test"]
  for name, metrics in results.items():
    (written,) = (own_model_dir / "eval" / name).rglob("metrics.json")
    assert json.loads(written.read_text()) == metrics
  with pytest.raises(UserError, match="exists"):
    distill_jax.evaluate(run)
  student = run.load_student()
  assert distill_jax.evaluate(student, overwrite=True) == results
  assert "toy_label/test at step 2" in capsys.readouterr().out


@pytest.mark.tf
def test_records_are_learned_without_files(tmp_path):
  pytest.importorskip("seqio")
  rows = _make_rows()
  data = {"train": rows, "test": rows[:5]}
  folder = tmp_path / "a"
  before = signal.getsignal(signal.SIGINT)
  run = distill_jax.train(
    _CONFIG, data, folder, 2, eval_period=2, learning_rate=0.01, **_SMALL
  )
  assert signal.getsignal(signal.SIGINT) is before
  assert [line["step"] for line in run.metrics if line["split"] == "train"] == [
    1,
    2,
  ]
  student = run.load_student()
  assert [name.split("_", 2)[2] for name in student.tasks] == [
    "label",
    "rationale",
  ]
  (cache,) = (folder / "token_cache").iterdir()
  assert (folder / "config.gin").read_text().startswith("# Trained from Python")
  results = distill_jax.evaluate(run)
  assert {name.split("/")[1] for name in results} == {"test"}
  assert len(results) == 2
  # Goes on, and makes nothing again.
  changed = cache.stat().st_mtime_ns
  again = distill_jax.train(
    _CONFIG, data, folder, 3, eval_period=2, learning_rate=0.01, **_SMALL
  )
  assert again.metrics[-1]["step"] == 3
  assert cache.stat().st_mtime_ns == changed
  # Others are another run.
  with pytest.raises(UserError, match="records_"):
    distill_jax.train(
      _CONFIG, rows[:-1], folder, 4, learning_rate=0.01, **_SMALL
    )


@pytest.mark.tf
def test_the_kind_follows_from_the_records(tmp_path):
  pytest.importorskip("seqio")
  rows = [
    {"input": row["input"], "label": row["label"]} for row in _make_rows()
  ]
  run = distill_jax.train(_CONFIG, rows, tmp_path / "a", 1, **_SMALL)
  (task,) = run.load_student().tasks
  assert task.endswith("_label")


def test_an_interruption_in_a_program_is_no_end_of_it(monkeypatch, tmp_path):
  def stop(*_, **__):
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # As the run leaves it.
    raise SystemExit(130)

  monkeypatch.setattr(train, "run", stop)
  before = signal.getsignal(signal.SIGINT)
  with pytest.raises(KeyboardInterrupt, match="is saved. The same call goes"):
    distill_jax.train(_CONFIG, "svamp_distill", tmp_path / "a", 3)
  assert signal.getsignal(signal.SIGINT) is before


@pytest.mark.tf
def test_a_checkpoint_of_no_run_is_evaluated(model_dir, tmp_path):
  pytest.importorskip("seqio")
  distill_jax.load_student(model_dir).save(tmp_path / "hf", format="hf")
  (results,) = distill_jax.evaluate(
    tmp_path / "hf",
    task="word_problems_label",
    model_dir=str(tmp_path / "results"),
    feature_lengths={"inputs": 32, "targets": 12},
    vocab_path="bytes",
    word_problems={
      "num_train_examples": 3,
      "num_validation_examples": 3,
      "num_test_examples": 3,
    },
    cache_dir=str(tmp_path / "caches"),
  ).values()
  assert results["num_examples"] == 3
  assert list((tmp_path / "results" / "eval").rglob("metrics.json"))
