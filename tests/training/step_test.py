"""The train step: micro-batches, meshes, dropout, dtypes and packing.

That its updates are T5X's is in t5x_test.py.
"""

import dataclasses
import functools
import inspect
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_student
from synthetic_cache import make_cache

from distill_jax import losses
from distill_jax.data import batch as batch_lib
from distill_jax.data import pipeline
from distill_jax.distill import Objective
from distill_jax.model.t5 import T5
from distill_jax.optim import factory, schedules
from distill_jax.training import step as step_lib

RATE = schedules.constant(1e-2)
OPTIMIZERS = {
  "adamw": factory.adamw(RATE, weight_decay=0.1),
  "adafactor": factory.adafactor(RATE, min_dim_size_to_factor=16),
}


def make_batches(count):
  return [tiny_student.make_batch(seed) for seed in range(count)]


@functools.cache
def run_on_one_device(optimizer, num_steps):
  """Returns the metrics of each step and the last parameters."""
  run = tiny_student.start(OPTIMIZERS[optimizer])
  history = run.take_steps(make_batches(num_steps))
  return history, jax.device_get(run.state.params)


def assert_trees_close(found, expected, tolerance=1e-5):
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, tolerance, tolerance),
    found,
    expected,
  )


@pytest.mark.parametrize("num_microbatches", [2, 4])
def test_microbatches_change_nothing(num_microbatches):
  batches = make_batches(3)
  for batch in batches:
    tokens = batch[batch_lib.DECODER_LOSS_WEIGHTS].sum(axis=1)
    assert len(set(tokens.reshape(-1, num_microbatches).sum(axis=0))) > 1
  run = tiny_student.start(
    OPTIMIZERS["adamw"], num_microbatches=num_microbatches
  )
  history = run.take_steps(batches)
  expected, params = run_on_one_device("adamw", 3)
  assert_trees_close(history, expected)
  assert_trees_close(run.state.params, params)


@pytest.mark.parametrize(
  "optimizer,mesh_sizes",
  [
    ("adamw", {"data": 2, "fsdp": 2, "model": 2}),
    ("adafactor", {"data": 2, "fsdp": 2, "model": 2}),
    ("adamw", {"data": 8}),
    ("adafactor", {"fsdp": 8}),
    ("adafactor", {"model": 2, "data": 4}),
  ],
)
def test_every_mesh_computes_what_one_device_does(optimizer, mesh_sizes):
  run = tiny_student.start(OPTIMIZERS[optimizer], mesh_sizes)
  history = run.take_steps(make_batches(5))
  expected, params = run_on_one_device(optimizer, 5)
  assert_trees_close(history, expected)
  assert_trees_close(run.state.params, params, 1e-4)
  jax.tree.map(
    lambda leaf, sharding: _assert_equal(leaf.sharding, sharding),
    run.state,
    run.shardings,
  )


def _assert_equal(found, expected):
  assert found == expected


def test_metrics_of_one_step():
  """Against the batch, and the gradient that Adam's first moment holds."""
  run = tiny_student.start(factory.adamw(RATE, b1=0.5, max_grad_norm=None))
  (batch,) = make_batches(1)
  (metrics,) = run.take_steps([batch])
  gradients = jax.tree.map(lambda mu: 2 * mu, run.state.opt_state[0].mu)
  squares = [
    np.sum(np.asarray(gradient, np.float64) ** 2)
    for gradient in jax.tree.leaves(gradients)
  ]
  np.testing.assert_allclose(
    metrics["gradient_norm"], np.sqrt(sum(squares)), rtol=1e-5
  )
  task_ids = batch[batch_lib.DECODER_TASK_IDS]
  assert metrics["label_tokens"] == np.sum(task_ids == 1)
  assert metrics["rationale_tokens"] == np.sum(task_ids == 2)
  assert metrics.keys() == {
    "loss", "label_loss", "rationale_loss", "z_loss", "gradient_norm",
    "label_tokens", "rationale_tokens",
  }  # fmt: skip
  assert run.state.step == 1


