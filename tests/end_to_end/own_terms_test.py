"""Terms of one's own in a full run: trained, logged, resumed, bound by gin."""

import dataclasses
import pathlib
from unittest import mock

import jax
import numpy as np
import own_terms
import pytest
import synthetic_cache
import toy_run

import gin
from distill_jax.config import gin_bindings
from distill_jax.errors import UserError
from distill_jax.objective import terms
from distill_jax.objective.objective import Objective
from distill_jax.run_folder import metric_files
from distill_jax.runs import prepare, train

_ROOT = pathlib.Path(__file__).parents[2]
_OBJECTIVE = Objective(
  (
    terms.LabelLoss(),
    terms.RationaleLoss(0.5),
    own_terms.LabelSmoothing(lambda step: 0.1 * step),
    own_terms.HiddenNorm(0.01),
  )
)
_STEPS = 6


@pytest.fixture(name="train_fn")
def fixture_train_fn(tmp_path):
  # No validation split: decoding would be compiled for nothing.
  cache = synthetic_cache.make_cache(tmp_path / "cache", 12, splits=("train",))

  def run(name, steps=_STEPS, **changes):
    settings = toy_run.make_run(
      tmp_path / name,
      steps,
      **{"objective": _OBJECTIVE, "eval_period": 3} | changes,
    )
    config = dataclasses.replace(settings.model_config, dropout_rate=0.0)
    settings = dataclasses.replace(settings, model_config=config)
    with mock.patch.object(prepare, "find_or_prepare", lambda *_: cache):
      state = train.run(settings)
    lines = metric_files.read_metrics(tmp_path / name)
    return state, [line for line in lines if line["split"] == "train"]

  return run


def test_terms_of_logits_and_hidden_states_are_trained_and_logged(train_fn):
  _, lines = train_fn("run")
  for line in lines:
    weight = 0.1 * (line["step"] - 1)
    assert line["smoothing_weight"] == pytest.approx(weight, abs=1e-6)
    assert line["loss"] == pytest.approx(
      line["label_loss"]
      + 0.5 * line["rationale_loss"]
      + weight * line["smoothing_loss"]
      + 0.01 * line["hidden_norm_loss"],
      rel=1e-5,
    )
    both = line["label_tokens"] + line["rationale_tokens"]
    assert line["smoothing_tokens"] == both
    assert line["hidden_norm_tokens"] == line["label_tokens"]
  # What is weighed is learned: from log(384) on, smoothing costs least there.
  assert lines[-1]["hidden_norm_loss"] > 0


def test_chunks_and_micro_batches_change_nothing(train_fn):
  _, expected = train_fn("run")
  _, found = train_fn(
    "parts",
    num_microbatches=2,
    loss_chunk_tokens=16,
    mesh={"data": 2, "fsdp": 2, "model": 2},
  )
  for line, other in zip(expected, found, strict=True):
    for name in ("loss", "smoothing_loss", "hidden_norm_loss"):
      assert other[name] == pytest.approx(line[name], rel=1e-4)


def test_a_resumed_run_is_the_run_that_was_not_stopped(train_fn):
  expected, lines = train_fn("whole")
  train_fn("parts", steps=3)
  found, resumed = train_fn("parts")
  jax.tree.map(np.testing.assert_array_equal, found.params, expected.params)
  assert [line["loss"] for line in resumed] == [line["loss"] for line in lines]


def test_another_weight_is_another_run(train_fn):
  train_fn("run", steps=3)
  others = (*_OBJECTIVE.terms[:-1], own_terms.HiddenNorm(0.02))
  with pytest.raises(UserError, match="hidden_norm"):
    train_fn("run", objective=Objective(others))


def test_gin_binds_terms_of_any_module(tmp_path):
  path = tmp_path / "own.gin"
  path.write_text(
    "from __gin__ import dynamic_registration\n"
    "import own_terms\n"
    "from distill_jax.objective import terms\n"
    "OBJECTIVE_TERMS = (@terms.LabelLoss(), @terms.RationaleLoss(),\n"
    "                   @own_terms.HiddenNorm())\n"
    "own_terms.HiddenNorm.weight = 0.25\n"
  )
  files = ("gin/models/t5_1_1/tiny.gin", "gin/runs/train.gin")
  bindings = (
    "MIXTURE_OR_TASK_NAME = 'animal_legs_distill'",
    "MODEL_DIR = '/tmp/none'",
    "TRAIN_STEPS = 2",
    "RATIONALE_LOSS_WEIGHT = 2.0",
  )
  gin.clear_config()
  gin_bindings.parse(
    [*(str(_ROOT / file) for file in files), str(path)],
    list(bindings),
    [str(_ROOT)],
  )
  settings, _ = gin_bindings.build_with(train.TrainRun, {})
  assert settings.objective == Objective(
    (
      terms.LabelLoss(),
      terms.RationaleLoss(2.0),
      own_terms.HiddenNorm(0.25),
    )
  )
