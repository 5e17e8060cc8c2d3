"""Learning rate schedules, on optax.

Layer 1. Each returns a function of the step, 0 for the first update. All start
with a linear warm-up from 0 to the highest rate.
"""

import logging
import math

import jax.numpy as jnp
import optax

from distill_jax.errors import UserError

_log = logging.getLogger(__name__)

# Those that end at a rate of their own choosing.
_WITH_FINAL_FRACTION = ("linear", "cosine")
SCHEDULES = ("constant", *_WITH_FINAL_FRACTION, "rsqrt")


def make_schedule(
  schedule: str,
  learning_rate: float,
  train_steps: int,
  warmup_steps: int = 0,
  final_fraction: float = 0.0,
) -> optax.Schedule:
  """Makes a schedule by its name.

  Args:
    schedule: one of `SCHEDULES`.
    learning_rate: the highest rate.
    train_steps: updates in all, where "linear" and "cosine" end.
    warmup_steps: steps from 0 to the highest rate.
    final_fraction: of the highest rate, at the end of "linear" and "cosine".

  Raises:
    UserError: names the run file's macro.
  """
  if schedule not in SCHEDULES:
    raise UserError(
      f"SCHEDULE is {schedule!r}; it must be one of"
      f" {', '.join(map(repr, SCHEDULES))}."
    )
  if not 0 <= final_fraction <= 1:
    raise UserError(
      f"FINAL_RATE_FRACTION is {final_fraction!r}; it is a part of"
      " LEARNING_RATE, from 0 to 1."
    )
  if final_fraction and schedule not in _WITH_FINAL_FRACTION:
    raise UserError(
      f"FINAL_RATE_FRACTION is {final_fraction}, which only SCHEDULE = 'linear'"
      f" and 'cosine' read; it is {schedule!r}."
    )
  if schedule in _WITH_FINAL_FRACTION and warmup_steps >= train_steps > 0:
    _log.warning(
      "WARMUP_STEPS is %d and TRAIN_STEPS %d: the run ends before the rate"
      " falls.",
      warmup_steps, train_steps,
    )  # fmt: skip
  if schedule == "constant":
    return constant(learning_rate, warmup_steps)
  if schedule == "linear":
    return linear_decay(
      learning_rate, train_steps, warmup_steps, final_fraction
    )
  if schedule == "cosine":
    return cosine_decay(
      learning_rate, train_steps, warmup_steps, final_fraction
    )
  return rsqrt_decay(learning_rate, warmup_steps)


def constant(learning_rate: float, warmup_steps: int = 0) -> optax.Schedule:
  """A constant rate, after a linear warm-up: T5X's for finetuning.

  Args:
    learning_rate: the rate.
    warmup_steps: steps from 0 to it.
  """
  _check(learning_rate, warmup_steps)
  if not warmup_steps:
    return optax.constant_schedule(learning_rate)
  return optax.warmup_constant_schedule(0.0, learning_rate, warmup_steps)


def linear_decay(
  learning_rate: float,
  train_steps: int,
  warmup_steps: int = 0,
  final_fraction: float = 0.0,
) -> optax.Schedule:
  """Falls in a line to its end at `train_steps`.

  With an end of 0 it is that of the authors' code (HF Trainer).

  Args:
    learning_rate: the highest rate.
    train_steps: where the rate reaches its end.
    warmup_steps: steps from 0 to the highest rate; the authors use none.
    final_fraction: the end, as a part of the highest rate.
  """
  _check(learning_rate, warmup_steps)
  decay = optax.linear_schedule(
    learning_rate,
    final_fraction * learning_rate,
    max(train_steps - warmup_steps, 1),
  )
  return _after_warmup(decay, learning_rate, warmup_steps)


def cosine_decay(
  learning_rate: float,
  train_steps: int,
  warmup_steps: int = 0,
  final_fraction: float = 0.0,
) -> optax.Schedule:
  """Falls along half a cosine to its end at `train_steps`.

  Args:
    learning_rate: the highest rate.
    train_steps: where the rate reaches its end.
    warmup_steps: steps from 0 to the highest rate.
    final_fraction: the end, as a part of the highest rate.

  Source: Loshchilov and Hutter, "SGDR", equation 5, without restarts.
  """
  _check(learning_rate, warmup_steps)
  decay = optax.cosine_decay_schedule(
    learning_rate, max(train_steps - warmup_steps, 1), alpha=final_fraction
  )
  return _after_warmup(decay, learning_rate, warmup_steps)


def rsqrt_decay(learning_rate: float, warmup_steps: int) -> optax.Schedule:
  """Falls with the root of the step, whatever the number of steps in all.

  It is the highest rate times sqrt(w / max(step, w)) for w warm-up steps, of
  which one is the fewest: T5X's `rsqrt_normalized_decay` after its
  `linear_warmup`. T5X's `rsqrt_decay` of a base rate b is the same for
  `learning_rate` = b / sqrt(w).

  Args:
    learning_rate: the highest rate, reached after the warm-up.
    warmup_steps: steps from 0 to the highest rate.

  Source: T5X's `create_learning_rate_scheduler`; T5, section 3.1.2.
  """
  _check(learning_rate, warmup_steps)
  root_of = max(warmup_steps, 1)
  # The steps that `join_schedules` hands on are counted from the warm-up's end.
  decay = lambda step: (
    learning_rate
    * jnp.sqrt(root_of / jnp.maximum(step + warmup_steps, root_of))
  )
  return _after_warmup(decay, learning_rate, warmup_steps)


def _after_warmup(
  decay: optax.Schedule, learning_rate: float, warmup_steps: int
) -> optax.Schedule:
  if not warmup_steps:
    return decay
  warmup = optax.linear_schedule(0.0, learning_rate, warmup_steps)
  return optax.join_schedules([warmup, decay], [warmup_steps])


def _check(learning_rate: float, warmup_steps: int) -> None:
  if not 0 < learning_rate < math.inf:
    raise UserError(
      f"LEARNING_RATE is {learning_rate}; it must be a number above 0."
    )
  if type(warmup_steps) is not int or warmup_steps < 0:
    raise UserError(
      f"WARMUP_STEPS is {warmup_steps!r}; it must be a whole number >= 0."
    )
