"""A run of two steps on made-up tokens: what `eval` and `infer` start from."""

import pathlib
import shutil
from unittest import mock

import pytest
from synthetic_cache import make_cache

from distill_jax.data.feed.pipeline import FeedConfig
from distill_jax.data.settings import DataSettings
from distill_jax.model.t5.config import T5Config
from distill_jax.objective.objective import Objective
from distill_jax.optim import factory, schedules
from distill_jax.runs import prepare, train

TRAIN_STEPS = 2
NUM_EXAMPLES = 5
MESH = {"data": -1}
CONFIG = T5Config(
  vocab_size=384,
  embed_dim=16,
  num_heads=2,
  head_dim=8,
  mlp_dim=16,
  num_encoder_layers=1,
  num_decoder_layers=1,
  dropout_rate=0.0,
)


_trained: list[pathlib.Path] = []


def _train(folder):
  # No validation split: decoding would be compiled for nothing.
  cache = make_cache(folder, NUM_EXAMPLES, splits=("train", "test"))
  rate = schedules.constant(1e-2)
  settings = train.TrainRun(
    model_config=CONFIG,
    mixture_or_task_name="toy_distill",
    model_dir=str(folder / "run"),
    train_steps=TRAIN_STEPS,
    data=DataSettings(vocab_path="bytes"),
    feed=FeedConfig({"inputs": 32, "targets": 12}, 8),
    objective=Objective(),
    learning_rate=rate,
    optimizer=factory.adamw(rate),
    mesh=MESH,
    log_period=1,
  )
  with mock.patch.object(prepare, "find_or_prepare", lambda *_: cache):
    train.run(settings, operative_config="# settings\n")
  return folder / "run"


@pytest.fixture(name="model_dir", scope="session")
def fixture_model_dir(tmp_path_factory):
  """A trained run to read from; trained once for all test modules."""
  # The fixture is one of each module that imports it; the run is one of all.
  if not _trained:
    _trained.append(_train(tmp_path_factory.mktemp("tiny_run")))
  return _trained[0]


@pytest.fixture(name="own_model_dir")
def fixture_own_model_dir(model_dir, tmp_path):
  """A copy of the run to write to."""
  return shutil.copytree(model_dir, tmp_path / "run")
