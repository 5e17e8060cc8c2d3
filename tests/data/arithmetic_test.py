"""Tests of data/arithmetic.py against values built along with the text."""

import math
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distill_jax.data import arithmetic
from distill_jax.data.arithmetic import equations_equal, evaluate_equation

_PRECEDENCE = {"+": 1, "-": 1, "*": 2, "/": 2}
_NUMBERS = st.integers(0, 999).flatmap(
  lambda n: st.sampled_from([(str(n), n), (f"{n}.0", n), (f"{n}.5", n + 0.5)])
)


def _combine(parts):
  """Writes `left symbol right` with only the parentheses it needs."""
  symbol, (left, left_value, left_rank), (right, right_value, right_rank) = (
    parts
  )
  rank = _PRECEDENCE[symbol]
  left = f"({left})" if left_rank < rank else left
  # `a - (b - c)`: equal precedence needs parentheses on the right.
  right = f"( {right} )" if right_rank <= rank else right
  if symbol == "/":
    # NaN and not an exception, so that it spreads to what it stands in.
    value = left_value / right_value if right_value else math.nan
  else:
    value = {
      "+": left_value + right_value,
      "-": left_value - right_value,
      "*": left_value * right_value,
    }[symbol]
  return f"{left} {symbol}{right}", value, rank


def _make_expressions(numbers, symbols):
  return st.recursive(
    numbers.map(lambda pair: (*pair, 3)),
    lambda inner: st.tuples(st.sampled_from(symbols), inner, inner).map(
      _combine
    ),
    max_leaves=8,
  )


_SIGNED_FLOATS = st.one_of(
  _NUMBERS.map(lambda pair: (pair[0], float(pair[1]))),
  _NUMBERS.map(lambda pair: (f"-{pair[0]}", -float(pair[1]))),
)


@given(_make_expressions(_SIGNED_FLOATS, "+-*/"))
def test_value_is_that_of_python_operators(expression):
  text, value, _ = expression
  assert evaluate_equation(text) == pytest.approx(
    value, rel=0, abs=0, nan_ok=True
  )


@given(
  _make_expressions(
    _NUMBERS.filter(lambda pair: pair[1] > 0).map(
      lambda pair: (pair[0], Fraction(pair[1]))
    ),
    "+*/",  # No minus: cancellation would cost digits.
  )
)
def test_value_is_near_the_exact_fraction(expression):
  text, value, _ = expression
  assert evaluate_equation(text) == pytest.approx(float(value), rel=1e-12)


@given(st.text(max_size=50) | st.text("0123456789.+-*/() ", max_size=50))
def test_no_text_raises(text):
  evaluate_equation(text)


@pytest.mark.parametrize(
  "text, value",
  [
    ("( 84.0 / 2.0 )", 42),
    ("(16 * 17) * 4", 1088),
    ("2 + 3 * 4", 14),
    ("7 - 2 - 1", 4),
    ("8 / 4 / 2", 1),
    ("2 - -3", 5),
    ("--2", 2),
    (" 5.\t", 5),
    (".5*2", 1),
    ("((7))", 7),
  ],
)
def test_known_values(text, value):
  assert evaluate_equation(text) == value


@pytest.mark.parametrize(
  "text",
  [
    "",
    " ",
    "(",
    "()",
    "(1",
    "1)",
    "1 2",
    "1 +",
    "* 1",
    "3(4)",
    "(175, 5)",
    "(8 / 4) and (6 / 4)",
    "(2 * x)",
    "2 ** 3",
    "7 // 2",
    "1e3",
    "1..2",
    "1 / 0",
    "1 / (2 - 2)",
    "٣",
    "__import__('os')",
    "9" * 400,
  ],
)
def test_not_evaluable(text):
  assert math.isnan(evaluate_equation(text))


def test_caps():
  depth = arithmetic.MAX_DEPTH
  assert evaluate_equation("(" * depth + "1" + ")" * depth) == 1
  depth += 1
  assert math.isnan(evaluate_equation("(" * depth + "1" + ")" * depth))
  assert math.isnan(evaluate_equation("-" * depth + "1"))
  longest = "1" + "+1" * ((arithmetic.MAX_CHARACTERS - 1) // 2)
  assert evaluate_equation(longest) == len(longest) // 2 + 1
  assert math.isnan(evaluate_equation(longest + "+1"))


def test_equal_means_equal_values_and_nan_equals_nothing():
  assert equations_equal("( 84.0 / 2.0 )", "(84 / 2)")
  assert equations_equal("42", "84/2")
  assert not equations_equal("(84 / 2)", "(84 * 2)")
  assert not equations_equal("(2 * x)", "(2 * x)")
  assert not equations_equal("", "")
