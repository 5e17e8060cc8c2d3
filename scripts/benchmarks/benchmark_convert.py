"""Measures a conversion's time and memory on a checkpoint of a model's shape.

  python scripts/benchmarks/benchmark_convert.py \\
    --gin_file=gin/models/t5_1_1/xl.gin \\
    --folder=/tmp/xl

Writes random weights as a Hugging Face folder in bfloat16, converts that to
Orbax, T5X and Hugging Face again in float32, each in a process of its own,
and prints a JSON object for each. Needs the room of four copies; what it wrote
is removed at the end.
"""

import argparse
import json
import math
import os
import pathlib
import platform
import shutil
import subprocess
import sys
import time

import ml_dtypes
import numpy as np

import gin
from distill_jax.checkpoint import formats, hf
from distill_jax.checkpoint.stored_model import LazyTensor, flatten_params
from distill_jax.config import gin_bindings
from distill_jax.model.t5.config import T5Config
from distill_jax.model.t5.t5 import T5
from distill_jax.training import state as state_lib


def make_tensors(config: T5Config) -> dict[str, LazyTensor]:
  """Returns random weights, made when they are read."""
  abstract, _ = state_lib.abstract_params(T5(config))

  def make(name: str, number: int, shape: tuple[int, ...]) -> LazyTensor:
    def read(index) -> np.ndarray:
      rng = np.random.default_rng(number)
      return rng.standard_normal(math.prod(shape), np.float32).reshape(shape)[
        index
      ]

    return LazyTensor(name, shape, np.dtype(np.float32), read)

  leaves = flatten_params(abstract)
  return {
    name: make(name, number, leaf.shape)
    for number, (name, leaf) in enumerate(leaves.items())
  }


def main() -> None:
  """Makes the checkpoint, converts it, reports."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("--gin_file", default="gin/models/t5_1_1/small.gin")
  parser.add_argument("--folder", required=True, help="made, then removed")
  parser.add_argument(
    "--only_make", action="store_true", help="write the checkpoint, no more"
  )
  arguments = parser.parse_args()
  root = str(pathlib.Path(__file__).parents[2])
  gin_bindings.parse([arguments.gin_file], [], [os.getcwd(), root])
  config = gin.get_configurable(T5Config)()
  folder = pathlib.Path(arguments.folder)
  if arguments.only_make:
    tensors = make_tensors(config)
    hf.write_hf(folder, config, tensors, np.dtype(ml_dtypes.bfloat16))
    return
  folder.mkdir(parents=True)
  try:
    source = folder / "hf"
    source.mkdir()
    # In a process of its own: a child's peak memory begins at its parent's.
    subprocess.run(
      [sys.executable, __file__, "--only_make", f"--folder={source}",
       f"--gin_file={arguments.gin_file}"],
      check=True,
    )  # fmt: skip
    stored = formats.open_checkpoint(source)
    num_params = sum(
      math.prod(tensor.shape) for tensor in stored.tensors.values()
    )
    for there in ("orbax", "t5x", "hf"):
      destination = folder / f"to_{there}"
      started = time.perf_counter()
      process = subprocess.Popen(
        [sys.executable, "-m", "distill_jax.runs.convert", f"--to={there}",
         str(source), str(destination)]
      )  # fmt: skip
      _, status, usage = os.wait4(process.pid, 0)
      seconds = time.perf_counter() - started
      if status:
        sys.exit(f"The conversion to {there} failed.")
      report = {
        "model": arguments.gin_file,
        "num_params": num_params,
        "machine": f"{platform.machine()}, {os.cpu_count()} CPUs",
        "from": "hf bfloat16",
        "to": f"{there} float32",
        "seconds": round(seconds, 1),
        "peak_gigabytes": round(usage.ru_maxrss * 1024 / 1e9, 2),
      }
      print(json.dumps(report), flush=True)
      shutil.rmtree(destination)
  finally:
    shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
  main()
