"""The training state: what a step changes and a checkpoint holds.

Parameters are plain arrays here; their logical axis names, which the model
attaches as Flax metadata, live apart, so that optimizers never meet boxed
leaves.
"""

import functools
from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import optax
from jax.sharding import AbstractMesh, Mesh
from jaxtyping import Array, Int

from distill_jax.model import registry
from distill_jax.partitioning import sharding
from distill_jax.training import gpu_random, seeded_program

PyTree = Any


class TrainState(flax.struct.PyTreeNode):
  """Everything that a train step reads and writes.

  Attributes:
    step: updates made so far, int32 scalar.
    params: float32 parameters under T5X's names.
    opt_state: the optimizer's state.
  """

  step: Int[Array, ""] | Any
  params: PyTree
  opt_state: PyTree


def init_params(model: nn.Module, rng: Array) -> PyTree:
  """Initializes parameters, with their logical axes as Flax metadata.

  Args:
    model: a family's, see `model.registry`.
    rng: key.

  Returns:
    The tree of boxed parameters.
  """
  example = registry.find(model.config).layout.make_example()
  batch = jax.tree.map(jnp.asarray, example)
  return model.init(rng, batch, enable_dropout=False)["params"]


def abstract_params(model: nn.Module) -> tuple[PyTree, PyTree]:
  """Returns shapes and logical axes of the parameters; allocates nothing.

  Args:
    model: a family's, see `model.registry`.

  Returns:
    A tree of `jax.ShapeDtypeStruct` and a tree of tuples of axis names.

  Raises:
    ValueError: a parameter has no names.
  """
  # New trees each time, lest one caller change another's.
  shapes, logical_axes = _trace_params(model)
  is_names = lambda leaf: isinstance(leaf, tuple)
  return (
    jax.tree.map(lambda leaf: leaf, shapes),
    jax.tree.map(lambda leaf: leaf, logical_axes, is_leaf=is_names),
  )


@functools.lru_cache(maxsize=8)
def _trace_params(model: nn.Module) -> tuple[PyTree, PyTree]:
  boxed = jax.eval_shape(lambda: init_params(model, jax.random.key(0)))
  is_boxed = lambda leaf: isinstance(leaf, nn.LogicallyPartitioned)

  def read_names(path, leaf):
    if not is_boxed(leaf):
      where = jax.tree_util.keystr(path, simple=True, separator="/")
      raise ValueError(
        f"{where} {leaf.shape}: a parameter without logical axis names, which"
        " `model.parameter` gives"
      )
    return leaf.names

  logical_axes = jax.tree_util.tree_map_with_path(
    read_names, boxed, is_leaf=is_boxed
  )
  return nn.unbox(boxed), logical_axes


def shard_state(
  model: nn.Module,
  optimizer: optax.GradientTransformation,
  mesh: Mesh | AbstractMesh,
) -> tuple[TrainState, TrainState]:
  """Returns shapes and shardings of the state of a model on a mesh.

  Args:
    model: a family's, see `model.registry`.
    optimizer: the optimizer.
    mesh: the mesh.

  Returns:
    Two `TrainState`s: of `jax.ShapeDtypeStruct` and of `NamedSharding`.
  """
  params, logical_axes = abstract_params(model)
  opt_state = jax.eval_shape(optimizer.init, params)
  abstract = TrainState(jax.ShapeDtypeStruct((), jnp.int32), params, opt_state)
  param_shardings = sharding.shard_params(logical_axes, params, mesh)
  shardings = TrainState(
    sharding.replicated(mesh),
    param_shardings,
    sharding.shard_optimizer_state(opt_state, param_shardings, params),
  )
  return abstract, shardings


def jit_init(
  model: nn.Module,
  optimizer: optax.GradientTransformation,
  shardings: TrainState,
  seed: int,
) -> Any:
  """Returns the function of no arguments that `init_state` calls, jitted.

  So that it can be compiled where no device has to hold the state. Takes the
  arguments of `init_state`. Sets how GPUs draw, see
  `gpu_random.choose_lowering`.
  """
  mesh = jax.tree.leaves(shardings)[0].mesh
  gpu_random.choose_lowering(mesh)
  jitted = _jit_seeded_init(
    model, optimizer, seeded_program.HashedTree.of(shardings)
  )
  return seeded_program.SeededProgram(jitted, seed, sharding.replicated(mesh))


@seeded_program.keep_compiled
def _jit_seeded_init(
  model: nn.Module,
  optimizer: optax.GradientTransformation,
  shardings: seeded_program.HashedTree,
) -> Any:
  def init(key_data):
    key = seeded_program.read_key(key_data)
    params = nn.unbox(init_params(model, key))
    return TrainState(jnp.int32(0), params, optimizer.init(params))

  placement = sharding.replicated(shardings.leaves[0].mesh)
  return jax.jit(init, in_shardings=placement, out_shardings=shardings.tree)


def init_state(
  model: nn.Module,
  optimizer: optax.GradientTransformation,
  shardings: TrainState,
  seed: int,
) -> TrainState:
  """Initializes a state from scratch, each device making its own part.

  Sets how GPUs draw, see `jit_init`.

  Args:
    model: a family's, see `model.registry`.
    optimizer: the optimizer.
    shardings: see `shard_state`.
    seed: decides the parameters, whatever the mesh.
  """
  return jit_init(model, optimizer, shardings, seed)()


def count_params(params: PyTree) -> int:
  """Returns the number of parameters of a (possibly abstract) tree."""
  return sum(leaf.size for leaf in jax.tree.leaves(params))
