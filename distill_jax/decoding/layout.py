"""Where the decoder's parameters lie while it decodes.

Training divides parameters over `fsdp` and gathers each layer's when it needs
them. Decoding needs all of the decoder at every token, so the decoder is laid
out otherwise first, once for each set of parameters:

- "replicated": along `fsdp` every device has a copy. Rows are divided as in
  training, and each device computes what it did with gathered parameters. A
  token reads `fsdp` times as many bytes of parameters.
- "split": `fsdp` divides the same axes as `model` does. It takes no more memory
  than training's layout, and a token reads no more; activations are summed over
  both axes, which rounds otherwise, and rows are divided over `data` only.
- "as_trained": nothing moves, and every token gathers the decoder.

The encoder runs once a batch and stays as training has it.
"""

import dataclasses
import logging
import weakref
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import AbstractMesh, Mesh

from distill_jax.errors import UserError
from distill_jax.model.t5.t5 import T5
from distill_jax.partitioning import axes, chips, sharding

_log = logging.getLogger(__name__)

PyTree = Any
AUTO, REPLICATED, SPLIT = "auto", "replicated", "split"
AS_TRAINED = "as_trained"
LAYOUTS = (AUTO, REPLICATED, SPLIT, AS_TRAINED)

# The modules of the model that decoding calls for every token.
_MODULES = ("decoder", "token_embedder")
# Of a device's memory, for a copy of the decoder. Chips read all of their
# memory in 20 to 40 ms, so in bfloat16 an eighth takes one or two ms a token:
# about what splitting adds, a few us for each of its sums, some 70 in a large
# model.
_SHARE = 1 / 8
# Where the decoder cannot be split, and the alternative is gathering it.
_SHARE_UNSPLIT = 1 / 4


def check(name: str) -> None:
  """Refuses what is no layout.

  Args:
    name: the setting's value.

  Raises:
    UserError: names the run files' macro.
  """
  if name not in LAYOUTS:
    raise UserError(
      f"DECODE_LAYOUT is {name!r}; it must be one of"
      f" {', '.join(map(repr, LAYOUTS))}."
    )


def choose(
  num_fsdp: int,
  replicated_bytes: int,
  memory_bytes: int | None,
  can_split: bool,
) -> str:
  """Chooses a layout for "auto".

  Args:
    num_fsdp: devices along `fsdp`.
    replicated_bytes: what a device would hold of the decoder's copy.
    memory_bytes: of a device; None: not known, and nothing is copied.
    can_split: whether `fsdp` and `model` together divide the decoder.

  Returns:
    "replicated" where the copy takes at most an eighth of the memory, else
    "split"; where that cannot be, "replicated" up to a quarter, else
    "as_trained". The last too where `fsdp` has one device.
  """
  if num_fsdp == 1:
    return AS_TRAINED
  share = _SHARE if can_split else _SHARE_UNSPLIT
  if memory_bytes is not None and replicated_bytes <= share * memory_bytes:
    return REPLICATED
  return SPLIT if can_split else AS_TRAINED


def find_memory(mesh: Mesh) -> int | None:
  """Returns the bytes of a device's memory, the same on every host.

  Args:
    mesh: the devices, one as large as another.

  Returns:
    What the chip has by its vendor's figures. Of another, what JAX takes of it
    where there is one process: what is free when a host starts may differ, and
    all must choose one layout. Else None.
  """
  device = mesh.devices.flat[0]
  chip = chips.find_chip(device.device_kind)
  if chip is not None:
    return chip.hbm_bytes // chip.devices_per_chip
  if jax.process_count() > 1:
    return None
  stats = device.memory_stats() or {}
  return stats.get("bytes_limit")


@dataclasses.dataclass(frozen=True)
class DecoderLayout:
  """How decoding has the decoder's parameters and activations.

  Attributes:
    name: one of `LAYOUTS`, "auto" decided.
    model: the model, bound to where activations lie in decoding.
    shardings: of the parameters that are laid out, {} of "as_trained".
  """

  name: str
  model: T5
  shardings: Mapping[str, PyTree]

  def select(self, params: PyTree) -> dict[str, PyTree]:
    """Returns the part of a parameter tree that is laid out.

    Args:
      params: a tree with the names of the model's parameters.
    """
    return {name: params[name] for name in self.shardings}

  def describe_params(self, params: PyTree) -> dict[str, PyTree] | None:
    """Returns the shapes of what is laid out, with their shardings.

    Args:
      params: shapes of the model's parameters.

    Returns:
      A tree of `jax.ShapeDtypeStruct`; None of "as_trained".
    """
    if not self.shardings:
      return None
    return sharding.with_shardings(self.select(params), dict(self.shardings))


