"""The train step: micro-batches, dropout, dtypes and packing.

On many devices: sharded_step_test.py. Against T5X's own: t5x_test.py.
"""

import dataclasses
import functools
import inspect
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tiny_student
from synthetic_cache import make_cache

from distill_jax.data.feed import batch as batch_lib
from distill_jax.data.feed import pipeline
from distill_jax.model.t5.t5 import T5
from distill_jax.objective.target_tokens import TargetTokens
from distill_jax.partitioning import sharding
from distill_jax.training import step as step_lib
from distill_jax.training.state import TrainState


def assert_trees_close(found, expected, tolerance=1e-5):
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, tolerance, tolerance),
    found,
    expected,
  )


@pytest.mark.parametrize("num_microbatches", [2, 4])
def test_microbatches_change_nothing(num_microbatches):
  batches = tiny_student.make_batches(3)
  for batch in batches:
    tokens = batch[batch_lib.DECODER_LOSS_WEIGHTS].sum(axis=1)
    assert len(set(tokens.reshape(-1, num_microbatches).sum(axis=0))) > 1
  whole = tiny_student.start("adamw")
  parts = tiny_student.start("adamw", num_microbatches=num_microbatches)
  assert_trees_close(parts.take_steps(batches), whole.take_steps(batches))
  assert_trees_close(parts.state.params, whole.state.params)


