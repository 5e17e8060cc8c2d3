"""What the forward pass of a train step saves for the backward pass.

Only shapes are computed.
"""

import functools
import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from distill_jax.aot import programs
from distill_jax.model import registry
from distill_jax.objective import objective as objective_lib
from distill_jax.partitioning import axes, sharding
from distill_jax.training import state as state_lib
from distill_jax.training import step as step_lib


def count_saved_bytes(
  student: programs.Student,
  batch_rows: int,
  feature_lengths: Mapping[str, int],
  objective: objective_lib.Objective,
  num_microbatches: int,
  loss_chunk_tokens: int | None,
) -> int:
  """Counts the activations that a device saves of one micro-batch.

  It is what JAX's differentiation hands from the forward to the backward pass
  and what grows with the rows: layers' inputs under the remat policy "full",
  results of products with parameters too under "minimal", and all else that
  gradients ask for under "none"; the encoder's output, biases of attention and
  the logits. Parameters, gradients and what lives within a layer or the loss
  alone are no part of it. The compiler may save less, computing again what is
  cheap, and need not hold it all at the moment of the peak.

  Args:
    student: what is trained.
    batch_rows: rows a step over all devices, divisible by the shards and the
      micro-batches.
    feature_lengths: {'inputs': ..., 'targets': ...} tokens of a row.
    objective: as for `training.step.train_step`, like those that follow.
    num_microbatches: parts of a batch.
    loss_chunk_tokens: tokens whose logits are in memory at once.
  """
  mesh = student.mesh
  rows = batch_rows // (sharding.count_batch_shards(mesh) * num_microbatches)
  # A device's part of a model is a smaller model.
  parts = mesh.shape[axes.MODEL]
  model = registry.make_module(student.model.config.take_part(parts))
  params, _ = state_lib.abstract_params(model)
  chunk = loss_chunk_tokens
  if chunk is not None:
    # Chunks are of all rows together.
    chunk = max(1, chunk // sharding.count_batch_shards(mesh))

  def count(num_rows: int) -> int:
    batch = student.family.layout.make_empty_batch(
      1, feature_lengths["inputs"], feature_lengths["targets"]
    )

    def save(params, batch, rng) -> Any:
      compute_loss = functools.partial(
        step_lib.compute_loss,
        microbatch=batch,
        dropout_rng=rng,
        model=model,
        token_counts=objective_lib.count_tokens(batch, objective),
        objective=objective,
        term_weights=objective.find_weights(jnp.zeros((), jnp.int32)),
        loss_chunk_tokens=chunk,
      )
      _, backward, _ = jax.vjp(compute_loss, params, has_aux=True)
      return backward  # A tree whose leaves are what it saved.

    saved = jax.eval_shape(
      save,
      params,
      {
        key: jax.ShapeDtypeStruct((num_rows, *value.shape[1:]), value.dtype)
        for key, value in batch.items()
      },
      jax.eval_shape(lambda: jax.random.key(0)),
    )
    return sum(_count_bytes(leaf) for leaf in jax.tree.leaves(saved))

  # What does not grow with the rows, as parameters, falls out.
  return count(2 * rows) - count(rows)


def _count_bytes(leaf: Any) -> int:
  if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
    return 0
  return math.prod(leaf.shape) * leaf.dtype.itemsize
