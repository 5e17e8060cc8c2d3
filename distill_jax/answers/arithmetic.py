"""Arithmetic on text nobody vouches for: the value of a written equation.

Owns the grammar that decides what an SVAMP answer is worth. Python's own `eval`
would read the same text and much else besides.
"""

import re
from fractions import Fraction

MAX_CHARACTERS = 1000
MAX_DEPTH = 50

_TOKEN = re.compile(r"\s*([0-9]+\.?[0-9]*|\.[0-9]+|[-+*/()])")
_END = ""


class _NotEvaluableError(Exception):
  """The text is outside the grammar or above a cap."""


def evaluate_equation(text: str) -> Fraction | None:
  """Returns the exact value of an equation, None where it has none.

  The grammar: decimal numbers without exponent, `+ - * /` with the usual
  precedence, unary minus, parentheses, white space between tokens.

  Args:
    text: any text; at most `MAX_CHARACTERS` characters and `MAX_DEPTH` nested
      parentheses and minus signs are looked at.

  Returns:
    The value, or None for text outside the grammar or above a cap, for a
    division by zero and for a value too large for a float.

  Source: authors' metrics.py calls `eval` and compares floats, by which
    "8.8 - 5.2" is not 3.6. On the published data both give the same verdicts
    save for two outputs that use Python's `and`.
  """
  try:
    tokens = _split_into_tokens(text)
    value = _read_sum(tokens, depth=0)
    _expect(tokens, _END)
    float(value)  # Callers may want a float.
  except (_NotEvaluableError, ZeroDivisionError, OverflowError):
    return None
  return value


def equations_equal(a: str, b: str) -> bool:
  """Tells whether two equations have the same value.

  Args:
    a: one equation.
    b: the other.

  Returns:
    True where both evaluate to the same number; text that does not evaluate
    equals nothing, itself included.
  """
  value = evaluate_equation(a)
  return value is not None and value == evaluate_equation(b)


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


def _read_sum(tokens: list[str], depth: int) -> Fraction:
  value = _read_product(tokens, depth)
  while tokens[-1] in ("+", "-"):
    is_plus = tokens.pop() == "+"
    term = _read_product(tokens, depth)
    value = value + term if is_plus else value - term
  return value


def _read_product(tokens: list[str], depth: int) -> Fraction:
  value = _read_factor(tokens, depth)
  while tokens[-1] in ("*", "/"):
    is_times = tokens.pop() == "*"
    factor = _read_factor(tokens, depth)
    value = value * factor if is_times else value / factor
  return value


def _read_factor(tokens: list[str], depth: int) -> Fraction:
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
  return Fraction(token)


def _expect(tokens: list[str], token: str) -> None:
  if tokens.pop() != token:
    raise _NotEvaluableError
