"""Tests of answers/numerals.py."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distill_jax.answers import numerals


@pytest.mark.parametrize(
  "text, expected",
  [
    ("1,234", "1234"),
    ("$1,234,567.50", "$1234567.50"),
    ("11,210 / 84", "11210 / 84"),
    ("42, because", "42, because"),
    ("1, 2", "1, 2"),
    ("Paris, France", "Paris, France"),
    # No thousands marks.
    ("2,3", None),
    ("20,00", None),
    ("(14,21)", None),
    ("1,23,456", None),
    ("1234,567", None),
    ("0,500", None),
    ("1.234,567", None),
    ("1,2345", None),
    ("1,,234", None),
  ],
)
def test_thousands_marks(text, expected):
  assert numerals.remove_thousands_marks(text) == expected


@given(st.integers(min_value=0, max_value=10**30))
def test_a_number_with_thousands_marks_is_that_number(number):
  assert numerals.remove_thousands_marks(f"{number:,}") == str(number)


@given(st.integers(0, 10**6), st.integers(0, 10**6))
def test_a_comma_that_divides_no_thousands_is_refused(first, second):
  text = f"{first},{second}"
  is_grouped = text == f"{first * 1000 + second:,}"
  assert (numerals.remove_thousands_marks(text) is not None) == is_grouped


@pytest.mark.parametrize(
  "text, numerator, denominator, expected",
  [
    ("3.33", 10, 3, True),
    ("3.3", 10, 3, True),
    ("6.67", 20, 3, True),
    ("6.66", 20, 3, True),
    ("-3.33", -10, 3, True),
    ("2.50", 5, 2, True),
    ("3", 3, 1, True),
    ("3.", 3, 1, True),
    ("3.34", 10, 3, False),
    ("3", 10, 3, False),
    ("6.68", 20, 3, False),
    ("-3.33", 10, 3, False),
    ("0.0", -1, 3, False),
    ("x", 1, 3, False),
    ("1" * 400, 1, 3, False),
  ],
)
def test_a_value_cut_to_its_own_decimals(
  text, numerator, denominator, expected
):
  value = Fraction(numerator, denominator)
  assert numerals.is_written_value(text, value) == expected


@given(
  st.fractions(min_value=-1000, max_value=1000, max_denominator=1000),
  st.integers(1, 6),
)
def test_a_rounded_value_is_its_value(value, num_decimals):
  rounded = round(value, num_decimals)
  text = f"{float(rounded):.{num_decimals}f}"
  assert numerals.is_written_value(text, value)


@pytest.mark.parametrize("text", ["1e3", "1 2", "", "+1", "1,000", "１"])
def test_what_is_no_plain_number(text):
  assert numerals.parse_number(text) is None