def test_dropout_depends_on_seed_step_and_nothing_else():
  config = dataclasses.replace(tiny_student.CONFIG, dropout_rate=0.5)
  run = tiny_student.start(OPTIMIZERS["adamw"], config=config)
  (batch,) = make_batches(1)

  @jax.jit
  def compute_loss(seed, step):
    _, metrics = step_lib.train_step(
      run.state.replace(step=step),
      batch,
      model=run.model,
      optimizer=OPTIMIZERS["adamw"],
      objective=Objective(),
      num_microbatches=1,
      seed=seed,
    )
    return metrics["loss"]

  found = [float(compute_loss(*at)) for at in ((0, 0), (1, 0), (0, 1))]
  assert len(set(found)) == 3
  assert float(compute_loss(0, 0)) == found[0]


def test_bfloat16_activations_leave_parameters_and_losses_float32():
  config = dataclasses.replace(tiny_student.CONFIG, dtype="bfloat16")
  run = tiny_student.start(OPTIMIZERS["adamw"], config=config)
  history = run.take_steps(make_batches(3))
  expected, _ = run_on_one_device("adamw", 3)
  for leaf in jax.tree.leaves((run.state.params, history)):
    assert leaf.dtype == jnp.float32
  found = [metrics["loss"] for metrics in history]
  wanted = [metrics["loss"] for metrics in expected]
  np.testing.assert_allclose(found, wanted, rtol=2e-2)
  assert found != wanted


def test_packed_equals_one_a_row(tmp_path):
  cache = make_cache(tmp_path, num_examples=6)
  params = tiny_student.make_params()
  model = T5(tiny_student.CONFIG)

  @jax.jit
  def compute_cross_entropy(batch):
    logits = step_lib.apply_model(model, params, batch, enable_dropout=False)
    targets = batch[batch_lib.DECODER_TARGET_TOKENS]
    return losses.token_cross_entropy(logits, targets)[0]

  def score_examples(packed, num_batches):
    config = pipeline.FeedConfig(
      {"inputs": 28, "targets": 16}, batch_rows=4, packed=packed
    )
    iterator = pipeline.make_train_iterator(cache, config)
    scores, max_segments = {}, 0
    for batch in itertools.islice(iterator, num_batches):
      scores |= split_by_example(
        batch, np.asarray(compute_cross_entropy(batch))
      )
      max_segments = max(
        max_segments, batch[batch_lib.DECODER_SEGMENT_IDS].max()
      )
    iterator.close()
    return scores, max_segments

  packed, max_packed = score_examples(True, 4)
  unpacked, max_unpacked = score_examples(False, 4)
  assert max_packed > 2
  assert max_unpacked == 1
  assert len(unpacked) == 6 * 2
  assert packed.keys() == unpacked.keys()
  for key, cross_entropy in unpacked.items():
    np.testing.assert_allclose(
      packed[key], cross_entropy, 1e-5, 1e-5, err_msg=str(key)
    )


def split_by_example(batch, values):
  """Returns the values of each example's targets by its task and tag."""
  found = {}
  for row, segment_ids in enumerate(batch[batch_lib.DECODER_SEGMENT_IDS]):
    for segment in range(1, segment_ids.max() + 1):
      is_input = batch[batch_lib.ENCODER_SEGMENT_IDS][row] == segment
      tag = batch[batch_lib.ENCODER_INPUT_TOKENS][row][is_input][0]
      task = batch[batch_lib.DECODER_TASK_IDS][row][segment_ids == segment][0]
      found[int(task), int(tag)] = values[row][segment_ids == segment]
  return found


def test_eval_step_sums_each_row():
  (batch,) = make_batches(1)
  model, params = T5(tiny_student.CONFIG), tiny_student.make_params()
  sums, counts = jax.jit(
    lambda batch: step_lib.eval_step(params, batch, model=model)
  )(batch)
  logits = step_lib.apply_model(model, params, batch, enable_dropout=False)
  targets = batch[batch_lib.DECODER_TARGET_TOKENS]
  cross_entropy, _ = losses.token_cross_entropy(logits, targets)
  weights = batch[batch_lib.DECODER_LOSS_WEIGHTS]
  expected = np.sum(cross_entropy * weights, axis=1)
  np.testing.assert_allclose(sums, expected, rtol=1e-5)
  np.testing.assert_array_equal(counts, weights.sum(axis=1))


def test_the_step_is_seen_in_one_screen():
  assert len(inspect.getsource(step_lib.train_step).splitlines()) < 60
