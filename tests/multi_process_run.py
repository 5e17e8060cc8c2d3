"""A training run on made-up tokens as one process of several.

python multi_process_run.py CACHE MODEL_DIR TRAIN_STEPS DEVICES FLAGS

DEVICES is how many this process has, FLAGS are those of `distill_jax.main`. A
CACHE that is not that of process 0 stands for another host's disk.
"""

import pathlib
import sys

import jax
import toy_run
from absl import flags

from distill_jax import main, prepare, train
from distill_jax.config import console_logging
from distill_jax.data import token_cache

if __name__ == "__main__":
  cache, model_dir, train_steps, devices, *others = sys.argv[1:]
  jax.config.update("jax_num_cpu_devices", int(devices))
  console_logging.set_up()
  flags.FLAGS([sys.argv[0], "--run_mode=train", *others])
  with main._joined_processes():
    (path,) = token_cache.list_caches(pathlib.Path(cache), "toy_distill")
    own = token_cache.TokenCache(path)
    prepare.find_for_all = lambda *_: own
    train.run(
      toy_run.make_run(model_dir, int(train_steps)),
      operative_config=f"TRAIN_STEPS = {train_steps}\n",
    )
