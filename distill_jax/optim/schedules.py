"""Learning rate schedules, on optax.

Layer 1. Each returns a function of the step, 0 for the first update.
"""

import optax

from distill_jax.errors import UserError


def constant(learning_rate: float, warmup_steps: int = 0) -> optax.Schedule:
  """A constant rate, after a linear warm-up: T5X's for finetuning.

  Args:
    learning_rate: the rate.
    warmup_steps: steps from 0 to it.
  """
  _check(learning_rate)
  if not warmup_steps:
    return optax.constant_schedule(learning_rate)
  return optax.warmup_constant_schedule(0.0, learning_rate, warmup_steps)


def linear_decay(
  learning_rate: float, train_steps: int, warmup_steps: int = 0
) -> optax.Schedule:
  """Falls in a line to 0 at `train_steps`: the authors' code (HF Trainer).

  Args:
    learning_rate: the highest rate.
    train_steps: where the rate reaches 0.
    warmup_steps: steps from 0 to the highest rate; the authors use none.
  """
  _check(learning_rate)
  decay = optax.linear_schedule(
    learning_rate, 0.0, max(train_steps - warmup_steps, 1)
  )
  if not warmup_steps:
    return decay
  warmup = optax.linear_schedule(0.0, learning_rate, warmup_steps)
  return optax.join_schedules([warmup, decay], [warmup_steps])


def _check(learning_rate: float) -> None:
  if learning_rate < 0:
    raise UserError(f"LEARNING_RATE is {learning_rate}; it must be 0 or more.")
