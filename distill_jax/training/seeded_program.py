"""Programs that draw: compiled once, for whatever seed.

A seed that is written into a program makes it another one, which is compiled
again for each seed.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, cast

import jax
import numpy as np
from jax.sharding import Sharding
from jaxtyping import Array

PyTree = Any


@dataclasses.dataclass(frozen=True)
class SeededProgram:
  """A jitted function with the seed it is called by.

  Attributes:
    jitted: takes the data of a key first, see `read_key`.
    seed: makes that key.
    placement: where the key lies, on all devices of the mesh.
  """

  jitted: Any
  seed: int
  placement: Sharding

  def __call__(self, *arguments: PyTree) -> PyTree:
    """Calls the function with the key and the arguments behind it."""
    return self.jitted(self._key_on_devices, *arguments)

  def lower(self, *arguments: PyTree) -> Any:
    """Returns `jax.stages.Lowered` of the arguments behind the key."""
    return self.jitted.lower(self._key_data, *arguments)

  def compile(self, *arguments: PyTree) -> "SeededProgram":
    """Returns the program compiled for such arguments; `jitted` is compiled."""
    lowered = self.jitted.lower(self._key_on_devices, *arguments)
    return dataclasses.replace(self, jitted=lowered.compile())

  def trace(self, *arguments: PyTree) -> Any:
    """Returns `jax.stages.Traced` of the arguments behind the key."""
    return self.jitted.trace(self._key_data, *arguments)

  @property
  def __wrapped__(self) -> Callable[..., PyTree]:
    """The function that was jitted, of the arguments behind the key."""
    return functools.partial(self.jitted.__wrapped__, self._key_data)

  @functools.cached_property
  def _key_data(self) -> np.ndarray:
    # Also while another function is traced.
    with jax.ensure_compile_time_eval():
      return np.asarray(jax.random.key_data(jax.random.key(self.seed)))

  def __post_init__(self):
    assert self._key_data.size  # Made before any loop begins.

  @functools.cached_property
  def _key_on_devices(self) -> Array:
    # Once: no step is to wait for the host.
    data = self._key_data
    if self.placement.is_fully_addressable:
      return jax.device_put(data, self.placement)
    return jax.make_array_from_callback(
      data.shape, self.placement, lambda index: data[index]
    )


def read_key(key_data: Array | np.ndarray) -> Array:
  """Returns the key that `SeededProgram` hands in, inside of the program."""
  return jax.random.wrap_key_data(cast(Array, key_data))


@dataclasses.dataclass(frozen=True)
class HashedTree:
  """A tree of hashable leaves, such as shardings, as the key of a cache.

  Attributes:
    leaves: of the tree.
    structure: its `PyTreeDef`.
  """

  leaves: tuple[Any, ...]
  structure: Any

  @classmethod
  def of(cls, tree: PyTree) -> "HashedTree":
    """Takes a tree apart."""
    leaves, structure = jax.tree.flatten(tree)
    return cls(tuple(leaves), structure)

  @property
  def tree(self) -> PyTree:
    """The tree."""
    return jax.tree.unflatten(self.structure, self.leaves)


# Of so many programs of a kind the process keeps what was compiled: a sweep has
# several arms, and each of its runs finds the programs of the one before.
keep_compiled: Callable[[Callable[..., Any]], Callable[..., Any]] = (
  functools.lru_cache(maxsize=32)
)
