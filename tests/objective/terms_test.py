"""Tests of objective/terms.py: terms of one's own, and what is refused."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_student

from distill_jax.data.feed import batch as batch_lib
from distill_jax.errors import UserError
from distill_jax.objective import objective as objective_lib
from distill_jax.objective import terms


@dataclasses.dataclass(frozen=True)
class _Constant(terms.Term):
  name: str = "constant"

  def compute(self, tokens):
    return jnp.full(tokens.targets.shape, 2.0)


def _compute(*all_terms, chunk_tokens=None, step=0):
  batch = jax.tree.map(jnp.asarray, tiny_student.make_batch())
  shape = (*batch[batch_lib.DECODER_TARGET_TOKENS].shape, 48)
  logits = jnp.asarray(np.random.default_rng(1).normal(0, 2, shape), "float32")
  objective = objective_lib.Objective(all_terms)
  return objective_lib.compute_loss(
    logits,
    lambda x: x,
    batch,
    objective_lib.count_tokens(batch, objective),
    objective,
    objective.find_weights(step),
    chunk_tokens,
  )


@pytest.mark.parametrize("tasks", [None, ("label",), ("label", "rationale")])
@pytest.mark.parametrize("chunk_tokens", [None, 20])
def test_a_terms_mean_is_over_the_tokens_of_its_tasks(tasks, chunk_tokens):
  loss, metrics = _compute(
    _Constant(0.5, tasks=tasks), chunk_tokens=chunk_tokens
  )
  np.testing.assert_allclose(loss, 1.0, rtol=1e-6)
  np.testing.assert_allclose(metrics["constant_loss"], 2.0, rtol=1e-6)


def test_one_class_may_be_several_terms():
  loss, metrics = _compute(
    _Constant(1.0, "first", ("label",)), _Constant(3.0, "second")
  )
  np.testing.assert_allclose(loss, 8.0, rtol=1e-6)
  assert metrics.keys() == {"loss", "first_loss", "second_loss"}


def test_tokens_and_scheduled_weights_are_logged():
  term = _Constant(lambda step: step * 0.1)
  assert term.name_count(jnp.ones(()), 0.3) == {
    "constant_tokens": 1,
    "constant_weight": 0.3,
  }
  assert _Constant(0.3).name_count(jnp.ones(()), 0.3).keys() == {
    "constant_tokens"
  }


@pytest.mark.parametrize("weight", [-1, math.nan, math.inf, "1", None])
def test_a_weight_that_is_none_is_refused(weight):
  with pytest.raises(UserError, match="weight of the term 'constant' is"):
    _Constant(weight)


@pytest.mark.parametrize("name", ["", "a b", "../x"])
def test_a_name_that_no_metric_can_have_is_refused(name):
  with pytest.raises(UserError, match="a term's name is"):
    _Constant(name=name)


def test_an_unknown_task_is_refused():
  with pytest.raises(UserError, match="has the task 'lable'"):
    _Constant(tasks=("lable",))
