"""T5X's checkpoints: both older forms, and the parameters in its Orbax form.

The older form, in which all public T5X checkpoints are, is a msgpack file
`checkpoint` whose large leaves stand for zarr folders beside it; a small model
may be that one file alone. Parameters lie under `target`, optimizer state is
left alone.

A msgpack leaf names its folder itself. That name is not followed: the folder's
name follows from the parameter's.
"""

import logging
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from flax import serialization, traverse_util

from distill_jax.checkpoint import stated_config, zarr_arrays
from distill_jax.checkpoint.stored_model import (
  LazyTensor,
  StoredModel,
  unstack_layers,
)
from distill_jax.errors import UserError
from distill_jax.model import registry
from distill_jax.model.config import ModelConfig

INDEX = "checkpoint"
FOLDER = "checkpoint_"
_TARGET = "target"
_MIN_DIM_SIZE_TO_FACTOR = 128
_log = logging.getLogger(__name__)


def open_t5x(path: str | pathlib.Path) -> StoredModel:
  """Opens a checkpoint of T5X's older form for reading.

  Args:
    path: folder `checkpoint_<step>`, its file `checkpoint`, or a checkpoint of
      a single file; local or gs://.

  Returns:
    The model; its architecture is read off the shapes where no file of ours
    beside it states it.

  Raises:
    UserError: there is none, it is damaged, or of no family.
  """
  path = zarr_arrays.normalize(path)
  folder, content = _read_index(path)
  try:
    restored = serialization.msgpack_restore(content)
    target = restored["optimizer"][_TARGET]
    leaves = traverse_util.flatten_dict(target, sep="/", is_leaf=_is_leaf)
  # Whatever is not msgpack, or not T5X's, fails in its own way.
  except Exception as error:
    raise UserError(
      f"{path} is no T5X checkpoint: a msgpack file with optimizer/{_TARGET}"
      f" was expected. What was found: {str(error)[:200]}"
    ) from error
  arrays = zarr_arrays.ArrayFolder(folder)
  # What lies beside a checkpoint of a single file may be another's.
  is_alone = path not in (folder, f"{folder}/{INDEX}")
  return make_stored_model(
    path,
    {name: _open_leaf(arrays, name, leaf) for name, leaf in leaves.items()},
    None if is_alone else stated_config.read_config(folder),
  )


def make_stored_model(
  path: str,
  tensors: Mapping[str, LazyTensor],
  config: ModelConfig | None = None,
) -> StoredModel:
  """Wraps the parameters of a T5X checkpoint, whichever form it has.

  Args:
    path: of the checkpoint.
    tensors: by T5X's parameter path, which is ours unless layers are scanned.
    config: the architecture, where a file states it; None: the shapes tell.

  Raises:
    UserError: these are of no family.
  """
  unscanned = unstack_layers(tensors)
  if config is None:
    shapes = {name: tensor.shape for name, tensor in unscanned.items()}
    config = registry.infer_config(shapes, path)
    _log.info(
      "%s does not state its architecture. What its shapes leave open is taken"
      " as %s has it: %s.",
      path,
      type(config).__name__,
      ", ".join(
        f"{name} {getattr(config, name)}"
        for name in (*config.hidden_fields, "dropout_rate")
        if hasattr(config, name)
      ),
    )
  return StoredModel("t5x", path, config.drop_run_settings(), unscanned)


def write_t5x(
  folder: pathlib.Path,
  tensors: Mapping[str, LazyTensor],
  dtype: np.dtype,
  config: ModelConfig | None = None,
) -> None:
  """Writes a checkpoint that T5X starts from, of its older form.

  T5X restores optimizer state too unless told otherwise, so that of a fresh
  Adafactor is written, and takes no folder by another name.

  Args:
    folder: exists and is empty; `checkpoint_0` is made in it.
    tensors: every parameter, by our path.
    dtype: to store.
    config: the architecture, which T5X's files do not hold: it is written among
      them, where T5X does not look and we do; None: it is left to the shapes.
  """
  folder /= f"{FOLDER}0"
  folder.mkdir()
  if config is not None:
    stated_config.write_config(folder, config)
  target: dict[str, Any] = {}
  param_states: dict[str, Any] = {}
  for name, tensor in tensors.items():
    array_name = f"{_TARGET}.{name.replace('/', '.')}"
    value = np.ascontiguousarray(tensor.read_as(dtype))
    metadata = zarr_arrays.write_array(folder, array_name, value)
    target[name] = {
      "driver": "zarr",
      "dtype": dtype.name,
      "kvstore": {"driver": "file", "path": f"{array_name}/"},
      "metadata": {
        key: metadata[key] for key in ("chunks", "compressor", "shape")
      },
    }
    param_states[name] = _make_adafactor_state(tensor.shape)
  index = {
    "version": 3,
    "optimizer": {
      _TARGET: traverse_util.unflatten_dict(target, sep="/"),
      "state": {
        "step": np.int32(0),
        "param_states": traverse_util.unflatten_dict(param_states, sep="/"),
      },
    },
  }
  (folder / INDEX).write_bytes(serialization.msgpack_serialize(index))


def _make_adafactor_state(shape: tuple[int, ...]) -> dict[str, np.ndarray]:
  """Returns the statistics of a parameter before the first step.

  Source: T5X `adafactor.py`, `init_param_state`: two dimensions of at least 128
  are factored, the smaller one being the row, and what is not used has one
  element.
  """
  state: dict[str, np.ndarray] = {
    name: np.zeros(1, np.float32) for name in ("m", "v", "v_row", "v_col")
  }
  if len(shape) == 2 and min(shape) >= _MIN_DIM_SIZE_TO_FACTOR:
    smaller, larger = np.argsort(shape)
    state["v_row"] = np.zeros(shape[smaller], np.float32)
    state["v_col"] = np.zeros(shape[larger], np.float32)
  else:
    state["v"] = np.zeros(shape, np.float32)
  return state


def is_t5x(path: str) -> bool:
  """Whether a path, as `zarr_arrays.normalize` returns it, is of this form."""
  if path.startswith("gs://"):
    return any(
      zarr_arrays.read_file(*place) is not None
      for place in ((path, INDEX), tuple(path.rsplit("/", 1)))
    )
  local = pathlib.Path(path)
  return local.is_file() or (local / INDEX).is_file()


def _read_index(path: str) -> tuple[str, bytes]:
  """Returns the folder of the arrays and the msgpack file's bytes."""
  folder, name = path.rsplit("/", 1)
  for parent, file in ((path, INDEX), (folder, name)):
    if path.startswith("gs://") or (pathlib.Path(parent) / file).is_file():
      content = zarr_arrays.read_file(parent, file)
      if content is not None:
        return parent, content
  raise UserError(f"There is no T5X checkpoint at {path}.")


def _is_leaf(_: Any, value: Any) -> bool:
  """A TensorStore spec is a table too, but stands for one array."""
  return not isinstance(value, Mapping) or "driver" in value


def _open_leaf(
  arrays: zarr_arrays.ArrayFolder, name: str, leaf: Any
) -> LazyTensor:
  if isinstance(leaf, Mapping):
    return arrays.open(f"{_TARGET}.{name.replace('/', '.')}")
  value = np.asarray(leaf)
  return LazyTensor(
    f"{_TARGET}/{name}", value.shape, value.dtype, lambda index: value[index]
  )
