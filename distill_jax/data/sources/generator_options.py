"""Checks of what a generated data set is asked for.

Knows no data set.
"""

from collections.abc import Sequence
from typing import Any

from distill_jax.errors import UserError

SPLITS = ("train", "validation", "test")


def check_split(dataset: str, split: str) -> None:
  """Refuses an unknown split.

  Raises:
    UserError: names those there are.
  """
  if split not in SPLITS:
    raise UserError(
      f"{dataset} has no split {split!r}; it has {', '.join(SPLITS)}."
    )


def check_integer(
  dataset: str, option: str, value: Any, low: int, high: int, why: str = ""
) -> None:
  """Refuses what is no whole number from `low` to `high`.

  Args:
    dataset: whose option it is.
    option: its name.
    value: what was given.
    low: the smallest.
    high: the largest.
    why: a sentence on the limits, for the message.

  Raises:
    UserError: names the option and its limits.
  """
  if type(value) is not int or not low <= value <= high:
    raise UserError(
      f"{option} of {dataset} is {value!r}; it must be a whole number from"
      f" {low} to {high}.{f' {why}' if why else ''}"
    )


def check_share(dataset: str, option: str, value: Any) -> None:
  """Refuses what is no share of the records.

  Raises:
    UserError: names the option.
  """
  if type(value) not in (int, float) or not 0 <= value <= 1:
    raise UserError(
      f"{option} of {dataset} is {value!r}; it is a share of the records, from"
      " 0 to 1."
    )


def check_choice(
  dataset: str, option: str, value: Any, choices: Sequence[str]
) -> None:
  """Refuses what is none of the choices.

  Raises:
    UserError: names the option and its choices.
  """
  if not isinstance(value, str) or value not in choices:
    raise UserError(
      f"{option} of {dataset} is {value!r}; it must be one of"
      f" {', '.join(map(repr, choices))}."
    )
