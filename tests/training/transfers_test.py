"""The loop moves what it is told to between host and devices, and no more.

`train.run` with logging, evaluation by decoding and checkpoints, its loop under
JAX's guard: batches are put, metrics and predictions are fetched, and anything
else raises.
"""

import json

import jax
import numpy as np
import pytest
import tiny_run
from synthetic_cache import make_cache

from distill_jax.data.feed.pipeline import FeedConfig
from distill_jax.data.settings import DataSettings
from distill_jax.objective.objective import Objective
from distill_jax.optim import factory, schedules
from distill_jax.partitioning import mesh as mesh_lib
from distill_jax.runs import prepare, train
from distill_jax.training import loop


def test_a_run_moves_nothing_unasked(tmp_path, monkeypatch):
  cache = make_cache(tmp_path, 5, splits=("train", "validation"))
  monkeypatch.setattr(prepare, "find_or_prepare", lambda *_: cache)
  make_mesh, run_loop = mesh_lib.make_mesh, loop.run_loop
  monkeypatch.setattr(
    mesh_lib,
    "make_mesh",
    lambda sizes, **_: make_mesh(sizes, jax.devices()[:1]),
  )

  def run_guarded(state, *args, **kwargs):
    with jax.transfer_guard("disallow"):
      # It is awake.
      with pytest.raises(Exception, match="Disallowed host-to-device"):
        state.step + np.int32(1)
      return run_loop(state, *args, **kwargs)

  monkeypatch.setattr(loop, "run_loop", run_guarded)
  rate = schedules.linear_decay(1e-2, 4)
  state = train.run(
    train.TrainRun(
      model_config=tiny_run.CONFIG,
      mixture_or_task_name="toy_distill",
      model_dir=str(tmp_path / "run"),
      train_steps=2,
      data=DataSettings(vocab_path="bytes"),
      feed=FeedConfig({"inputs": 32, "targets": 12}, 8),
      objective=Objective(),
      learning_rate=rate,
      optimizer=factory.adamw(rate),
      log_period=1,
      max_eval_examples=1,
    )
  )
  assert int(state.step) == 2
  lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
  logged = [json.loads(line) for line in lines]
  assert [row["step"] for row in logged if "learning_rate" in row] == [1, 2]
  assert any("label_accuracy" in row for row in logged)
