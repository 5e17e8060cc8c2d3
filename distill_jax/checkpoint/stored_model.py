"""A model as some file format keeps it: tensors by name, not yet read.

What the formats share: names are our parameters' paths,
"encoder/layers_0/mlp/wo/kernel", layouts are ours, and a tensor is read when
asked, a slice at a time if need be, so that converting or sharding an 11B model
needs memory for a few tensors only. Whether the layers of a stack are scanned
is no property of a stored model: it always has every layer's tensors apart.
"""

import dataclasses
import logging
import pathlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import ml_dtypes
import numpy as np
from flax import traverse_util

from distill_jax.errors import UserError
from distill_jax.model.config import ModelConfig
from distill_jax.model.layers import layer_stack
from distill_jax.model.layers.layer_config import MAX_LAYERS

# What indexes a whole tensor, or the part of it a device holds.
Index = tuple[slice, ...]

_LAYER = re.compile(r"(encoder|decoder)/layers_(\d+)/(.+)")
_MAX_SHOWN = 8
# Of a tensor's numbers, those that may become 0 without a word.
_MAX_LOST = 0.001
FLOATS = {
  "float64": np.dtype(np.float64),
  "float32": np.dtype(np.float32),
  "float16": np.dtype(np.float16),
  "bfloat16": np.dtype(ml_dtypes.bfloat16),
}
_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class LazyTensor:
  """One tensor of a file, in our layout.

  Attributes:
    stored_name: its name in the file, for messages.
    shape: in our layout, which may be the transpose of the file's.
    dtype: as stored.
    read_fn: reads the part that an index names.
    stacked: the tensor of all layers that this is one layer of, if any.
  """

  stored_name: str
  shape: tuple[int, ...]
  dtype: np.dtype
  read_fn: Callable[[Index], np.ndarray]
  stacked: "LazyTensor | None" = None

  def read(self, index: Index | None = None) -> np.ndarray:
    """Reads the tensor, or a part of it.

    Args:
      index: a slice a dimension; None: all of it.

    Returns:
      The array, dtype as stored.

    Raises:
      UserError: the file is damaged.
    """
    return self.read_fn(index or (slice(None),) * len(self.shape))

  def read_as(self, dtype: np.dtype, index: Index | None = None) -> np.ndarray:
    """Reads the tensor, or a part of it, as another type.

    Args:
      dtype: of the array returned.
      index: as for `read`.

    Raises:
      UserError: the file is damaged; a number is not finite, or too large for
        `dtype`.
    """
    value = self.read(index)
    dtype = np.dtype(dtype)
    num_broken = value.size - np.count_nonzero(np.isfinite(value))
    if num_broken:
      raise UserError(
        f"Tensor {self.stored_name} holds {num_broken} numbers of {value.size}"
        " that are NaN or infinite. The checkpoint is broken, or its training"
        " diverged; take an earlier one."
      )
    if value.dtype == dtype:
      return value
    with np.errstate(over="ignore", under="ignore"):
      cast = value.astype(dtype)
    if np.any(np.isinf(cast)):
      largest = np.max(np.abs(value.astype(np.float64)))
      raise UserError(
        f"Tensor {self.stored_name} has numbers too large for {dtype}; the"
        f" largest is {largest:.4g}. Choose another dtype, such as bfloat16 or"
        " float32."
      )
    if _tiny(dtype) > _tiny(value.dtype):
      num_lost = np.count_nonzero(value) - np.count_nonzero(cast)
      if num_lost > _MAX_LOST * value.size:
        _log.warning(
          "Tensor %s: %d numbers of %d are too small for %s and become 0."
          " Choose another dtype, such as bfloat16 or float32.",
          self.stored_name,
          num_lost,
          value.size,
          dtype,
        )
    return cast

  @property
  def num_bytes(self) -> int:
    """Bytes it takes as stored."""
    return int(np.prod(self.shape, dtype=np.int64)) * self.dtype.itemsize


