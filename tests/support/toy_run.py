"""A training run on made-up tokens, as a program that can be killed.

python toy_run.py CACHE_FOLDER MODEL_DIR TRAIN_STEPS
"""

import logging
import pathlib
import sys

import optax

from distill_jax.data import token_cache
from distill_jax.data.feed.pipeline import FeedConfig
from distill_jax.data.settings import DataSettings
from distill_jax.model.t5.config import T5Config
from distill_jax.objective.objective import Objective
from distill_jax.optim import factory, schedules
from distill_jax.runs import prepare, train


def make_run(model_dir, train_steps, num_shards=1, **changes) -> train.TrainRun:
  """Returns settings of a run whose losses fall within 30 steps."""
  schedule: optax.Schedule = schedules.linear_decay(1e-2, 60, warmup_steps=5)
  settings = {
    "model_config": T5Config(
      vocab_size=384,
      embed_dim=16,
      num_heads=2,
      head_dim=8,
      mlp_dim=32,
      num_encoder_layers=1,
      num_decoder_layers=1,
      dropout_rate=0.1,
    ),
    "mixture_or_task_name": "toy_distill",
    "model_dir": str(model_dir),
    "train_steps": train_steps,
    "data": DataSettings(vocab_path="bytes"),
    "feed": FeedConfig({"inputs": 24, "targets": 16}, 8, num_shards=num_shards),
    "objective": Objective(),
    "learning_rate": schedule,
    "optimizer": factory.adamw(schedule),
    "eval_period": 8,
    "log_period": 1,
    "mesh": {"data": -1},
  }
  return train.TrainRun(**(settings | changes))


def use_cache(folder) -> token_cache.TokenCache:
  """Makes every run read the one cache in `folder`."""
  (path,) = token_cache.list_caches(folder, "toy_distill")
  cache = token_cache.TokenCache(path)
  prepare.find_or_prepare = lambda *args, **kwargs: cache
  return cache


if __name__ == "__main__":
  logging.basicConfig(level="WARNING")
  use_cache(pathlib.Path(sys.argv[1]))
  train.run(make_run(sys.argv[2], int(sys.argv[3])))
