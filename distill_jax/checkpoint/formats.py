"""Any checkpoint, whatever program wrote it: found, opened, loaded.

Layer 2; imports the formats beside it and manager. `INITIAL_CHECKPOINT_PATH`,
`eval`, `infer` and `distill-jax-convert` start here.
"""

import pathlib
from typing import Any

import jax
import numpy as np
from flax import traverse_util

from distill_jax.checkpoint import (
  hf,
  manager,
  orbax_params,
  t5x,
  zarr_arrays,
)
from distill_jax.checkpoint.stored_model import (
  LazyTensor,
  StoredModel,
  check_tensors,
  flatten_params,
)
from distill_jax.errors import UserError

PyTree = Any


def open_checkpoint(path: str | pathlib.Path) -> StoredModel:
  """Opens a checkpoint for reading; its files tell the format.

  Args:
    path: one of
      a run's MODEL_DIR (its best checkpoint, or the newest where none was
      evaluated), or a checkpoint of it, `.../checkpoints/300`;
      what `distill-jax-convert` wrote;
      a Hugging Face folder;
      a T5X checkpoint of any form, or the MODEL_DIR of a T5X run (its newest);
      the last two but Hugging Face's also as gs:// URLs.

  Returns:
    The model; no tensor is read yet.

  Raises:
    UserError: there is none, or it is damaged.
  """
  path = zarr_arrays.normalize(path)
  if orbax_params.is_orbax(path):
    return orbax_params.open_orbax(path)
  if t5x.is_t5x(path):
    return t5x.open_t5x(path)
  if path.startswith("gs://"):
    raise UserError(
      f"There is no T5X or Orbax checkpoint at {path}, or it may not be read."
      " Give the folder checkpoint_<step> itself."
    )
  folder = pathlib.Path(path)
  if hf.is_hf(folder):
    return hf.open_hf(folder)
  steps = _list_t5x_steps(folder)
  if steps:
    return open_checkpoint(folder / f"{t5x.FOLDER}{max(steps)}")
  return orbax_params.open_orbax(manager.find_checkpoint(folder))


def load_params(stored: StoredModel, abstract_params: PyTree) -> PyTree:
  """Reads the parameters onto their devices, a tensor at a time.

  Every device gets the part its sharding names, and only that part is read
  where the format allows.

  Args:
    stored: the checkpoint.
    abstract_params: tree of `jax.ShapeDtypeStruct` with shardings.

  Returns:
    The tree of arrays.

  Raises:
    UserError: a tensor is missing, unexpected or of another shape, or a file
      is damaged.
  """
  wanted = flatten_params(abstract_params)
  check_tensors(stored, {name: leaf.shape for name, leaf in wanted.items()})
  loaded = {
    name: _load_tensor(stored.tensors[name], leaf)
    for name, leaf in wanted.items()
  }
  return traverse_util.unflatten_dict(loaded, sep="/")


def _load_tensor(tensor: LazyTensor, leaf: jax.ShapeDtypeStruct) -> jax.Array:
  def read(index) -> np.ndarray:
    return tensor.read(index).astype(leaf.dtype, copy=False)

  return jax.make_array_from_callback(leaf.shape, leaf.sharding, read)


def _list_t5x_steps(folder: pathlib.Path) -> list[int]:
  names = [child.name for child in folder.glob(f"{t5x.FOLDER}*")]
  steps = [name.removeprefix(t5x.FOLDER) for name in names]
  return [int(step) for step in steps if step.isdigit()]
