"""Learning rates at given steps."""

import numpy as np
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
