"""The objective against numpy, the authors' formula and separate forwards."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tiny_student

from distill_jax.data.feed import batch as batch_lib
from distill_jax.data.feed import packing
from distill_jax.errors import UserError
from distill_jax.model.t5.t5 import T5
from distill_jax.objective import objective as objective_lib
from distill_jax.objective import terms
from distill_jax.partitioning import mesh as mesh_lib
from distill_jax.partitioning import sharding
from distill_jax.training import state as state_lib
from distill_jax.training import step as step_lib

LABEL, RATIONALE = batch_lib.LABEL_TASK_ID, batch_lib.RATIONALE_TASK_ID


@pytest.fixture
def batch():
  return tiny_student.make_batch()


@pytest.fixture
def logits(batch):
  shape = (*batch[batch_lib.DECODER_TARGET_TOKENS].shape, 48)
  return np.random.default_rng(1).normal(0, 2, shape).astype(np.float32)


def compute_loss(logits, batch, objective):
  logits, batch = jax.tree.map(jnp.asarray, (logits, dict(batch)))
  counts = objective_lib.count_tokens(batch, objective)
  return objective_lib.compute_loss(
    logits, lambda x: x, batch, counts, objective, objective.find_weights(0)
  )


def count_tokens(batch):
  objective = objective_lib.Objective()
  return objective_lib.count_tokens(jax.tree.map(jnp.asarray, batch), objective)


def compute_numpy_parts(logits, batch):
  """Mean cross-entropies of both tasks and mean log(Z)**2, in float64."""
  log_z = np.log(np.exp(logits.astype(np.float64)).sum(-1))
  targets = batch[batch_lib.DECODER_TARGET_TOKENS][..., None]
  cross_entropy = log_z - np.take_along_axis(logits, targets, -1)[..., 0]
  task_ids = batch[batch_lib.DECODER_TASK_IDS]
  return (
    cross_entropy[task_ids == LABEL].mean(),
    cross_entropy[task_ids == RATIONALE].mean(),
    (log_z[task_ids > 0] ** 2).mean(),
  )


def test_every_part_against_numpy(logits, batch):
  loss, parts = compute_loss(
    logits, batch, objective_lib.make_step_by_step(0.7, 1e-2)
  )
  label, rationale, squared = compute_numpy_parts(logits, batch)
  expected = {
    "label_loss": label,
    "rationale_loss": rationale,
    "z_loss": 1e-2 * squared,
    "loss": label + 0.7 * rationale + 1e-2 * squared,
  }
  assert parts.keys() == expected.keys()
  for name, value in expected.items():
    np.testing.assert_allclose(parts[name], value, rtol=1e-5, err_msg=name)
  assert loss == parts["loss"]


@pytest.mark.parametrize("alpha", [0.5, 0.3, 1.0])
def test_the_authors_formula(logits, batch, alpha):
  loss, _ = compute_loss(
    logits,
    batch,
    objective_lib.make_step_by_step(rationale_loss_weight=(1 - alpha) / alpha),
  )
  label, rationale, _ = compute_numpy_parts(logits, batch)
  authors = alpha * label + (1 - alpha) * rationale
  np.testing.assert_allclose(alpha * loss, authors, rtol=1e-5)


def test_tokens_are_counted_by_task(batch):
  counts = count_tokens(batch)
  task_ids = batch[batch_lib.DECODER_TASK_IDS]
  assert counts["label"] == np.sum(task_ids == LABEL)
  assert counts["rationale"] == np.sum(task_ids == RATIONALE)
  assert counts["z"] == np.sum(task_ids > 0)


def test_zero_weights_give_zero_loss_and_gradient(logits, batch):
  batch[batch_lib.DECODER_LOSS_WEIGHTS][:] = 0
  loss, gradient = jax.value_and_grad(
    lambda x: compute_loss(
      x, batch, objective_lib.make_step_by_step(1.0, 1e-2)
    )[0]
  )(logits)
  assert loss == 0
  assert not np.any(gradient)


def test_lambda_zero_equals_label_only(logits, batch):
  """No rationale loss is the same as no rationale tokens, gradient included."""
  compute = jax.value_and_grad(
    lambda x, batch, weight: compute_loss(
      x, batch, objective_lib.make_step_by_step(weight)
    ),
    has_aux=True,
  )
  (loss, parts), gradient = compute(logits, batch, 0.0)
  is_label = batch[batch_lib.DECODER_TASK_IDS] == LABEL
  label_only = dict(batch)
  label_only[batch_lib.DECODER_LOSS_WEIGHTS] = is_label.astype(np.float32)
  (expected, bare), expected_gradient = compute(logits, label_only, 1.0)
  assert loss == expected
  np.testing.assert_array_equal(gradient, expected_gradient)
  assert not np.any(gradient[~is_label])
  # It is reported all the same, but of nothing it is 0.
  assert parts["rationale_loss"] > 0
  assert bare["rationale_loss"] == 0


def _pack(units, batch_rows=6):
  packer = packing.BatchPacker(packing.PackingConfig(batch_rows, 16, 12))
  assert all(map(packer.add, units))
  return packer.make_batch()


@jax.jit
def _differentiate(params, batch):
  """Loss and gradient of the tiny student, without dropout."""

  def loss_fn(params):
    logits = step_lib.apply_model(
      T5(tiny_student.CONFIG), params, batch, enable_dropout=False
    )
    return compute_loss(
      logits, batch, objective_lib.make_step_by_step(0.5, 1e-2)
    )[0]

  return jax.value_and_grad(loss_fn)(params)


def _assert_all_close(found, expected):
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6),
    found,
    expected,
  )


def _make_weighted_units():
  """Four pairs, of which the first weighs 2 and the second 3."""
  rng = np.random.default_rng(5)
  return [
    [
      dataclasses.replace(
        tiny_student.make_segment(rng, task_id, 6), weight=weight
      )
      for task_id in (LABEL, RATIONALE)
    ]
    for weight in (2.0, 3.0, 1.0, 1.0)
  ]


def test_a_weight_counts_as_so_many_copies():
  """In loss and gradient; the rows are packed otherwise, too."""
  units = _make_weighted_units()
  copied = [
    [dataclasses.replace(segment, weight=1.0) for segment in unit]
    for unit in units
    for _ in range(int(unit[0].weight))
  ]
  params = tiny_student.make_params()
  weighted, batch = _pack(units), _pack(copied)
  _assert_all_close(
    _differentiate(params, weighted), _differentiate(params, batch)
  )
  assert count_tokens(weighted) == count_tokens(batch)


@pytest.mark.parametrize("factor", [1 / 1024, 1024])
def test_only_the_proportion_of_weights_counts(factor):
  """However few tokens they sum up to."""
  units = _make_weighted_units()
  scaled = [
    [
      dataclasses.replace(segment, weight=segment.weight * factor)
      for segment in unit
    ]
    for unit in units
  ]
  params = tiny_student.make_params()
  _assert_all_close(
    _differentiate(params, _pack(scaled)), _differentiate(params, _pack(units))
  )


def test_one_forward_equals_two():
  """A paired batch against label rows and rationale rows by themselves."""
  config = packing.PackingConfig(6, 8, 8, max_segments_per_row=1)
  batch = tiny_student.make_batch(config=config)
  is_label = (batch[batch_lib.DECODER_TASK_IDS] == LABEL).any(axis=1)
  assert is_label.sum() == 3
  model = T5(tiny_student.CONFIG)

  @jax.jit
  def compute(params, batch):
    def loss_fn(params):
      logits = step_lib.apply_model(model, params, batch, enable_dropout=False)
      return compute_loss(logits, batch, objective_lib.make_step_by_step(0.5))[
        0
      ]

    return jax.value_and_grad(loss_fn)(params)

  params = tiny_student.make_params()
  label_rows = {key: value[is_label] for key, value in batch.items()}
  rationale_rows = {key: value[~is_label] for key, value in batch.items()}
  together = compute(params, batch)
  label = compute(params, label_rows)
  rationale = compute(params, rationale_rows)
  np.testing.assert_allclose(together[0], label[0] + rationale[0], rtol=1e-5)
  jax.tree.map(
    lambda one, a, b: np.testing.assert_allclose(one, a + b, atol=1e-5),
    together[1],
    label[1],
    rationale[1],
  )


def test_scores_are_sums_over_each_row(logits, batch):
  weights = batch[batch_lib.DECODER_LOSS_WEIGHTS]
  weights[0] = 0
  logits_array, arrays = jax.tree.map(jnp.asarray, (logits, batch))
  sums, counts = objective_lib.score_targets(logits_array, lambda x: x, arrays)
  log_z = np.log(np.exp(logits.astype(np.float64)).sum(-1))
  targets = batch[batch_lib.DECODER_TARGET_TOKENS][..., None]
  cross_entropy = log_z - np.take_along_axis(logits, targets, -1)[..., 0]
  np.testing.assert_allclose(
    sums, (cross_entropy * weights).sum(axis=1), rtol=1e-5
  )
  np.testing.assert_array_equal(counts, weights.sum(axis=1))


@pytest.mark.parametrize("field", ["rationale_loss_weight", "z_loss"])
def test_negative_weights_are_refused(field):
  with pytest.raises(UserError, match=f"{field.upper()} is -0.5"):
    objective_lib.make_step_by_step(**{field: -0.5})


@pytest.mark.parametrize(
  "mesh_axes", [None, {"data": 2, "fsdp": 2, "model": 2}]
)
@pytest.mark.parametrize("is_tied", [False, True])
def test_chunks_of_logits_change_nothing(is_tied, mesh_axes):
  """Packed rows, through the model: loss and all gradients."""
  config = dataclasses.replace(tiny_student.CONFIG, tie_embeddings=is_tied)
  batch = tiny_student.make_batch()
  params = tiny_student.make_params(config)
  objective = objective_lib.make_step_by_step(0.5, 1e-2)
  devices = jax.devices() if mesh_axes else jax.devices()[:1]
  mesh = mesh_lib.make_mesh(mesh_axes or {}, devices)
  model = T5(config, sharding.make_constrain_fn(mesh))
  shapes, logical_axes = state_lib.abstract_params(model)

  def differentiate(chunk_tokens):
    def loss_fn(params, batch):
      return objective_lib.compute_loss(
        step_lib.apply_model(
          model, params, batch, enable_dropout=False, method="compute_hidden"
        ),
        lambda x: model.apply({"params": params}, x, method="compute_logits"),
        batch,
        objective_lib.count_tokens(batch, objective),
        objective,
        objective.find_weights(0),
        chunk_tokens,
      )

    return jax.jit(jax.value_and_grad(loss_fn, has_aux=True))(
      jax.device_put(params, sharding.shard_params(logical_axes, shapes, mesh)),
      sharding.to_global(batch, mesh),
    )

  (loss, parts), gradients = differentiate(None)
  (chunked_loss, chunked_parts), chunked_gradients = differentiate(40)
  np.testing.assert_allclose(chunked_loss, loss, rtol=1e-6)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-7),
    chunked_parts,
    parts,
  )
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5),
    chunked_gradients,
    gradients,
  )


@pytest.mark.usefixtures("any_type")
def test_terms_need_names_of_their_own():
  with pytest.raises(UserError, match="OBJECTIVE_TERMS has .*label, label"):
    objective_lib.Objective((terms.LabelLoss(), terms.LabelLoss()))
  with pytest.raises(UserError, match="OBJECTIVE_TERMS has 'label'"):
    objective_lib.Objective(("label",))
  with pytest.raises(UserError, match="the terms none"):
    objective_lib.Objective(())


def test_earlier_runs_are_described_as_before():
  objective = objective_lib.make_step_by_step(0.5, 1e-4)
  assert objective.describe() == {
    "rationale_loss_weight": 0.5,
    "z_loss": 1e-4,
  }


def test_a_changed_term_is_described():
  half = terms.LabelLoss(0.5)
  both = terms.RationaleLoss(tasks=("label", "rationale"))
  described = objective_lib.Objective((half, both)).describe()
  assert described["label"]["weight"] == 0.5
  assert described["rationale"]["tasks"] == ("label", "rationale")


def test_scheduled_weights_are_those_of_the_step(logits, batch):
  schedule = optax.linear_schedule(0.0, 2.0, 10)
  objective = objective_lib.make_step_by_step(schedule)
  weights = objective.find_weights(jnp.asarray(4))
  assert weights == {"label": 1.0, "rationale": pytest.approx(0.8), "z": 0.0}
  arrays, logits = jax.tree.map(jnp.asarray, (dict(batch), logits))
  found, _ = objective_lib.compute_loss(
    logits,
    lambda x: x,
    arrays,
    objective_lib.count_tokens(arrays, objective),
    objective,
    weights,
  )
  expected, _ = compute_loss(
    logits, batch, objective_lib.make_step_by_step(0.8)
  )
  np.testing.assert_allclose(found, expected, rtol=1e-6)
