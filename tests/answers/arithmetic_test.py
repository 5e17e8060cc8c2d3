"""Tests of answers/arithmetic.py against values built along with the text."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distill_jax.answers import arithmetic
from distill_jax.answers.arithmetic import equations_equal, evaluate_equation

_PRECEDENCE = {"+": 1, "-": 1, "*": 2, "/": 2}
_NUMBERS = st.tuples(
  st.integers(0, 999), st.sampled_from(["", ".0", ".5", ".1", ".37"])
).map(lambda parts: (text := "".join(map(str, parts)), Fraction(text)))


def _combine(parts):
  """Writes `left symbol right` with only the parentheses it needs."""
  symbol, (left, left_value, left_rank), (right, right_value, right_rank) = (
    parts
  )
  rank = _PRECEDENCE[symbol]
  left = f"({left})" if left_rank < rank else left
  # `a - (b - c)`: equal precedence needs parentheses on the right.
  right = f"( {right} )" if right_rank <= rank else right
  if left_value is None or right_value is None:
    value = None
  elif symbol == "/":
    # None and not an exception, so that it spreads to what it stands in.
    value = left_value / right_value if right_value else None
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


_SIGNED = st.one_of(
  _NUMBERS, _NUMBERS.map(lambda pair: (f"-{pair[0]}", -pair[1]))
)


@given(_make_expressions(_SIGNED, "+-*/"))
def test_value_is_the_exact_fraction(expression):
  text, value, _ = expression
  assert evaluate_equation(text) == value


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
    ("8.8 - 5.2", Fraction(18, 5)),
    ("0.1 + 0.2", Fraction(3, 10)),
    ("1.1 * 3", Fraction(33, 10)),
    ("1 / 3", Fraction(1, 3)),
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
  assert evaluate_equation(text) is None


def test_caps():
  depth = arithmetic.MAX_DEPTH
  assert evaluate_equation("(" * depth + "1" + ")" * depth) == 1
  depth += 1
  assert evaluate_equation("(" * depth + "1" + ")" * depth) is None
  assert evaluate_equation("-" * depth + "1") is None
  longest = "1" + "+1" * ((arithmetic.MAX_CHARACTERS - 1) // 2)
  assert evaluate_equation(longest) == len(longest) // 2 + 1
  assert evaluate_equation(longest + "+1") is None


def test_equal_means_equal_values_and_no_value_equals_nothing():
  assert equations_equal("8.8 - 5.2", "3.6")
  assert not equations_equal("1 / 3", "0.3333333333333333")
  assert equations_equal("( 84.0 / 2.0 )", "(84 / 2)")
  assert equations_equal("42", "84/2")
  assert not equations_equal("(84 / 2)", "(84 * 2)")
  assert not equations_equal("(2 * x)", "(2 * x)")
  assert not equations_equal("", "")
