"""The train step and the evaluation step: pure functions of state and batch.

Layer 2; imports distill, training.state, training.accumulate. Compile them
with `compile_train_step`; what they cost is seen in one screen.
"""

import functools
from collections.abc import Callable, Mapping

import flax.linen as nn
import jax
import optax
from jax.sharding import Mesh
from jaxtyping import Array, Float

from distill_jax import distill
from distill_jax.data import batch as batch_lib
from distill_jax.partitioning import sharding
from distill_jax.training import accumulate
from distill_jax.training.state import TrainState

Metrics = dict[str, Float[Array, ""]]


def train_step(
  state: TrainState,
  batch: Mapping[str, Array],
  *,
  model: nn.Module,
  optimizer: optax.GradientTransformation,
  objective: distill.Objective,
  num_microbatches: int,
  seed: int,
) -> tuple[TrainState, Metrics]:
  """Makes one update.

  Args:
    state: the state before.
    batch: a global batch, keys of `data.batch`, [batch, length] each; label
      and rationale rows together.
    model: a `model.t5.T5`.
    optimizer: the optimizer.
    objective: weights of the terms of the loss.
    num_microbatches: parts the batch is cut into to save memory; without
      dropout the update is the same for any number, whatever tokens each part
      holds.
    seed: of dropout; the step is folded in.

  Returns:
    The state after, and float32 scalars: the parts of the loss (see
    `distill.compute_loss`), `gradient_norm` before clipping, and the number of
    `label_tokens` and `rationale_tokens`.
  """
  token_counts = distill.count_tokens(batch)
  dropout_rng = jax.random.fold_in(jax.random.key(seed), state.step)

  def loss_fn(params, microbatch, rng):
    logits = apply_model(
      model, params, microbatch, enable_dropout=True, rngs={"dropout": rng}
    )
    return distill.compute_loss(logits, microbatch, token_counts, objective)

  gradients, metrics = accumulate.sum_gradients(
    loss_fn, state.params, batch, dropout_rng, num_microbatches
  )
  updates, opt_state = optimizer.update(
    gradients, state.opt_state, state.params
  )
  params = optax.apply_updates(state.params, updates)
  metrics |= {
    "gradient_norm": optax.tree.norm(gradients),
    "label_tokens": token_counts["label"],
    "rationale_tokens": token_counts["rationale"],
  }
  return TrainState(state.step + 1, params, opt_state), metrics


def apply_model(model, params, batch, **kwargs) -> Float[Array, "b l v"]:
  """Runs the model on the keys of a batch that it reads.

  Args:
    model: a `model.t5.T5`.
    params: its parameters.
    batch: keys of `data.batch`, [batch, length] each.
    **kwargs: `enable_dropout`, and `rngs` where it is set.

  Returns:
    Logits, [batch, decoder_length, vocab] float32.
  """
  rngs = kwargs.pop("rngs", None)
  return model.apply(
    {"params": params},
    batch[batch_lib.ENCODER_INPUT_TOKENS],
    batch[batch_lib.DECODER_INPUT_TOKENS],
    batch[batch_lib.ENCODER_SEGMENT_IDS],
    batch[batch_lib.DECODER_SEGMENT_IDS],
    rngs=rngs,
    **kwargs,
  )


def eval_step(
  params, batch: Mapping[str, Array], *, model: nn.Module
) -> tuple[Float[Array, "batch"], Float[Array, "batch"]]:
  """Scores the targets of a batch.

  Args:
    params: parameters.
    batch: keys of `data.batch`, [batch, length] each, one example a row.
    model: a `model.t5.T5`.

  Returns:
    Cross-entropy of each row's targets summed over its tokens, in nats, and
    the number of those tokens, [batch] float32 each.
  """
  logits = apply_model(model, params, batch, enable_dropout=False)
  return distill.score_targets(logits, batch)


def compile_train_step(
  mesh: Mesh, state_shardings: TrainState, **step_arguments
) -> Callable[[TrainState, Mapping[str, Array]], tuple[TrainState, Metrics]]:
  """Returns the jitted train step; it donates the state it is given.

  Args:
    mesh: the mesh.
    state_shardings: see `state.shard_state`.
    **step_arguments: the keyword arguments of `train_step`.
  """
  return jax.jit(
    functools.partial(train_step, **step_arguments),
    in_shardings=(state_shardings, sharding.batch_sharding(mesh)),
    out_shardings=(state_shardings, sharding.replicated(mesh)),
    donate_argnums=0,
  )