def test_metrics_of_one_step():
  """Against the batch, and the gradient that Adam's first moment holds."""
  run = tiny_student.start("adamw")
  batch = tiny_student.make_batch()
  (metrics,) = run.take_steps([batch])
  squares = [
    np.sum((np.asarray(moment, np.float64) / (1 - 0.9)) ** 2)
    for moment in jax.tree.leaves(run.state.opt_state[0].mu)
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
  batch = jax.tree.map(jnp.asarray, tiny_student.make_batch())
  optimizer = optax.identity()
  params = tiny_student.make_params(config)

  @functools.partial(jax.jit, static_argnums=0)
  def compute_loss(seed, step):
    _, metrics = step_lib.train_step(
      TrainState(step, params, optimizer.init(params)),
      batch,
      model=T5(config),
      optimizer=optimizer,
      objective=tiny_student.OBJECTIVE,
      num_microbatches=1,
      seed=seed,
    )
    return metrics["loss"]

  found = [float(compute_loss(*at)) for at in ((0, 0), (1, 0), (0, 1))]
  assert len(set(found)) == 3
  assert float(compute_loss(0, 0)) == found[0]


def test_bfloat16_activations_leave_parameters_and_losses_float32():
  config = dataclasses.replace(tiny_student.CONFIG, dtype="bfloat16")
  batches = tiny_student.make_batches(2)
  run = tiny_student.start("adamw", config=config)
  history = run.take_steps(batches)
  for leaf in jax.tree.leaves((run.state.params, history)):
    assert leaf.dtype == jnp.float32
  expected = tiny_student.start("adamw").take_steps(batches)
  for low, full in zip(history, expected, strict=True):
    np.testing.assert_allclose(low["loss"], full["loss"], rtol=2e-2)
    assert low["loss"] != full["loss"]


def test_packed_equals_one_a_row(tmp_path):
  cache = make_cache(tmp_path, num_examples=6)
  params = tiny_student.make_params()
  model = T5(tiny_student.CONFIG)

  @jax.jit
  def compute_cross_entropy(batch):
    logits = step_lib.apply_model(model, params, batch, enable_dropout=False)
    return TargetTokens(batch, logits, lambda x: x).cross_entropy

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


def _start_skipping(optimizer, mesh_sizes=None):
  """A run whose loss is what the batch says, where it is NaN."""
  run = tiny_student.start(optimizer, mesh_sizes)

  def step_fn(state, batch):
    batch, factor = dict(batch), batch["factor"]
    del batch["factor"]
    updated, metrics = run.step_fn.__wrapped__(state, batch)
    # As a broken batch does it: into the loss, and through it everywhere.
    broken = jax.tree.map(
      lambda leaf: (
        leaf * factor.astype(leaf.dtype)
        if jnp.issubdtype(leaf.dtype, jnp.floating)
        else leaf
      ),
      (updated.params, updated.opt_state),
    )
    metrics |= {"loss": metrics["loss"] * factor}
    return TrainState(updated.step, *broken), metrics

  return run, jax.jit(
    step_lib.skip_nonfinite(step_fn),
    out_shardings=(run.shardings, None),
    donate_argnums=0,
  )


@pytest.mark.parametrize("optimizer", ["adamw", "adafactor"])
@pytest.mark.parametrize("factor", [np.nan, np.inf])
def test_a_skipped_step_changes_nothing_but_its_number(optimizer, factor):
  run, step_fn = _start_skipping(optimizer)
  batches = tiny_student.make_batches(3)
  state, losses = run.state, []
  for batch, times in zip(batches, (1.0, factor, 1.0), strict=True):
    before = jax.device_get(state)
    batch = sharding.to_global(batch, run.mesh)
    with jax.transfer_guard_device_to_host("disallow"):
      state, metrics = step_fn(state, batch | {"factor": jnp.float32(times)})
    losses.append(float(metrics["loss"]))
    after = jax.device_get(state)
    assert after.step == before.step + 1
    is_same = [
      np.array_equal(a, b)
      for a, b in zip(
        jax.tree.leaves((after.params, after.opt_state)),
        jax.tree.leaves((before.params, before.opt_state)),
        strict=True,
      )
    ]
    # Adafactor holds places for what it does not use, which stay as they are.
    assert all(is_same) == (times != 1.0)
  assert np.isfinite(losses).tolist() == [True, False, True]


def test_a_gradient_that_is_no_number_is_skipped_too():
  def step_fn(state, batch):
    metrics = {"loss": jnp.float32(1.0), "gradient_norm": batch}
    return TrainState(state.step + 1, state.params + 1.0, ()), metrics

  step_fn = jax.jit(step_lib.skip_nonfinite(step_fn))
  state = TrainState(jnp.int32(0), jnp.float32(0.0), ())
  for norm, expected in ((1.0, 1.0), (np.inf, 1.0), (np.nan, 1.0), (0.0, 2.0)):
    state, _ = step_fn(state, jnp.float32(norm))
    assert state.params == expected
  assert state.step == 4


def test_steps_that_skip_and_steps_that_do_not_learn_the_same():
  batches = tiny_student.make_batches(3)
  expected = tiny_student.start("adamw")
  expected.take_steps(batches)
  run = tiny_student.start("adamw")
  run.step_fn = jax.jit(step_lib.skip_nonfinite(run.step_fn.__wrapped__))
  run.take_steps(batches)
  assert_trees_close(run.state.params, expected.state.params)


# Chunks of one position, of five (the last padded), and none at all.
@pytest.mark.parametrize("loss_chunk_tokens", [1, 40, None])
def test_eval_step_sums_each_row(loss_chunk_tokens):
  batch, params = tiny_student.make_batch(), tiny_student.make_params()
  model = T5(tiny_student.CONFIG)
  (sums, counts), logits = jax.jit(
    lambda batch: (
      step_lib.eval_step(
        params, batch, model=model, loss_chunk_tokens=loss_chunk_tokens
      ),
      step_lib.apply_model(model, params, batch, enable_dropout=False),
    )
  )(batch)
  targets = batch[batch_lib.DECODER_TARGET_TOKENS][..., None]
  logits = np.asarray(logits, np.float64)
  cross_entropy = np.log(np.exp(logits).sum(-1))
  cross_entropy -= np.take_along_axis(logits, targets, axis=-1)[..., 0]
  weights = batch[batch_lib.DECODER_LOSS_WEIGHTS]
  np.testing.assert_allclose(
    sums, (cross_entropy * weights).sum(axis=1), rtol=1e-5
  )
  np.testing.assert_array_equal(counts, weights.sum(axis=1))


def test_eval_step_holds_the_logits_of_a_chunk_alone():
  config = dataclasses.replace(tiny_student.CONFIG, vocab_size=4096)
  model = T5(config)
  batch, params = tiny_student.make_batch(), tiny_student.make_params(config)
  logits_bytes = batch[batch_lib.DECODER_TARGET_TOKENS].size * 4096 * 4

  def measure(loss_chunk_tokens):
    step = functools.partial(
      step_lib.eval_step, model=model, loss_chunk_tokens=loss_chunk_tokens
    )
    memory = jax.jit(step).lower(params, batch).compile().memory_analysis()
    return memory.temp_size_in_bytes

  assert measure(None) > logits_bytes > 3 * measure(8)


def test_the_step_is_seen_in_one_screen():
  assert len(inspect.getsource(step_lib.train_step).splitlines()) < 60
