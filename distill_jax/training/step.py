"""The train step and the evaluation step: pure functions of state and batch.

Compile them with `compile_train_step`; what they cost is seen in one screen.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh
from jaxtyping import Array, Float

from distill_jax.objective import objective as objective_lib
from distill_jax.partitioning import sharding
from distill_jax.training import accumulate, gpu_random, seeded_program
from distill_jax.training.state import TrainState

Metrics = dict[str, Float[Array, ""]]


def train_step(
  state: TrainState,
  batch: Mapping[str, Array],
  *,
  model: nn.Module,
  optimizer: optax.GradientTransformation,
  objective: objective_lib.Objective,
  num_microbatches: int,
  seed: int | Array,
  loss_chunk_tokens: int | None = None,
) -> tuple[TrainState, Metrics]:
  """Makes one update.

  Args:
    state: the state before.
    batch: a global batch, keys of `data.feed.batch`, [batch, length] each;
      label and rationale rows together.
    model: a family's, see `model.registry`.
    optimizer: the optimizer.
    objective: terms of the loss.
    num_microbatches: parts the batch is cut into to save memory; without
      dropout the update is the same for any number, whatever tokens each part
      holds.
    seed: of dropout, or the key it makes; the step is folded in.
    loss_chunk_tokens: target tokens whose logits are in memory at once; None:
      those of the whole micro-batch.

  Returns:
    The state after, and float32 scalars: the loss and its terms, see
    `objective.objective.compute_loss`; `gradient_norm` before clipping; the
    terms' tokens and scheduled weights, see `Term.name_count`.
  """
  token_counts = objective_lib.count_tokens(batch, objective)
  term_weights = objective.find_weights(state.step)
  key = jax.random.key(seed) if isinstance(seed, int) else seed
  dropout_rng = jax.random.fold_in(key, state.step)

  loss_fn = functools.partial(
    compute_loss,
    model=model,
    token_counts=token_counts,
    objective=objective,
    term_weights=term_weights,
    loss_chunk_tokens=loss_chunk_tokens,
  )
  gradients, metrics = accumulate.sum_gradients(
    loss_fn, state.params, batch, dropout_rng, num_microbatches
  )
  updates, opt_state = optimizer.update(
    gradients, state.opt_state, state.params
  )
  params = optax.apply_updates(state.params, updates)
  metrics["gradient_norm"] = optax.tree.norm(gradients)
  for term in objective.terms:
    name = term.name
    metrics |= term.name_count(token_counts[name], term_weights[name])
  return TrainState(state.step + 1, params, opt_state), metrics


def compute_loss(
  params,
  microbatch: Mapping[str, Array],
  dropout_rng: Array,
  *,
  model: nn.Module,
  token_counts: Mapping[str, Float[Array, ""]],
  objective: objective_lib.Objective,
  term_weights: Mapping[str, Any],
  loss_chunk_tokens: int | None,
) -> tuple[Float[Array, ""], Metrics]:
  """Runs the model with dropout, and scores what it says.

  Args:
    params: parameters.
    microbatch: some rows of a batch.
    dropout_rng: key.
    model: as for `train_step`.
    token_counts: of the whole batch, see `objective.objective.count_tokens`.
    objective: as for `train_step`.
    term_weights: see `Objective.find_weights`.
    loss_chunk_tokens: as for `train_step`.

  Returns:
    The loss and its parts, see `objective.objective.compute_loss`.
  """

  def compute_logits(x: Array) -> Any:
    return model.apply({"params": params}, x, method="compute_logits")

  hidden = apply_model(
    model,
    params,
    microbatch,
    enable_dropout=True,
    rngs={"dropout": dropout_rng},
    method="compute_hidden",
  )
  return objective_lib.compute_loss(
    hidden,
    compute_logits,
    microbatch,
    token_counts,
    objective,
    term_weights,
    loss_chunk_tokens,
  )


def apply_model(model, params, batch, **kwargs) -> Float[Array, "b l d"]:
  """Runs the model on a batch, of which it takes what it reads.

  Args:
    model: a family's, see `model.registry`.
    params: its parameters.
    batch: keys of the family's layout, [batch, length] each.
    **kwargs: `enable_dropout`, `rngs` where it is set, and `method`, if not
      the whole model.

  Returns:
    Logits, [batch, decoder_length, vocab] float32, or what `method` returns.
  """
  rngs = kwargs.pop("rngs", None)
  return model.apply({"params": params}, dict(batch), rngs=rngs, **kwargs)


def eval_step(
  params,
  batch: Mapping[str, Array],
  *,
  model: nn.Module,
  loss_chunk_tokens: int | None = None,
) -> tuple[Float[Array, "batch"], Float[Array, "batch"]]:
  """Scores the targets of a batch.

  Args:
    params: parameters.
    batch: keys of `data.feed.batch`, [batch, length] each, one example a row.
    model: a family's, see `model.registry`.
    loss_chunk_tokens: target tokens whose logits are in memory at once; None:
      those of the whole batch. With no backward pass it costs nothing.

  Returns:
    Cross-entropy of each row's targets summed over its tokens, in nats, and
    the number of those tokens, [batch] float32 each.
  """

  def compute_logits(x: Array) -> Any:
    return model.apply({"params": params}, x, method="compute_logits")

  hidden = apply_model(
    model, params, batch, enable_dropout=False, method="compute_hidden"
  )
  return objective_lib.score_targets(
    hidden, compute_logits, batch, loss_chunk_tokens
  )


def skip_nonfinite(
  step_fn: Callable[[TrainState, Any], tuple[TrainState, Metrics]],
) -> Callable[[TrainState, Any], tuple[TrainState, Metrics]]:
  """Makes a step leave everything as it was when its loss is NaN or infinite.

  Args:
    step_fn: (state, batch) -> (state, metrics), with `loss` and
      `gradient_norm` among the metrics.

  Returns:
    The same, but where one of the two is not finite only `step` moves on:
    parameters and optimizer state are those before. The choice is made on the
    devices; the host sees it in the metrics and waits for nothing.
  """

  def guarded_step(state, batch):
    updated, metrics = step_fn(state, batch)
    is_finite = jnp.isfinite(metrics["loss"])
    is_finite &= jnp.isfinite(metrics["gradient_norm"])
    kept = jax.tree.map(
      lambda after, before: jnp.where(is_finite, after, before), updated, state
    )
    return kept.replace(step=updated.step), metrics

  return guarded_step


def compile_train_step(
  mesh: Mesh,
  state_shardings: TrainState,
  *,
  seed: int,
  **step_arguments,
) -> Callable[[TrainState, Mapping[str, Array]], tuple[TrainState, Metrics]]:
  """Returns the jitted train step; it donates the state it is given.

  Sets how GPUs draw dropout, see `gpu_random.choose_lowering`. Steps that
  differ by their seed alone are compiled once.

  Args:
    mesh: the mesh.
    state_shardings: see `state.shard_state`.
    seed: as for `train_step`.
    **step_arguments: the other keyword arguments of `train_step`, and
      `skips_nonfinite`, see `skip_nonfinite`.
  """
  gpu_random.choose_lowering(mesh)
  jitted = _jit_seeded_step(
    mesh, seeded_program.HashedTree.of(state_shardings), **step_arguments
  )
  return seeded_program.SeededProgram(jitted, seed, sharding.replicated(mesh))


@seeded_program.keep_compiled
def _jit_seeded_step(
  mesh: Mesh,
  state_shardings: seeded_program.HashedTree,
  *,
  skips_nonfinite: bool = False,
  **step_arguments,
) -> Any:
  def step(key_data, state, batch):
    step_fn = functools.partial(
      train_step, seed=seeded_program.read_key(key_data), **step_arguments
    )
    if skips_nonfinite:
      step_fn = skip_nonfinite(step_fn)
    return step_fn(state, batch)

  # By this name profiles and logs of compilations know it.
  step.__name__ = train_step.__name__
  replicated = sharding.replicated(mesh)
  shardings = state_shardings.tree
  return jax.jit(
    step,
    in_shardings=(replicated, shardings, sharding.batch_sharding(mesh)),
    out_shardings=(shardings, replicated),
    donate_argnums=1,
  )
