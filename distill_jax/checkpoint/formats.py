"""Any checkpoint, whatever program wrote it: found, opened, loaded.

`INITIAL_CHECKPOINT_PATH`, `eval`, `infer` and `distill-jax-convert` start here.
"""

import dataclasses
import logging
import pathlib
from typing import Any

import jax
import numpy as np
from flax import traverse_util

from distill_jax.checkpoint import (
  hf,
  hf_tokenizer,
  manager,
  orbax_params,
  t5x,
  zarr_arrays,
)
from distill_jax.checkpoint.stored_model import (
  Index,
  LazyTensor,
  StoredModel,
  check_tensors,
  flatten_params,
  group_by_array,
  stack_layers,
)
from distill_jax.errors import UserError
from distill_jax.model.layers import layer_stack

PyTree = Any
_FORMAT_NAMES = {
  "orbax": "a checkpoint of distill-jax in Orbax's form ('orbax')",
  "hf": "a Hugging Face folder ('hf')",
  "t5x": "a T5X checkpoint ('t5x')",
}
_log = logging.getLogger(__name__)


def open_checkpoint(
  path: str | pathlib.Path, file_format: str | None = None
) -> StoredModel:
  """Opens a checkpoint for reading; its files tell the format.

  Args:
    path: one of
      a run's MODEL_DIR (its best checkpoint, or the newest where none was
      evaluated), or a checkpoint of it, `.../checkpoints/300`;
      what `distill-jax-convert` wrote;
      a Hugging Face folder;
      a T5X checkpoint of any form, or the MODEL_DIR of a T5X run (its newest).
      A gs:// URL names the folder of an Orbax checkpoint, or a T5X checkpoint.
    file_format: "orbax", "hf" or "t5x", where it is known and another format's
      files lie there too; None: as the files tell.

  Returns:
    The model; no tensor is read yet.

  Raises:
    UserError: there is none, it is damaged, or of another format.
  """
  path = zarr_arrays.normalize(path)
  stored = _open_as(path, file_format)
  if file_format not in (None, stored.file_format):
    raise _explain_format(stored.path, stored.file_format, file_format)
  return stored


def _explain_format(
  path: str | pathlib.Path, found: str, file_format: str | None
) -> UserError:
  return UserError(
    f"{path} is {_FORMAT_NAMES[found]}, not {_FORMAT_NAMES[file_format or '']}."
    f" Give the form {found!r}, or none: the files tell."
  )


def _open_as(path: str, file_format: str | None) -> StoredModel:
  if path.startswith("gs://"):
    _log.info("Reading %s", path)
    if orbax_params.is_orbax(path):
      return orbax_params.open_orbax(path)
    if t5x.is_t5x(path):
      return t5x.open_t5x(path)
    raise UserError(
      f"There is no T5X or Orbax checkpoint at {path}, or it may not be read."
      " Give the folder checkpoint_<step> itself."
    )
  folder = pathlib.Path(path)
  try:
    if file_format in (None, "hf") and hf.is_hf(folder):
      return hf.open_hf(folder)
    if orbax_params.is_orbax(path):
      return _with_vocabulary(orbax_params.open_orbax(path))
    if folder.is_file() and hf.is_hf(folder.parent):
      raise UserError(
        f"{folder} is a file of a Hugging Face folder. Give the folder,"
        f" {folder.parent}."
      )
    if t5x.is_t5x(path):
      return _with_vocabulary(t5x.open_t5x(path))
    steps = _list_t5x_steps(folder)
  except (OSError, ValueError) as error:
    # A name too long, or no name at all.
    raise UserError(f"{path!r} cannot be read: {error}") from error
  if steps:
    return _open_as(str(folder / f"{t5x.FOLDER}{max(steps)}"), file_format)
  if hf.is_hf(folder):
    raise _explain_format(folder, "hf", file_format)
  weights = hf.find_weights(folder)
  if weights is not None:
    raise UserError(
      f"{folder} has {weights.name}, as a Hugging Face folder, but no"
      f" {hf.CONFIG}, which says what model it is. Copy or download it too."
    )
  return orbax_params.open_orbax(manager.find_checkpoint(folder))


def _with_vocabulary(stored: StoredModel) -> StoredModel:
  """Adds the vocabulary that was put beside a checkpoint, or above it."""
  if stored.vocabulary_path is not None or stored.uses_bytes:
    return stored
  folder = pathlib.Path(stored.path)
  vocabulary_path, uses_bytes = hf_tokenizer.find_vocabulary(
    folder, folder.parent
  )
  return dataclasses.replace(
    stored, vocabulary_path=vocabulary_path, uses_bytes=uses_bytes
  )


def load_params(stored: StoredModel, abstract_params: PyTree) -> PyTree:
  """Reads the parameters onto their devices, a tensor at a time.

  Every device gets the part its sharding names, and only that part is read
  where the format allows. The model may scan its layers or not, whatever the
  model that was stored did; layers stored in one array are read together.

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
  if any(layer_stack.is_scanned(name.split("/")) for name in wanted):
    stored = dataclasses.replace(stored, tensors=stack_layers(stored.tensors))
  check_tensors(stored, {name: leaf.shape for name, leaf in wanted.items()})
  loaded = {}
  for group in group_by_array(stored.tensors):
    loaded |= {
      name: _load_tensor(tensor, wanted[name]) for name, tensor in group.items()
    }
  return traverse_util.unflatten_dict(loaded, sep="/")


def _load_tensor(tensor: LazyTensor, leaf: jax.ShapeDtypeStruct) -> jax.Array:
  # Devices that hold the same part share one reading of it.
  parts: dict[tuple[tuple[int | None, int | None], ...], np.ndarray] = {}

  def read(index: Index | None) -> np.ndarray:
    assert index is not None
    key = tuple((part.start, part.stop) for part in index)
    if key not in parts:
      parts[key] = tensor.read_as(np.dtype(leaf.dtype), index)
    return parts[key]

  return jax.make_array_from_callback(leaf.shape, leaf.sharding, read)


def _list_t5x_steps(folder: pathlib.Path) -> list[int]:
  names = [child.name for child in folder.glob(f"{t5x.FOLDER}*")]
  steps = [name.removeprefix(t5x.FOLDER) for name in names]
  return [int(step) for step in steps if step.isdigit()]
