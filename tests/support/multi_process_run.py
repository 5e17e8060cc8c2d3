"""A training run on made-up tokens as one process of several.

python multi_process_run.py CACHE MODEL_DIR TRAIN_STEPS DEVICES FLAGS

DEVICES is how many this process has, FLAGS are those of `distill_jax.main`. A
CACHE that is not that of process 0 stands for another host's disk. With
STEP_SECONDS set each step takes so long at least; with FULL_DISK set there is
no room for this process's part of a checkpoint, nor for its checksums. With
CHANGES, a JSON object, settings of the run are others. With BROKEN_BATCHES, a
list, those that this process makes, counted from 1, have a loss that is no
number.
"""

import errno
import json
import os
import pathlib
import sys
import time
from unittest import mock

import jax
import numpy as np
import toy_run
from absl import flags
from orbax.checkpoint.future import ChainedFuture

from distill_jax import main
from distill_jax.checkpoint import checksums
from distill_jax.config import console_logging
from distill_jax.data import token_cache
from distill_jax.data.feed import batch as batch_lib
from distill_jax.partitioning import sharding
from distill_jax.runs import mode, prepare, train


def slow_down(compile_fn, seconds):
  """Makes steps that wait before they begin."""

  def compile_slow(*args, **kwargs):
    step_fn = compile_fn(*args, **kwargs)

    def slow_step(*args):
      print("A step begins.", file=sys.stderr, flush=True)
      time.sleep(seconds)
      return step_fn(*args)

    return slow_step

  return compile_slow


def break_batches(numbers):
  """Makes batches that have no finite loss, in this process's rows."""
  to_global, calls = sharding.to_global, []

  def put_broken(batch, mesh):
    # Evaluation puts other keys.
    if batch.keys() == batch_lib.DTYPES.keys():
      calls.append(None)
      if len(calls) in numbers:
        weights = batch[batch_lib.DECODER_LOSS_WEIGHTS] * np.float32(np.nan)
        batch = batch | {batch_lib.DECODER_LOSS_WEIGHTS: weights}
    return to_global(batch, mesh)

  sharding.to_global = put_broken


def fail_to_write(*args, **kwargs):
  del args, kwargs
  raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


if __name__ == "__main__":
  cache, model_dir, train_steps, devices, *others = sys.argv[1:]
  jax.config.update("jax_num_cpu_devices", int(devices))
  console_logging.set_up()
  flags.FLAGS([sys.argv[0], "--run_mode=train", *others])
  with main._joined_processes(mode.RUN_MODES["train"]):
    (path,) = token_cache.list_caches(pathlib.Path(cache), "toy_distill")
    own = token_cache.TokenCache(path)
    prepare.find_for_all = lambda *_: own
    if seconds := os.environ.get("STEP_SECONDS"):
      train.step_lib.compile_train_step = slow_down(
        train.step_lib.compile_train_step, float(seconds)
      )
    if os.environ.get("FULL_DISK"):
      mock.patch.object(checksums, "write", fail_to_write).start()
      mock.patch.object(ChainedFuture, "result", fail_to_write).start()
    if broken := os.environ.get("BROKEN_BATCHES"):
      break_batches(json.loads(broken))
    changes = json.loads(os.environ.get("CHANGES", "{}"))
    train.run(
      toy_run.make_run(model_dir, int(train_steps), **changes),
      operative_config=f"TRAIN_STEPS = {train_steps}\n",
    )
