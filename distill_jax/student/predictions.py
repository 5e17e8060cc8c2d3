"""What a student says of a text: a prediction, or a score."""

import dataclasses
from typing import Literal, NamedTuple

from distill_jax.answers import arithmetic


@dataclasses.dataclass(frozen=True)
class Prediction:
  """What a student wrote for one input.

  Example:
    >>> import distill_jax as dj
    >>> dj.Prediction("8 - 3", "stop", value=5).text
    '8 - 3'

  Attributes:
    text: the answer, or the rationale.
    finish_reason: "stop" where the model ended it, "length" where the limit of
      tokens did.
    value: of an equation, where answers are equations and it has a value.
    samples: of several samples all, this one first; else none.
  """

  text: str
  finish_reason: Literal["stop", "length"]
  value: int | float | None = None
  samples: "tuple[Prediction, ...]" = ()


class Score(NamedTuple):
  """How likely a target is, given its input.

  Example:
    >>> import distill_jax as dj
    >>> dj.Score(-1.5, 3).num_target_tokens
    3

  Attributes:
    log_likelihood: natural log of its probability, the sum over its tokens
      with EOS.
    num_target_tokens: how many those are.
  """

  log_likelihood: float
  num_target_tokens: int


def evaluate_equation(equation: str) -> int | float | None:
  """Returns the value as JSON has numbers; None where there is none.

  Args:
    equation: a text.
  """
  value = arithmetic.evaluate_equation(equation)
  if value is None:
    return None
  return value.numerator if value.denominator == 1 else float(value)