@dataclasses.dataclass(frozen=True)
class StoredModel:
  """A checkpoint opened for reading.

  Attributes:
    file_format: "orbax", "hf" or "t5x".
    path: where it lies, as text; may be a gs:// URL.
    config: the architecture, stated by the checkpoint or read off its shapes.
    tensors: by our parameter path.
    ignored: stored names of parameters that copy others or that no model
      reads.
      Optimizer state is not looked at.
    vocabulary_path: sentencepiece model found with it; None: none.
    uses_bytes: its vocabulary is ByT5's bytes.
  """

  file_format: str
  path: str
  config: ModelConfig
  tensors: Mapping[str, LazyTensor]
  ignored: tuple[str, ...] = ()
  vocabulary_path: pathlib.Path | None = None
  uses_bytes: bool = False

  def list_differences(self, config: ModelConfig) -> list[str]:
    """Lists how a model of these shapes computes something else.

    Args:
      config: of the model that takes the weights.

    Returns:
      "NAME is A in the checkpoint and B in the model", of what no shape shows.
    """
    if type(config) is not type(self.config):
      return []  # Shapes tell.
    return [
      f"{name} is {theirs!r} in the checkpoint and {ours!r} in the model"
      for name in config.hidden_fields
      if (theirs := getattr(self.config, name))
      != (ours := getattr(config, name))
    ]

  def describe(self) -> str:
    """One line: format, place, number of tensors and of parameters."""
    num_params = sum(
      int(np.prod(tensor.shape, dtype=np.int64))
      for tensor in self.tensors.values()
    )
    ignored = f", {len(self.ignored)} ignored" if self.ignored else ""
    return (
      f"{self.file_format} checkpoint {self.path}: {len(self.tensors)} tensors,"
      f" {num_params:,} parameters{ignored}"
    )


def _tiny(dtype: np.dtype) -> float:
  return float(ml_dtypes.finfo(dtype).smallest_normal)


def flatten_params(tree: Any) -> dict[str, Any]:
  """Returns the leaves of a parameter tree by path, "encoder/layers_0/...".

  Args:
    tree: nested dictionaries.
  """
  return dict(traverse_util.flatten_dict(tree, sep="/"))


def unstack_layers(
  tensors: Mapping[str, LazyTensor],
) -> dict[str, LazyTensor]:
  """Takes the layers of scanned stacks apart; leaves all else as it is.

  `encoder/encoder/mlp/wo/kernel` [mlp, layers, embed] becomes
  `encoder/layers_<i>/mlp/wo/kernel` [mlp, embed].

  Args:
    tensors: by path.
  """
  unstacked = {}
  for name, tensor in tensors.items():
    parts = name.split("/")
    if (
      not layer_stack.is_scanned(parts)
      or len(tensor.shape) <= layer_stack.SCAN_AXIS
      or tensor.shape[layer_stack.SCAN_AXIS] > MAX_LAYERS
    ):
      unstacked[name] = tensor
      continue
    rest = "/".join(parts[2:])
    for layer in range(tensor.shape[layer_stack.SCAN_AXIS]):
      unstacked[f"{parts[0]}/layers_{layer}/{rest}"] = _select_layer(
        tensor, layer
      )
  return unstacked


def group_by_array(
  tensors: Mapping[str, LazyTensor],
) -> Iterator[dict[str, LazyTensor]]:
  """Yields all tensors, the layers of one stored array together.

  A layer is a thin slice through every chunk of the array that holds all of
  them, so each chunk would be read and decompressed once a layer. Those that
  are yielded together read each part of their array once, all layers of it,
  and hold it as long as they live: drop them before taking the next.

  Args:
    tensors: by path.
  """
  groups: dict[int, list[str]] = {}
  for name, tensor in tensors.items():
    groups.setdefault(id(tensor.stacked or tensor), []).append(name)
  for names in groups.values():
    array = tensors[names[0]].stacked
    found = None if array is None else _LAYER.fullmatch(names[0])
    if array is None or found is None:
      yield {name: tensors[name] for name in names}
      continue
    stack, _, rest = found.groups()
    held = unstack_layers({f"{stack}/{stack}/{rest}": _hold_layers(array)})
    yield {name: held[name] for name in names}


def _hold_layers(stacked: LazyTensor) -> LazyTensor:
  """Returns a tensor that keeps all layers of each part it read."""
  axis = layer_stack.SCAN_AXIS
  parts: dict[tuple[tuple[int | None, int | None], ...], np.ndarray] = {}

  def read(index: Index) -> np.ndarray:
    whole = (*index[:axis], slice(None), *index[axis + 1 :])
    key = tuple((part.start, part.stop) for part in whole)
    if key not in parts:
      parts[key] = stacked.read(whole)
    within = (slice(None),) * axis
    return parts[key][(*within, index[axis])]

  return dataclasses.replace(stacked, read_fn=read)


