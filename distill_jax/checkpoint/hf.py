"""Hugging Face's folders: `config.json`, safetensors, `spiece.model`.

Nothing in a folder is executed or trusted: sizes are checked, an index may only
name files beside it, and pickles are left to `hf_pickle`.
"""

import itertools
import json
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy

from distill_jax.checkpoint import hf_pickle, hf_tokenizer
from distill_jax.checkpoint.stored_model import (
  FLOATS,
  Index,
  LazyTensor,
  StoredModel,
)
from distill_jax.errors import UserError
from distill_jax.model import registry
from distill_jax.model.config import ModelConfig
from distill_jax.model.hf_form import HFForm

CONFIG = "config.json"
_GENERATION_CONFIG = "generation_config.json"
_SAFETENSORS = ("model.safetensors", "model.safetensors.index.json")
_PICKLED = ("pytorch_model.bin", "pytorch_model.bin.index.json")

# safetensors' words for the types it stores.
_DTYPES = {
  "F64": "float64",
  "F32": "float32",
  "F16": "float16",
  "BF16": "bfloat16",
}


def is_hf(path: pathlib.Path) -> bool:
  """Whether a folder is Hugging Face's, by its `config.json`."""
  return (path / CONFIG).is_file()


def find_weights(path: pathlib.Path) -> pathlib.Path | None:
  """Returns the file of weights that a folder of Hugging Face's has, if any.

  Args:
    path: a folder, or nothing.
  """
  files = [path / name for name in (*_SAFETENSORS, *_PICKLED)]
  return next((file for file in files if file.is_file()), None)


def open_hf(path: str | pathlib.Path) -> StoredModel:
  """Opens a folder for reading; reads no tensor but where two must agree.

  Args:
    path: folder with `config.json` and `model.safetensors`, sharded or not, or
      `pytorch_model.bin`.

  Returns:
    The model, kernels transposed to ours on reading.

  Raises:
    UserError: a file is missing or damaged, or this is no model we can build.
  """
  folder = pathlib.Path(path).expanduser().absolute()
  hf_config = _read_json(folder / CONFIG)
  form = _find_form(hf_config, folder / CONFIG)
  form.check_config_fn(hf_config, folder / CONFIG)
  if (folder / _GENERATION_CONFIG).is_file():
    form.check_generation_fn(
      _read_json(folder / _GENERATION_CONFIG), folder / _GENERATION_CONFIG
    )
  config, files, ignored = form.read_fn(
    hf_config, _open_files(folder), folder / CONFIG
  )
  names = form.make_names_fn(config)
  tensors = {
    ours: _transpose(files[name]) if is_transposed else files[name]
    for ours, (name, is_transposed) in names.items()
    if name in files
  }
  unexpected = files.keys() - {name for name, _ in names.values()} - ignored
  tensors |= {name: files[name] for name in unexpected}
  return StoredModel(
    "hf",
    str(folder),
    config,
    tensors,
    tuple(sorted(ignored)),
    *hf_tokenizer.find_vocabulary(folder),
  )


def get_form(config: ModelConfig) -> HFForm:
  """Returns how Hugging Face's folders hold a model.

  Args:
    config: the architecture.

  Raises:
    UserError: they cannot.
  """
  family = registry.find(config)
  if family.hf is None:
    raise UserError(
      f"The family {family.name!r} has no form in Hugging Face's folders. Write"
      " --to=orbax instead."
    )
  return family.hf


def write_hf(
  folder: pathlib.Path,
  config: ModelConfig,
  tensors: Mapping[str, LazyTensor],
  dtype: np.dtype,
  shard_bytes: int = 2**30,
) -> None:
  """Writes a folder that transformers' `from_pretrained` reads.

  Args:
    folder: exists and is empty.
    config: the architecture.
    tensors: every parameter, by our path.
    dtype: to store; float32, float16 or bfloat16.
    shard_bytes: a file's size at most, unless one tensor is larger; so much is
      held in memory, twice.

  Raises:
    UserError: transformers has no such model.
  """
  form = get_form(config)
  hf_config = form.make_config_fn(config, dtype.name)
  (folder / CONFIG).write_text(json.dumps(hf_config, indent=2) + "\n")
  generation = {
    key: hf_config[key]
    for key in ("decoder_start_token_id", "eos_token_id", "pad_token_id")
    if key in hf_config
  }
  (folder / "generation_config.json").write_text(
    json.dumps(generation, indent=2) + "\n"
  )
  names = form.make_names_fn(config)
  shards: list[list[str]] = [[]]
  size = 0
  for ours in names:
    tensor_bytes = int(np.prod(tensors[ours].shape)) * dtype.itemsize
    if shards[-1] and size + tensor_bytes > shard_bytes:
      shards.append([])
      size = 0
    shards[-1].append(ours)
    size += tensor_bytes
  weight_map, total_bytes = {}, 0
  for number, shard in enumerate(shards, start=1):
    file = _SAFETENSORS[0]
    if len(shards) > 1:
      file = f"model-{number:05}-of-{len(shards):05}.safetensors"
    arrays = {}
    for ours in shard:
      name, is_transposed = names[ours]
      array = tensors[ours].read_as(dtype)
      arrays[name] = np.ascontiguousarray(array.T if is_transposed else array)
      weight_map[name] = file
      total_bytes += array.nbytes
    # transformers refuses files that do not say which library's they are.
    safetensors.numpy.save_file(arrays, folder / file, {"format": "pt"})
    # The library lets nobody else read it, whatever the umask.
    (folder / file).chmod((folder / CONFIG).stat().st_mode)
  if len(shards) > 1:
    index = {"metadata": {"total_size": total_bytes}, "weight_map": weight_map}
    (folder / _SAFETENSORS[1]).write_text(json.dumps(index, indent=2) + "\n")


