"""Old `pytorch_model.bin` files, read by torch's weights-only loader.

A pickle is a program; that loader runs none of it but what makes tensors.
"""

import pathlib
import pickle
import re
import zipfile
from typing import Any

import numpy as np

from distill_jax.checkpoint.stored_model import FLOATS, Index, LazyTensor
from distill_jax.errors import UserError

# Before, a crafted file could get past the loader (CVE-2025-32434).
_SAFE_TORCH = (2, 6)


def open_pickled(path: pathlib.Path) -> dict[str, LazyTensor]:
  """Opens a `.bin` file of weights.

  Args:
    path: the file.

  Returns:
    Its tensors by name, in the file's layout.

  Raises:
    UserError: torch is missing or too old to be safe, or the file is damaged or
      holds more than dense floats.
  """
  try:
    import torch  # pyright: ignore[reportMissingImports]: the extra `hf`
  except ImportError as error:
    raise UserError(
      f"{path} is a pickle, which needs torch to be read: pip install"
      " 'distill_jax[hf]'. A folder with model.safetensors does not."
    ) from error
  if _read_version(torch.__version__) < _SAFE_TORCH:
    raise UserError(
      f"{path} is a pickle, and the weights-only loader of torch"
      f" {torch.__version__} can be made to run code. Install torch 2.6 or"
      " later, or use a folder with model.safetensors."
    )
  try:
    state = torch.load(
      path,
      map_location="cpu",
      weights_only=True,
      mmap=zipfile.is_zipfile(path),
    )
  except pickle.UnpicklingError as error:
    raise UserError(
      f"{path} holds more than weights, and nothing of it was run. What was"
      f" found: {str(error)[:300]}"
    ) from error
  # Each way of being damaged fails in its own way.
  except Exception as error:
    raise UserError(
      f"{path} is damaged: {str(error)[:300]}. Copy or download it again."
    ) from error
  if not isinstance(state, dict) or not all(
    isinstance(tensor, torch.Tensor) for tensor in state.values()
  ):
    raise UserError(f"{path} holds no table of tensors.")
  return {name: _wrap_torch(path, name, state[name]) for name in state}


def _wrap_torch(path: pathlib.Path, name: str, tensor: Any) -> LazyTensor:
  kind = str(tensor.dtype).removeprefix("torch.")
  layout = str(tensor.layout).removeprefix("torch.")
  dtype = FLOATS.get(kind)
  if dtype is None or layout != "strided" or tensor.is_meta:
    raise UserError(
      f"{path}: tensor {name} is {kind}, {layout}{', empty' * tensor.is_meta};"
      f" read are dense tensors of {', '.join(FLOATS)}."
    )
  tensor = tensor.detach()

  def read(index: Index) -> np.ndarray:
    part = tensor[index].contiguous()
    if kind == "bfloat16":  # NumPy knows no such torch dtype.
      import torch  # pyright: ignore[reportMissingImports]: the extra `hf`

      return part.view(torch.uint16).numpy().view(dtype).copy()
    return part.numpy().copy()

  return LazyTensor(name, tuple(tensor.shape), dtype, read)


def _read_version(version: str) -> tuple[int, int]:
  """Returns the first two numbers; (0, 0) where there are none."""
  found = re.match(r"(\d+)\.(\d+)", version)
  return (int(found[1]), int(found[2])) if found else (0, 0)
