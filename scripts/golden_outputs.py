"""Reads what golden runs write, as JSON that another run repeats."""

import hashlib
import json
import os
import pathlib
import re
from typing import Any

# Clock and machine decide these, and of the token cache the source files.
UNREPEATABLE = re.compile(
  r".*_per_second|.*seconds.*|latency.*|checkpoint|token_cache"
)


def hash_bytes(data: bytes) -> str:
  """Returns the SHA-256, in hexadecimal digits."""
  return hashlib.sha256(data).hexdigest()


def keep_repeatable(value: Any) -> Any:
  """Leaves out of JSON what another run on the same machine has otherwise."""
  if isinstance(value, dict):
    return {
      name: keep_repeatable(field)
      for name, field in value.items()
      if not UNREPEATABLE.fullmatch(name)
    }
  if isinstance(value, list):
    return [keep_repeatable(field) for field in value]
  return value


def read_rows(path: pathlib.Path) -> list[Any]:
  """Reads JSON lines."""
  lines = path.read_text(encoding="utf-8").splitlines()
  return [keep_repeatable(json.loads(line)) for line in lines]


def write_state(checkpoint: str, path: str) -> None:
  """Writes what a checkpoint's arrays hash to, whatever they are called.

  Args:
    checkpoint: the folder of a step.
    path: of the JSON list, in order of type, shape and hash.
  """
  os.environ["JAX_PLATFORMS"] = "cpu"
  import jax
  import numpy as np
  import orbax.checkpoint as ocp

  reader = ocp.PyTreeCheckpointer()
  folder = pathlib.Path(checkpoint) / "state"
  tree = reader.metadata(folder).item_metadata.tree
  as_numpy = ocp.RestoreArgs(restore_type=np.ndarray)
  state = reader.restore(
    folder, restore_args=jax.tree.map(lambda _: as_numpy, tree)
  )
  arrays = [np.asarray(leaf) for leaf in jax.tree.leaves(state)]
  described = [
    f"{array.dtype} {array.shape} {hash_bytes(array.tobytes())}"
    for array in arrays
  ]
  pathlib.Path(path).write_text(json.dumps(sorted(described)))


def read_tensors(path: pathlib.Path) -> dict[str, str]:
  """Returns type, shape and hash of each tensor of a safetensors file."""
  data = path.read_bytes()
  start = 8 + int.from_bytes(data[:8], "little")
  header = json.loads(data[8:start])
  header.pop("__metadata__", None)
  described = {}
  for name, entry in sorted(header.items()):
    first, last = (start + offset for offset in entry["data_offsets"])
    hashed = hash_bytes(data[first:last])
    described[name] = f"{entry['dtype']} {entry['shape']} {hashed}"
  return described
