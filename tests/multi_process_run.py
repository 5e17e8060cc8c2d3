"""A training run on made-up tokens as one process of several.

python multi_process_run.py CACHE MODEL_DIR TRAIN_STEPS DEVICES FLAGS

DEVICES is how many this process has, FLAGS are those of `distill_jax.main`. A
CACHE that is not that of process 0 stands for another host's disk. With
STEP_SECONDS set each step takes so long at least; with FULL_DISK set there is
no room for this process's part of a checkpoint, nor for its checksums.
"""

import errno
import os
import pathlib
import sys
import time
from unittest import mock

import jax
import toy_run
from absl import flags
from orbax.checkpoint.future import ChainedFuture

from distill_jax import main, prepare, train
from distill_jax.checkpoint import checksums
from distill_jax.config import console_logging
from distill_jax.data import token_cache


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


def fail_to_write(*args, **kwargs):
  del args, kwargs
  raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


if __name__ == "__main__":
  cache, model_dir, train_steps, devices, *others = sys.argv[1:]
  jax.config.update("jax_num_cpu_devices", int(devices))
  console_logging.set_up()
  flags.FLAGS([sys.argv[0], "--run_mode=train", *others])
  with main._joined_processes():
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
    train.run(
      toy_run.make_run(model_dir, int(train_steps)),
      operative_config=f"TRAIN_STEPS = {train_steps}\n",
    )
