"""Tests of equation_answers.py: what is certain is read, the rest is not."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distill_jax.answers import arithmetic
from distill_jax.answers.equation_answers import MAX_CHARACTERS, read_equation


@pytest.mark.parametrize(
  "answer, equation",
  [
    ("(84 / 2).", "(84 / 2)"),
    ("( 6 * 4 ) - 5 .", "( 6 * 4 ) - 5"),
    ("+5", "5"),
    ("-5", "-5"),
    ("−5", "-5"),
    ("8!", "8"),
    ("**42**", "42"),
    ("*42*.", "42"),
    ("`42`", "42"),
    ("１２", "12"),
    # Currency and thousands marks.
    ("$1,234.50", "1234.50"),
    ("-$5", "-5"),
    ("$ 42", "42"),
    ("US$42", "42"),
    ("42 €", "42"),
    ("£3.50 each", "3.50"),
    ("(95 * 118) + (11,210 / 84)", "(95 * 118) + (11210 / 84)"),
    # Units, remarks and what follows a full stop.
    ("42\u00a0apples", "42"),
    ("42 miles an hour", "42"),
    ("42 km/h", "42"),
    ("42 sq. ft.", "42"),
    ("8 times", "8"),
    ("42 seconds", "42"),
    ("1/2 hour", "1/2"),
    ("42, since all are red", "42"),
    ("42. Hope this helps!", "42"),
    ("8 (apples)", "8"),
    ("9 a day", "9"),
    ("8 (5 + 3).", "(5 + 3)"),
    ("8 apples (5 + 3 = 8).", "5 + 3"),
    ("8 (8)", "8"),
    ("“42”", "42"),
    ("(5 + 3) (8)", "(5 + 3)"),
    # Words that scale for certain.
    ("5 thousand dollars", "5000"),
    ("2.5 million", "2500000"),
    ("3 hundred thousand people", "300000"),
    ("1.2345 thousand", "1234.5"),
    # Results.
    ("(3 + 4) = 7", "(3 + 4)"),
    ("5 + 3 = 8 = 8", "5 + 3"),
    ("= 42", "42"),
    ("x = 42", "42"),
    ("Total = $42", "42"),
    ("0.1 + 0.2 = 0.3", "0.1 + 0.2"),
    ("10 / 3 = 3.33", "10 / 3"),
    ("10 / 3 ≈ 3.3", "10 / 3"),
    ("10 / 3 = 3.333...", "10 / 3"),
    ("3.33 = 10 / 3", "10 / 3"),
    # No numbers, though they look like some.
    ("42 red ones", "42"),
    ("5 canteens", "5"),
    ("12 months", "12"),
    ("42 hundredweight", "42"),
    ("5 cents", "5"),
    ("8 scaffolds", "8"),
    # Signs of products and quotients.
    ("3 × 4", "3 * 4"),
    ("12 ÷ 4 − 1 miles", "12 / 4 - 1"),
    ("5 x 3 = 15", "5 * 3"),
    ("5 x 3", "5 * 3"),
    ("5 · 3", "5 * 3"),
    ("5·3 = 15", "5*3"),
    # LaTeX.
    (r"\(8\)", "8"),
    ("$8$", "8"),
    (r"\boxed{42}", "42"),
    (r"$\boxed{5 + 3 = 8}$.", "5 + 3"),
    (r"\boxed{\$1{,}200}", "1200"),
    (r"\frac{84}{2} \times 3", "(84 / 2) * 3"),
    (r"42\text{ apples}", "42"),
    # A difference, and no range.
    ("5 - 3 apples", "5 - 3"),
    ("(10 - 12)", "(10 - 12)"),
    ("(3 - 13)", "(3 - 13)"),
    ("$10 - $5", "10 - 5"),
    ("$5 - $10 = -$5", "5 - 10"),
    ("100 - 20 - 30 apples", "100 - 20 - 30"),
    ("$\\boxed{3 - 13}$.", "3 - 13"),
    ("10 - 12", "10 - 12"),
    ("12-10", "12-10"),
  ],
)
def test_what_is_certain(answer, equation):
  assert read_equation(answer) == equation
  assert arithmetic.evaluate_equation(equation) is not None


@pytest.mark.parametrize(
  "answer",
  [
    # A comma that is no thousands mark.
    "2,3",
    "20,00",
    "(14,21)",
    "3,5",
    "1.234,56",
    "0,500",
    "1,23,456",
    # Two numbers must not become one.
    "5$3",
    "1 234",
    "1\u202f234",
    "2\u200b3",
    "3 1/2",
    "3½",
    "5²",
    r"3\frac{1}{2}",
    # Words that make another number, or may.
    "3 dozen eggs",
    "6 pairs of shoes",
    "a couple",
    "3 and a half",
    "42 percent",
    "42%",
    "5k",
    "5 k",
    "5 M",
    "3 thousands",
    "5 or more",
    "2 thirds",
    "5th",
    "3 squared",
    "5!=120",
    "2**3",
    "1.5e3 dollars",
    "0x10",
    "5 per cent",
    "5 per mille",
    "5 grand",
    "5 thou",
    "5 bil",
    "5 mill",
    "5 MM",
    "5 lac",
    "5 doz.",
    "5 score",
    "5 myriad",
    "5 zillion",
    "5 quadrillion dollars",
    "5 permille",
    "5 bps",
    "5 basis points",
    "5 billionths",
    "5 seventeenths",
    "5 twentieths",
    "5 tenfold",
    "5 fold",
    "5 twenties",
    "5 doubled",
    "5 halved",
    "5 tripled",
    "5 quintupled",
    "5 pi",
    "5 root",
    "5 nil",
    "5 negative",
    "5 (negative)",
    "5 to the power",
    # Other numbers beside it.
    "two of 5",
    "5 out of 8",
    "5 out of eight",
    "8 times 3",
    "42 miles and 3 yards",
    "7 remainder 1",
    "3 + 4 thousand",
    # A variable is no unit.
    "2 x",
    "2 * x = 14",
    "12 - x",
    "12 - apples",
    # Ranges, dates, times, sizes, decimals.
    "10-12 apples",
    "10–12",
    "1.5-2 hours",
    "10 - 12 apples",
    "(10-12)",
    "((10-12))",
    "(10-12) apples",
    "(10 - 12) apples",
    "10 - 12 (apples)",
    "$5 - $10",
    "$5 - 10",
    "$(5 - 10)",
    "10 - 12 €",
    "1/2-1 hour",
    "1 - 2 - 3 apples",
    "2020-11-28",
    "(2020-11-28)",
    "555-1234-99",
    "11/28/2026",
    "7:30",
    "5 x 3 feet",
    "5·3",
    # What does not agree, or is taken back.
    "(3 + 4) = 8",
    "10 / 3 = 3",
    "10 / 3 = 3.34",
    "8 (5 + 4)",
    "8 (5 + 3 = 9)",
    "9 (5 + 3 = 8)",
    "5 + 3 = 8 = 9",
    "42. Wait, that is wrong.",
    "5. Correction",
    "5. Sorry",
    # Two numbers that only marks keep apart.
    r"\boxed{5}\boxed{6}",
    r"\boxed{5}.\boxed{6}",
    r"\boxed{12}3",
    r"1\text{2}",
    r"1\text{}2",
    r"1\displaystyle2",
    "5 + 3 =",
    "12 *",
    "",
    "1" * (MAX_CHARACTERS + 1),
  ],
)
def test_what_is_not(answer):
  assert read_equation(answer) is None


_PIECES = st.sampled_from(
  """
  1 23 456 0.5 , . - + * / x = ( ) $ % ! · ½ thousand dozen apples \\boxed{ }
  \\frac{1}{2} ** ` k
  """.split()
  + [" ", ", ", "\\(", "\\)", "\u00a0", "–", "…"]
)


@given(st.lists(_PIECES | st.text(max_size=3), max_size=10).map("".join))
def test_what_is_read_has_a_value(answer):
  equation = read_equation(answer)
  assert equation is None or arithmetic.evaluate_equation(equation) is not None


@given(st.integers(0, 10**9), st.sampled_from(["{}", "{:,}", "${:,}.", "{} m"]))
def test_a_number_is_read_as_that_number(number, form):
  equation = read_equation(form.format(number))
  assert arithmetic.equations_equal(equation, str(number))


@given(
  st.integers(0, 9999),
  st.sampled_from([",", ", ", " ", ":", "$", " of ", "\u200b", "'", "_"]),
  st.integers(0, 99),
)
def test_two_numbers_are_not_read_as_one(first, separator, second):
  assert read_equation(f"{first}{separator}{second}") is None
