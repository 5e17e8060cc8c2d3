"""The programs that training and decoding compile, lowered from shapes alone.

Nothing is allocated, on the host or elsewhere.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from jax.sharding import AbstractMesh, Mesh

from distill_jax.decoding import layout as layout_lib
from distill_jax.decoding.cache import start_decoding
from distill_jax.decoding.strategy import DecodingConfig, decode
from distill_jax.model import registry
from distill_jax.model.config import ModelConfig
from distill_jax.objective.objective import Objective
from distill_jax.partitioning import sharding
from distill_jax.training import state as state_lib
from distill_jax.training import step as step_lib

PyTree = Any


@dataclasses.dataclass(frozen=True)
class Student:
  """A model and its optimizer on a mesh, as shapes with shardings.

  Attributes:
    model: the model.
    optimizer: its optimizer.
    mesh: the mesh.
    state: a `TrainState` of `jax.ShapeDtypeStruct`, each with its sharding.
  """

  model: nn.Module
  optimizer: optax.GradientTransformation
  mesh: Mesh | AbstractMesh
  state: state_lib.TrainState

  @property
  def family(self) -> registry.Family:
    """What the model is one of."""
    return registry.find(self.model.config)


def make_student(
  config: ModelConfig,
  optimizer: optax.GradientTransformation,
  mesh: Mesh | AbstractMesh,
) -> Student:
  """Builds the model as training does.

  Args:
    config: its sizes.
    optimizer: its optimizer.
    mesh: the mesh.

  Raises:
    UserError: a parameter cannot be divided on the mesh.
  """
  model = registry.make_module(config, sharding.make_constrain_fn(mesh))
  abstract, shardings = state_lib.shard_state(model, optimizer, mesh)
  state = sharding.with_shardings(abstract, shardings)
  return Student(model, optimizer, mesh, state)


def make_batch(
  student: Student, batch_rows: int, feature_lengths: Mapping[str, int]
) -> dict[str, jax.ShapeDtypeStruct]:
  """Returns the shapes of a batch.

  Args:
    student: whose mesh it lies on.
    batch_rows: rows over all devices.
    feature_lengths: {'inputs': ..., 'targets': ...} tokens of a row.
  """
  # One row stands for all: a batch may be large.
  row = student.family.layout.make_empty_batch(
    1, feature_lengths["inputs"], feature_lengths["targets"]
  )
  rows_sharding = sharding.batch_sharding(student.mesh)
  return {
    key: jax.ShapeDtypeStruct(
      (batch_rows, *value.shape[1:]), value.dtype, sharding=rows_sharding
    )
    for key, value in row.items()
  }


def lower_train_step(
  student: Student,
  batch: Mapping[str, jax.ShapeDtypeStruct],
  objective: Objective,
  num_microbatches: int,
  loss_chunk_tokens: int | None,
  skips_nonfinite: bool,
) -> Any:
  """Lowers the step that training runs.

  Args:
    student: what it trains.
    batch: of `make_batch`.
    objective: as for `training.step.train_step`, like those that follow.
    num_microbatches: as above.
    loss_chunk_tokens: as above.
    skips_nonfinite: as for `training.step.compile_train_step`.

  Returns:
    A `jax.stages.Lowered`.
  """
  mesh = student.mesh
  assert isinstance(mesh, Mesh), "an abstract mesh has no devices"
  step_fn = step_lib.compile_train_step(
    mesh,
    jax.tree.map(lambda leaf: leaf.sharding, student.state),
    skips_nonfinite=skips_nonfinite,
    model=student.model,
    optimizer=student.optimizer,
    objective=objective,
    num_microbatches=num_microbatches,
    seed=0,
    loss_chunk_tokens=loss_chunk_tokens,
  )
  return _lower(step_fn, mesh, student.state, dict(batch))


def make_decoder_layout(
  student: Student, requested: str, memory_bytes: int | None = None
) -> layout_lib.DecoderLayout:
  """Lays the decoder's parameters out as evaluation does.

  Args:
    student: what decodes.
    requested: one of `decoding.layout.LAYOUTS`.
    memory_bytes: of a device, see `decoding.layout.find_memory`.

  Raises:
    UserError: they cannot be laid out so.
  """
  return layout_lib.make_layout(
    requested,
    student.model,
    student.mesh,
    memory_bytes,
    state_lib.abstract_params,
  )


def lower_decoding(
  student: Student,
  batch: Mapping[str, jax.ShapeDtypeStruct],
  max_decode_length: int,
  layout: layout_lib.DecoderLayout,
) -> Any:
  """Lowers greedy decoding as evaluation runs it: the encoder and all steps.

  Args:
    student: what decodes.
    batch: of `make_batch`; its inputs are read.
    max_decode_length: tokens of a row, at most.
    layout: of `make_decoder_layout`.

  Returns:
    A `jax.stages.Lowered`.
  """

  inputs = student.family.layout.select_inputs(batch)
  num_rows = next(iter(inputs.values())).shape[0]

  def run_decoding(params, decoder_params, inputs):
    step_fn, cache = start_decoding(
      student.model,
      params,
      inputs,
      max_decode_length,
      layout.model,
      decoder_params,
    )
    return decode(
      DecodingConfig(),
      step_fn,
      cache,
      jnp.arange(num_rows, dtype=jnp.int32),
      max_decode_length=max_decode_length,
    )

  return _lower(
    jax.jit(run_decoding, out_shardings=sharding.replicated(student.mesh)),
    student.mesh,
    student.state.params,
    layout.describe_params(student.state.params),
    inputs,
  )


def count_device_bytes(tree: PyTree, dtype: str | None = None) -> int:
  """Returns what one device holds of sharded arrays.

  Args:
    tree: of `jax.ShapeDtypeStruct` with shardings.
    dtype: count as if all arrays were cast to it.
  """
  return sum(
    int(np.prod(leaf.sharding.shard_shape(leaf.shape)))
    * jnp.dtype(dtype or leaf.dtype).itemsize
    for leaf in jax.tree.leaves(tree)
  )


def count_decoding_reads(
  student: Student, max_decode_length: int, layout: layout_lib.DecoderLayout
) -> int:
  """Returns the bytes of parameters that a device reads to decode a batch.

  The family knows which of them run once, the others run for every token. The
  compiler casts parameters to the type of the activations before the loop over
  tokens, which is one more reading.

  Args:
    student: what decodes.
    max_decode_length: tokens of a row.
    layout: of `make_decoder_layout`.
  """
  params, dtype = student.state.params, student.model.config.dtype
  decoding_params = layout.describe_params(params) or params
  once, for_every_token = [], jax.tree.leaves(decoding_params)
  if (split_fn := student.family.split_decoding_fn) is not None:
    once, for_every_token = split_fn(
      student.model.config, params, decoding_params
    )
  if dtype != "float32":
    once = once + for_every_token
  return count_device_bytes(once) + max_decode_length * count_device_bytes(
    for_every_token, dtype
  )


def _lower(jitted: Any, mesh: Mesh | AbstractMesh, *arguments) -> Any:
  assert isinstance(mesh, Mesh), "an abstract mesh has no devices"
  platform = mesh.devices.flat[0].platform
  # What a GPU's platform is called here says nothing of its maker.
  if platform == "gpu":
    platform = "cuda"
  return jitted.trace(*arguments).lower(lowering_platforms=(platform,))
