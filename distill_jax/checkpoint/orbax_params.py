"""Parameters in Orbax's form, ours and T5X's, read and written by the tensor.

Whole training states are `manager`'s. Both programs keep one Orbax tree in the
folder `state`; ours has the parameters under `params`, T5X under `target`.
"""

import asyncio
import contextlib
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from flax import traverse_util

from distill_jax.checkpoint import (
  hf_tokenizer,
  stated_config,
  t5x,
  zarr_arrays,
)
from distill_jax.checkpoint.stored_model import (
  LazyTensor,
  StoredModel,
  unstack_layers,
)
from distill_jax.errors import UserError
from distill_jax.model import registry
from distill_jax.model.config import ModelConfig
from distill_jax.run_folder import run_record

STATE = "state"
_OURS, _T5X = "params.", "target."
# A sharded restore reads chunks; each device would read a larger one whole.
_CHUNK_BYTES = 2**26


def is_orbax(path: str) -> bool:
  """Whether a path, as `zarr_arrays.normalize` returns it, is of this form."""
  if path.startswith("gs://"):
    return zarr_arrays.read_file(f"{path}/{STATE}", "_METADATA") is not None
  return (pathlib.Path(path) / STATE).is_dir()


def open_orbax(path: str | pathlib.Path) -> StoredModel:
  """Opens the parameters of an Orbax checkpoint for reading.

  Args:
    path: folder with `state` in it; local or gs://.

  Raises:
    UserError: there is none, it is damaged, or of no family.
  """
  path = zarr_arrays.normalize(path)
  arrays = zarr_arrays.ArrayFolder(f"{path}/{STATE}")
  names = arrays.list_names()
  for prefix in (_OURS, _T5X):
    tensors = {
      name.removeprefix(prefix).replace(".", "/"): arrays.open(name)
      for name in names
      if name.startswith(prefix)
    }
    if tensors and prefix == _T5X:
      return t5x.make_stored_model(
        path, tensors, stated_config.read_config(path)
      )
    if tensors:
      tensors = unstack_layers(tensors)
      config = _read_config(path)
      if config is None:
        shapes = {name: tensor.shape for name, tensor in tensors.items()}
        config = registry.infer_config(shapes, path)
      vocabulary_path, uses_bytes = _find_vocabulary(path)
      return StoredModel(
        "orbax",
        path,
        config.drop_run_settings(),
        tensors,
        (),
        vocabulary_path,
        uses_bytes,
      )
  raise UserError(
    f"{path}/{STATE} holds no parameters: no array under 'params' (ours) or"
    f" 'target' (T5X), but {', '.join(names[:4]) or 'none at all'}."
  )


def write_orbax(
  folder: pathlib.Path,
  config: ModelConfig,
  tensors: Mapping[str, LazyTensor],
  dtype: np.dtype,
) -> None:
  """Writes parameters as a checkpoint of ours, a tensor at a time.

  Args:
    folder: exists; `state` and `model_config.json` are made in it.
    config: the architecture.
    tensors: every parameter, by our path.
    dtype: to store.
  """
  stated_config.write_config(folder, config)
  tree = {"params": traverse_util.unflatten_dict(dict(tensors), sep="/")}
  registry = ocp.type_handlers.create_type_handler_registry(
    (LazyTensor, _LazyTensorHandler(dtype)),
    # Not used here, but Orbax warns where it is missing.
    (jax.Array, ocp.type_handlers.ArrayHandler()),
  )
  with contextlib.closing(
    ocp.Checkpointer(
      ocp.PyTreeCheckpointHandler(type_handler_registry=registry)
    )
  ) as checkpointer:
    checkpointer.save(
      epath.Path(folder / STATE),
      args=ocp.args.PyTreeSave(
        tree,
        save_args={
          "params": traverse_util.unflatten_dict(
            {
              name: ocp.SaveArgs(chunk_byte_size=_CHUNK_BYTES)
              for name in tensors
            },
            sep="/",
          )
        },
      ),
    )


def _read_config(path: str) -> ModelConfig | None:
  """Finds the architecture beside a converted checkpoint or in its run."""
  config = stated_config.read_config(path)
  if config is not None:
    return config
  if path.startswith("gs://"):
    return None
  record = run_record.read_record(pathlib.Path(path).parent.parent)
  if record is None:
    return None
  return registry.read_config(record.identity["model_config"])


def _find_vocabulary(path: str) -> tuple[pathlib.Path | None, bool]:
  """Returns the sentencepiece model, and whether it is ByT5's bytes."""
  if path.startswith("gs://"):
    return None, False
  found = hf_tokenizer.find_vocabulary(pathlib.Path(path))
  if found != (None, False):
    return found
  model_dir = pathlib.Path(path).parent.parent
  record = run_record.read_record(model_dir)
  if record is None:
    return None, False
  of_run = run_record.vocabulary_path(model_dir)
  return (pathlib.Path(of_run), False) if of_run else (None, True)


class _LazyTensorHandler(ocp.type_handlers.NumpyHandler):
  """Saves as Orbax saves NumPy arrays, each read only when its turn comes."""

  def __init__(self, dtype: np.dtype):
    super().__init__(deepcopy_host_arrays=False)
    self._dtype = dtype

  async def serialize(
    self,
    values: Sequence[Any],
    infos: Sequence[Any],
    args: Sequence[Any] | None = None,
  ) -> Sequence[Any]:
    """Writes one tensor after another; all are written when it returns."""
    args = args or [ocp.SaveArgs()] * len(values)
    for value, info, arg in zip(values, infos, args, strict=True):
      array = value.read_as(self._dtype)
      for future in await super().serialize([array], [info], [arg]):
        await asyncio.to_thread(future.result)
    return []
