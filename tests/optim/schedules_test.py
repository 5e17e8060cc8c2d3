"""Learning rates at given steps."""

import logging
from unittest import mock

import numpy as np
import optax
import pytest

from distill_jax.errors import UserError
from distill_jax.optim import schedules


@pytest.mark.parametrize(
  "schedule,expected",
  [
    (schedules.constant(0.1), {0: 0.1, 1000: 0.1}),
    (schedules.constant(0.1, 4), {0: 0.0, 1: 0.025, 4: 0.1, 9: 0.1}),
    # HF's linear schedule: rate * (1 - step / train_steps), and no lower.
    (schedules.linear_decay(0.1, 10), {0: 0.1, 5: 0.05, 9: 0.01, 10: 0, 12: 0}),
    (
      schedules.linear_decay(0.1, 10, 2),
      {0: 0.0, 1: 0.05, 2: 0.1, 6: 0.05, 10: 0.0},
    ),
  ],
)
def test_values(schedule, expected):
  for step, rate in expected.items():
    np.testing.assert_allclose(
      schedule(np.int32(step)), rate, rtol=1e-6, atol=1e-9, err_msg=str(step)
    )


@pytest.mark.parametrize(
  "make",
  [
    schedules.constant,
    lambda rate: schedules.linear_decay(rate, 10),
  ],
)
def test_negative_rates_are_refused(make):
  with pytest.raises(UserError, match="LEARNING_RATE is -0.1"):
    make(-0.1)


def t5x_rate(factors, step, base, warmup_steps):
  """T5X's product of factors, by its documentation, in float64."""
  by_name = {
    "constant": base,
    "linear_warmup": min(1.0, step / warmup_steps),
    "rsqrt_decay": 1 / np.sqrt(max(step, warmup_steps)),
    "rsqrt_normalized_decay": 1 / np.sqrt(max(step / warmup_steps, 1)),
  }
  return np.prod([by_name[name] for name in factors])


def check_values(schedule, expected_fn):
  for step in (0, 1, 2, 3, 5, 19, 20, 21, 40, 99, 100, 101, 1000, 100_000):
    np.testing.assert_allclose(
      float(schedule(np.int32(step))), expected_fn(step),
      rtol=2e-6, atol=2e-9, err_msg=str(step),
    )  # fmt: skip


@pytest.mark.parametrize("warmup_steps", [1, 20])
def test_rsqrt_is_t5xs(warmup_steps):
  schedule = schedules.make_schedule("rsqrt", 0.01, 100, warmup_steps)
  normalized = ("constant", "linear_warmup", "rsqrt_normalized_decay")
  check_values(
    schedule, lambda step: t5x_rate(normalized, step, 0.01, warmup_steps)
  )
  # T5X's own default, of another base rate.
  base = 0.01 * np.sqrt(warmup_steps)
  check_values(
    schedule,
    lambda step: t5x_rate(
      ("constant", "linear_warmup", "rsqrt_decay"), step, base, warmup_steps
    ),
  )


def test_rsqrt_without_warmup_begins_at_its_rate():
  schedule = schedules.make_schedule("rsqrt", 0.01, 100)
  check_values(schedule, lambda step: 0.01 / np.sqrt(max(step, 1)))


@pytest.mark.parametrize("final_fraction", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("warmup_steps", [0, 20])
def test_cosine_is_optaxs_and_the_formula(warmup_steps, final_fraction):
  schedule = schedules.make_schedule(
    "cosine", 0.01, 100, warmup_steps, final_fraction
  )
  reference = optax.warmup_cosine_decay_schedule(
    0.0 if warmup_steps else 0.01, 0.01, warmup_steps, 100,
    0.01 * final_fraction,
  )  # fmt: skip

  def formula(step):
    if step < warmup_steps:
      return 0.01 * step / warmup_steps
    share = min((step - warmup_steps) / (100 - warmup_steps), 1)
    cosine = (1 + np.cos(np.pi * share)) / 2
    return 0.01 * (final_fraction + (1 - final_fraction) * cosine)

  check_values(schedule, formula)
  check_values(schedule, lambda step: float(reference(step)))


@pytest.mark.parametrize("final_fraction", [0.0, 0.25])
@pytest.mark.parametrize("warmup_steps", [0, 20])
def test_linear_falls_to_its_end(warmup_steps, final_fraction):
  schedule = schedules.make_schedule(
    "linear", 0.01, 100, warmup_steps, final_fraction
  )

  def formula(step):
    if step < warmup_steps:
      return 0.01 * step / warmup_steps
    share = min((step - warmup_steps) / (100 - warmup_steps), 1)
    return 0.01 * (1 - (1 - final_fraction) * share)

  check_values(schedule, formula)


@pytest.mark.parametrize("warmup_steps", [0, 20])
def test_the_schedules_of_before_are_bitwise_the_same(warmup_steps):
  for name, before in (
    ("constant", schedules.constant(1e-3, warmup_steps)),
    ("linear", schedules.linear_decay(1e-3, 100, warmup_steps)),
  ):
    now = schedules.make_schedule(name, 1e-3, 100, warmup_steps)
    for step in range(120):
      assert float(now(step)) == float(before(step))


@pytest.mark.usefixtures("any_type")
@pytest.mark.parametrize(
  "arguments, told",
  [
    (("linaer", 0.1, 10), "SCHEDULE is 'linaer'; it must be one of 'constant'"),
    (("constant", 0.0, 10), "LEARNING_RATE is 0.0"),
    (("cosine", -1, 10), "LEARNING_RATE is -1"),
    (("rsqrt", float("nan"), 10), "LEARNING_RATE is nan"),
    (("linear", float("inf"), 10), "LEARNING_RATE is inf"),
    (("linear", 0.1, 10, -1), "WARMUP_STEPS is -1"),
    (("linear", 0.1, 10, 1.5), "WARMUP_STEPS is 1.5"),
    (("constant", 0.1, 10, True), "WARMUP_STEPS is True"),
    (("linear", 0.1, 10, 0, 1.1), "FINAL_RATE_FRACTION is 1.1"),
    (("linear", 0.1, 10, 0, -0.1), "FINAL_RATE_FRACTION is -0.1"),
    (("linear", 0.1, 10, 0, float("nan")), "FINAL_RATE_FRACTION is nan"),
    (("rsqrt", 0.1, 10, 0, 0.1), "only SCHEDULE = 'linear' and 'cosine' read"),
    (("constant", 0.1, 10, 0, 0.1), "only SCHEDULE = 'linear' and 'cosine'"),
  ],
)
def test_mistakes_are_named(arguments, told):
  with pytest.raises(UserError, match=told):
    schedules.make_schedule(*arguments)


def test_a_warmup_that_never_ends_is_told(caplog):
  with mock.patch.object(logging.getLogger("distill_jax"), "propagate", True):
    schedules.make_schedule("cosine", 0.1, 10, 10)
  assert "WARMUP_STEPS is 10 and TRAIN_STEPS 10" in caplog.text
