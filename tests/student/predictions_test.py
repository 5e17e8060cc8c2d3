"""Tests of student/predictions.py."""

import pytest

from distill_jax.student import predictions


@pytest.mark.parametrize(
  ("equation", "value"),
  [("8 - 3", 5), ("7 / 2", 3.5), ("8 -", None), ("1 / 0", None), ("", None)],
)
def test_an_equations_value_is_a_number_of_json(equation, value):
  found = predictions.evaluate_equation(equation)
  assert (found, type(found)) == (value, type(value))