def stack_layers(tensors: Mapping[str, LazyTensor]) -> dict[str, LazyTensor]:
  """Joins the tensors of layers as a scan has them: undoes `unstack_layers`.

  Layers whose numbers have gaps or whose shapes differ stay apart.

  Args:
    tensors: by path.
  """
  stacked = dict(tensors)
  layers: dict[str, dict[int, LazyTensor]] = {}
  for name, tensor in tensors.items():
    if found := _LAYER.fullmatch(name):
      stack, layer, rest = found.groups()
      joined_name = f"{stack}/{stack}/{rest}"
      layers.setdefault(joined_name, {})[int(layer)] = tensor
  for name, by_number in layers.items():
    parts = [by_number[number] for number in sorted(by_number)]
    has_gaps = sorted(by_number) != list(range(len(parts)))
    if has_gaps or len({(part.shape, part.dtype) for part in parts}) > 1:
      continue
    stack, _, rest = name.split("/", 2)
    for number in by_number:
      del stacked[f"{stack}/layers_{number}/{rest}"]
    stacked[name] = _join_layers(parts)
  return stacked


def _select_layer(stacked: LazyTensor, layer: int) -> LazyTensor:
  axis = layer_stack.SCAN_AXIS

  def read(index: Index) -> np.ndarray:
    one = slice(layer, layer + 1)
    whole = stacked.read((*index[:axis], one, *index[axis:]))
    return np.squeeze(whole, axis=axis)

  return LazyTensor(
    f"{stacked.stored_name}[layer {layer}]",
    stacked.shape[:axis] + stacked.shape[axis + 1 :],
    stacked.dtype,
    read,
    stacked=stacked,
  )


def _join_layers(parts: Sequence[LazyTensor]) -> LazyTensor:
  axis = layer_stack.SCAN_AXIS
  source = parts[0].stacked
  # All layers of one stored array are that array: read at once, not a layer at
  # a time.
  if (
    source is not None
    and source.shape[axis] == len(parts)
    and all(part.stacked is source for part in parts)
  ):
    return source

  def read(index: Index) -> np.ndarray:
    within = (*index[:axis], *index[axis + 1 :])
    return np.stack([part.read(within) for part in parts[index[axis]]], axis)

  shape = parts[0].shape
  return LazyTensor(
    f"{parts[0].stored_name} and {len(parts) - 1} more",
    (*shape[:axis], len(parts), *shape[axis:]),
    parts[0].dtype,
    read,
  )


def check_tensors(
  stored: StoredModel, wanted: Mapping[str, tuple[int, ...]]
) -> None:
  """Checks names and shapes before anything is read.

  Args:
    stored: the checkpoint.
    wanted: shape of every parameter of the model, by path.

  Raises:
    UserError: a tensor is not of floats; or counts those that are missing,
      unexpected or of another shape, and names the first with both shapes.
  """
  for name, tensor in stored.tensors.items():
    if tensor.dtype not in FLOATS.values():
      raise UserError(
        f"The {stored.file_format} checkpoint {stored.path} holds {name}"
        f" ({tensor.stored_name}) as {tensor.dtype}; weights are"
        f" {', '.join(FLOATS)}."
      )
  found = {name: tensor.shape for name, tensor in stored.tensors.items()}
  missing = sorted(wanted.keys() - found.keys())
  unexpected = sorted(found.keys() - wanted.keys())
  differing = sorted(
    name for name in wanted.keys() & found.keys() if wanted[name] != found[name]
  )
  if not missing and not unexpected and not differing:
    return
  problems = [
    f"{name} ({stored.tensors[name].stored_name}): shape found {found[name]},"
    f" expected {wanted[name]}"
    for name in differing
  ]
  problems += [f"{name}: missing, expected {wanted[name]}" for name in missing]
  problems += [
    f"{name} ({stored.tensors[name].stored_name}): unexpected, shape"
    f" {found[name]}"
    for name in unexpected
  ]
  if len(problems) > _MAX_SHOWN:
    problems[_MAX_SHOWN:] = [f"... and {len(problems) - _MAX_SHOWN} more"]
  shown = "\n  ".join(problems)
  raise UserError(
    f"The {stored.file_format} checkpoint {stored.path} does not fit the model:"
    f" {len(differing)} tensors of another shape, {len(missing)} missing,"
    f" {len(unexpected)} unexpected.\n  {shown}\nThe checkpoint is a"
    f" {stored.config.describe()}. Give the gin file of that model, or"
    " another checkpoint."
  )