def make_layout(
  requested: str,
  model: T5,
  mesh: Mesh | AbstractMesh,
  memory_bytes: int | None,
  describe_fn: Callable[[T5], tuple[PyTree, PyTree]],
) -> DecoderLayout:
  """Chooses a layout and builds it.

  Args:
    requested: one of `LAYOUTS`.
    model: the model, bound to the mesh as for training.
    mesh: the mesh.
    memory_bytes: of a device, see `find_memory`.
    describe_fn: returns the shapes of its parameters and the names of their
      axes; `training.state.abstract_params`.

  Raises:
    UserError: there is no such layout, or the decoder cannot be split.
  """
  check(requested)
  num_fsdp = mesh.shape[axes.FSDP]
  if num_fsdp == 1 or requested == AS_TRAINED:
    return DecoderLayout(AS_TRAINED, model, {})
  abstract_params, logical_axes = describe_fn(model)

  def shard(rules):
    return {
      name: sharding.shard_params(
        {name: logical_axes[name]}, {name: abstract_params[name]}, mesh, rules
      )[name]
      for name in _MODULES
    }

  replicated = shard(axes.REPLICATED_DECODER_PARAM_RULES)
  split = obstacle = None
  try:
    split = shard(axes.SPLIT_DECODER_PARAM_RULES)
  except UserError as error:
    obstacle = error
  replicated_bytes = _count_device_bytes(abstract_params, replicated)
  name = requested
  if name == AUTO:
    name = choose(
      num_fsdp, replicated_bytes, memory_bytes, can_split=split is not None
    )
  if name == AS_TRAINED:
    _log.warning(
      "Every token gathers the decoder's parameters, which fsdp divides: a copy"
      " on every device would take %.2f GiB%s, and they cannot be split: %s"
      " DECODE_LAYOUT = 'replicated' makes the copy all the same.",
      replicated_bytes / 2**30,
      ""
      if memory_bytes is None
      else f" of its {memory_bytes / 2**30:.1f}, more than a quarter",
      obstacle,
    )
    return DecoderLayout(AS_TRAINED, model, {})
  if name == REPLICATED:
    layout = DecoderLayout(REPLICATED, model, replicated)
  elif split is None:
    raise UserError(
      f"DECODE_LAYOUT is {SPLIT!r}, and the decoder cannot be split:"
      f" {obstacle} Or leave DECODE_LAYOUT at {AUTO!r}."
    ) from obstacle
  else:
    constrain_fn = sharding.make_constrain_fn(
      mesh, axes.SPLIT_DECODER_ACTIVATION_RULES
    )
    layout = DecoderLayout(SPLIT, T5(model.config, constrain_fn), split)
  _log.info(
    "Decoding has the decoder's parameters %s: %.2f GiB a device",
    {
      REPLICATED: "replicated along fsdp",
      SPLIT: "split over model and fsdp",
    }[name],
    _count_device_bytes(abstract_params, layout.shardings) / 2**30,
  )
  return layout


class DecoderParams:
  """Lays parameters out for decoding, once for each set of them.

  Holds one copy at a time, and none of what it was made from.
  """

  def __init__(self, layout: DecoderLayout):
    """Prepares; nothing is moved yet.

    Args:
      layout: where they go.
    """
    self._layout = layout
    self._move = jax.jit(lambda tree: tree, out_shardings=layout.shardings)
    self._sources: list[weakref.ref] = []
    self._params: PyTree = None

  def get(self, params: PyTree) -> PyTree:
    """Returns the decoder's part, laid out.

    Args:
      params: of the model.

    Returns:
      None where they stay as they are.
    """
    if not self._layout.shardings:
      return None
    selected = self._layout.select(params)
    leaves = jax.tree.leaves(selected)
    if not self._sources or any(
      source() is not leaf
      for source, leaf in zip(self._sources, leaves, strict=True)
    ):
      self.release()  # Before there are two copies.
      self._params = self._move(selected)
      self._sources = list(map(weakref.ref, leaves))
    return self._params

  def release(self) -> None:
    """Frees the memory of the copy."""
    self._params, self._sources = None, []


def _count_device_bytes(abstract_params, shardings) -> int:
  """Returns what one device holds of the parameters that have shardings."""
  return sum(
    int(np.prod(leaf_sharding.shard_shape(leaf.shape))) * leaf.dtype.itemsize
    for leaf, leaf_sharding in zip(
      jax.tree.leaves({name: abstract_params[name] for name in shardings}),
      jax.tree.leaves(dict(shardings)),
      strict=True,
    )
  )