def _find_form(hf_config: Mapping[str, Any], path: pathlib.Path) -> HFForm:
  """Returns the form of the family that a `config.json` states."""
  forms = [family.hf for family in registry.list_families() if family.hf]
  for form in forms:
    if form.find_type_fn(hf_config) is not None:
      return form
  known = itertools.chain.from_iterable(form.model_types for form in forms)
  raise UserError(
    f"{path}: model_type is {hf_config.get('model_type')!r}; known are"
    f" {', '.join(known)}."
  )


def _read_json(path: pathlib.Path) -> dict[str, Any]:
  try:
    content = json.loads(path.read_text(encoding="utf-8"))
  except (OSError, ValueError, RecursionError) as error:
    raise UserError(f"{path} cannot be read: {error}") from error
  if not isinstance(content, dict):
    raise UserError(f"{path} holds no JSON object.")
  return content


def _open_files(folder: pathlib.Path) -> dict[str, LazyTensor]:
  """Opens the weights' files, safetensors before pickles."""
  for (file, index), open_fn in (
    (_SAFETENSORS, _open_safetensors),
    (_PICKLED, hf_pickle.open_pickled),
  ):
    if (folder / file).is_file():
      return open_fn(folder / file)
    if (folder / index).is_file():
      return _open_shards(folder / index, open_fn)
  raise UserError(
    f"{folder} has none of {', '.join((*_SAFETENSORS, *_PICKLED))}. Weights for"
    " TensorFlow or Flax are not read; convert them with transformers."
  )


def _open_shards(
  index: pathlib.Path,
  open_fn: Callable[[pathlib.Path], dict[str, LazyTensor]],
) -> dict[str, LazyTensor]:
  weight_map = _read_json(index).get("weight_map")
  if not isinstance(weight_map, dict) or not weight_map:
    raise UserError(f"{index} has no weight_map.")
  shards = {}
  for file in sorted({str(file) for file in weight_map.values()}):
    if pathlib.PurePath(file).name != file or "\\" in file or "\0" in file:
      raise UserError(
        f"{index} names {file[:100]!r}, which is no file beside it."
      )
    try:
      is_there = (index.parent / file).is_file()
    except OSError:  # a name too long
      is_there = False
    if not is_there:
      raise UserError(
        f"The shard {file[:100]} that {index} names is missing. Copy or"
        " download it again."
      )
    shards[file] = open_fn(index.parent / file)
  # A shard may hold more; what counts is where the index says a tensor is.
  missing = sorted(
    name for name, file in weight_map.items() if name not in shards[str(file)]
  )
  if missing:
    raise UserError(
      f"{index} promises {len(missing)} tensors that their shards do not hold,"
      f" such as {missing[0]}."
    )
  return {name: shards[str(file)][name] for name, file in weight_map.items()}


def _open_safetensors(path: pathlib.Path) -> dict[str, LazyTensor]:
  """Maps a file's bytes: safetensors itself gives NumPy no bfloat16.

  The library checks the header first, offsets and file length included.
  """
  try:
    with safetensors.safe_open(path, "numpy") as file:
      names = list(file.keys())
    with open(path, "rb") as raw:
      header_bytes = int.from_bytes(raw.read(8), "little")
      header = json.loads(raw.read(header_bytes))
  except (OSError, safetensors.SafetensorError, ValueError) as error:
    raise UserError(
      f"{path} is damaged or no safetensors file: {error}. Copy or download it"
      " again."
    ) from error
  start = 8 + header_bytes
  return {name: _map_tensor(path, name, header[name], start) for name in names}


def _map_tensor(
  path: pathlib.Path, name: str, entry: Mapping[str, Any], start: int
) -> LazyTensor:
  dtype = FLOATS.get(_DTYPES.get(entry["dtype"], ""))
  if dtype is None:
    raise UserError(
      f"{path}: tensor {name} is {entry['dtype']}; read are"
      f" {', '.join(_DTYPES)}. Quantized weights must be restored first."
    )
  shape = tuple(entry["shape"])
  offset = start + entry["data_offsets"][0]

  def read(index: Index) -> np.ndarray:
    mapped = np.memmap(path, np.uint8, "r", offset, _num_bytes(shape, dtype))
    return np.array(mapped.view(dtype).reshape(shape)[index])

  return LazyTensor(name, shape, dtype, read)


def _num_bytes(shape: tuple[int, ...], dtype: np.dtype) -> int:
  return int(np.prod(shape, dtype=np.int64)) * dtype.itemsize


def _transpose(tensor: LazyTensor) -> LazyTensor:
  return LazyTensor(
    tensor.stored_name,
    tensor.shape[::-1],
    tensor.dtype,
    lambda index: tensor.read(index[::-1]).T,
  )
