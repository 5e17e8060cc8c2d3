"""Arithmetic on text nobody vouches for: the value of a written equation.

Owns the grammar that decides what an SVAMP answer is worth. Layer 0; imports
the standard library only and knows no data set. Python's own `eval` would
read the same text and much else besides.
"""

import math
import re

MAX_CHARACTERS = 1000
MAX_DEPTH = 50

_TOKEN = re.compile(r"\s*([0-9]+\.?[0-9]*|\.[0-9]+|[-+*/()])")
_END = ""


class _NotEvaluableError(Exception):
  """The text is outside the grammar or above a cap."""


def evaluate_equation(text: str) -> float:
  """Returns the value of an equation, NaN where it has none.

  The grammar: decimal numbers without exponent, `+ - * /` with the usual
  precedence, unary minus, parentheses, white space between tokens.

  Args:
    text: any text; at most `MAX_CHARACTERS` characters and `MAX_DEPTH` nested
      parentheses and minus signs are looked at.

  Returns:
    A finite float, or NaN for text outside the grammar or above a cap, for a
    division by zero and for a value too large for a float.

  Source: authors' metrics.py calls `eval` and compares the results as floats;
    on the published data both give the same verdicts save for two outputs
    that use Python's `and`.
  """
  try:
    tokens = _split_into_tokens(text)
    value = _read_sum(tokens, depth=0)
    _expect(tokens, _END)
  except (_NotEvaluableError, ZeroDivisionError):
    return math.nan
  return value if math.isfinite(value) else math.nan


def equations_equal(a: str, b: str) -> bool:
  """Tells whether two equations have the same value.

  Args:
    a: one equation.
    b: the other.

  Returns:
    True where both evaluate to the same float; text that does not evaluate
    equals nothing, itself included.
  """
  return evaluate_equation(a) == evaluate_equation(b)


def _split_into_tokens(text: str) -> list[str]:
  """Returns the tokens in reverse, so that `pop` takes the next one."""
  text = text.strip()
  if len(text) > MAX_CHARACTERS:
    raise _NotEvaluableError
  tokens = []
  position = 0
  while position < len(text):
    match = _TOKEN.match(text, position)
    if match is None:
      raise _NotEvaluableError
    tokens.append(match.group(1))
    position = match.end()
  tokens.append(_END)
  return tokens[::-1]


def _read_sum(tokens: list[str], depth: int) -> float:
  value = _read_product(tokens, depth)
  while tokens[-1] in ("+", "-"):
    is_plus = tokens.pop() == "+"
    term = _read_product(tokens, depth)
    value = value + term if is_plus else value - term
  return value


def _read_product(tokens: list[str], depth: int) -> float:
  value = _read_factor(tokens, depth)
  while tokens[-1] in ("*", "/"):
    is_times = tokens.pop() == "*"
    factor = _read_factor(tokens, depth)
    value = value * factor if is_times else value / factor
  return value


def _read_factor(tokens: list[str], depth: int) -> float:
  if depth > MAX_DEPTH:
    raise _NotEvaluableError
  token = tokens.pop()
  if token == "-":
    return -_read_factor(tokens, depth + 1)
  if token == "(":
    value = _read_sum(tokens, depth + 1)
    _expect(tokens, ")")
    return value
  if token == _END or token in "+*/)":
    raise _NotEvaluableError
  return float(token)


def _expect(tokens: list[str], token: str) -> None:
  if tokens.pop() != token:
    raise _NotEvaluableError
