"""A sweep on made-up tokens, set up by gin as the command does it."""

import contextlib
import dataclasses
import pathlib
from unittest import mock

import jax
from synthetic_cache import make_cache

import gin
from distill_jax.config import gin_bindings
from distill_jax.data import token_cache
from distill_jax.partitioning import mesh as mesh_lib
from distill_jax.runs import prepare, sweep, sweep_cells

ROOT = pathlib.Path(__file__).parents[2]
_FILES = ("gin/models/t5_1_1/tiny.gin", "gin/runs/sweep.gin")
_SETTINGS = {
  "ARMS": {
    "plain": {
      "MIXTURE_OR_TASK_NAME": "toy_finetune",
      "EVAL_TASK": "toy_label",
    },
    "distilled <b>": {
      "MIXTURE_OR_TASK_NAME": "toy_distill",
      "RATIONALE_LOSS_WEIGHT": 0.5,
    },
  },
  "SIZES": (4,),
  "SEEDS": (0,),
  "TITLE": "toy",
  "TRAIN_STEPS": 1,
  "TASK_FEATURE_LENGTHS": {"inputs": 32, "targets": 12},
  "BATCH_SIZE": 8,
  "LEARNING_RATE": 1e-2,
  "VOCAB_PATH": "bytes",
  "VOCAB_SIZE": 384,
  "config.T5Config.embed_dim": 16,
  "config.T5Config.num_heads": 2,
  "config.T5Config.head_dim": 8,
  "config.T5Config.mlp_dim": 16,
  "config.T5Config.num_encoder_layers": 1,
  "config.T5Config.num_decoder_layers": 1,
}
ARMS = _SETTINGS["ARMS"]
# The size for which there are fewer examples than for all others.
FEWER = 3


def parse(folder, **changes):
  """Parses the sweep's gin files, with other settings where they are given."""
  gin.clear_config()
  settings = {**_SETTINGS, "MODEL_DIR": str(folder), **changes}
  gin_bindings.parse(
    _FILES,
    [f"{name} = {value!r}" for name, value in settings.items()],
    [str(ROOT)],
  )


def build(folder, **changes):
  """Returns the settings of a sweep, and their gin text."""
  parse(folder, **changes)
  settings = gin_bindings.build(sweep.SweepRun)
  return settings, gin_bindings.operative_config()


def run(folder, overwrite=False, **changes):
  """Runs a sweep as the command does; returns its exit code."""
  settings, text = build(folder, **changes)
  return sweep.run(settings, text, overwrite)


@contextlib.contextmanager
def toy_data(folder, splits=("train", "test")):
  """Has all runs inside find one token cache, whatever their task and size."""
  cache = make_cache(folder, 5, splits=splits)
  fewer: list[token_cache.TokenCache] = []
  make_mesh = mesh_lib.make_mesh

  def find(name=None, settings=None, *_):
    del name
    if settings is None or settings.subsample != FEWER / 100:
      return cache
    if not fewer:
      fewer.append(make_cache(folder / "fewer", 4, splits=splits))
    return fewer[0]

  def resize(data, task, size):
    del task
    return dataclasses.replace(data, subsample=size / 100)

  with (
    mock.patch.object(gin.config, "_LOCATION_PREFIXES", [""]),
    mock.patch.object(prepare, "find_or_prepare", find),
    # One device compiles faster than eight.
    mock.patch.object(
      mesh_lib,
      "make_mesh",
      lambda sizes, **_: make_mesh(sizes, jax.devices()[:1]),
    ),
    mock.patch.object(sweep_cells, "_resize", resize),
  ):
    try:
      yield cache
    finally:
      gin.clear_config()
