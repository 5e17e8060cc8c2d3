"""An equation or a number as a teacher writes it, as an equation with a value.

Owns what else may stand in such an answer: currency, thousands marks, units,
results. What is not certain has no reading: another number than the teacher's
is worse than none. Text is untrusted: nothing in it raises, and longer ones
than `MAX_CHARACTERS` are not looked at.
"""

import itertools
import re
from fractions import Fraction

from distill_jax.answers import arithmetic, markup, numerals

MAX_CHARACTERS = 1000

_CHARACTERS = {
  **{code: chr(code - 0xFEE0) for code in range(0xFF01, 0xFF5F)},  # full width
  **dict.fromkeys(map(ord, "×✕∙⋅∗"), "*"),
  **dict.fromkeys(map(ord, "÷∕"), "/"),
  **dict.fromkeys(map(ord, "−–‐‑"), "-"),
  **dict.fromkeys(map(ord, "\u00a0\u202f\u2007\u2009\u3000"), " "),
  # Between digits they must not make one number of two.
  **dict.fromkeys(map(ord, "\u200b\u200c\u200d\u2060\ufeff"), " "),
  ord("。"): ".",
  ord("…"): "...",
  **dict.fromkeys(map(ord, "“”"), '"'),
}
_QUOTES = "`_\"'*"
_CURRENCY = re.compile(r"(?:\b(?:US|CA|AU))?[$€£¥₹]|¢")
_LETTER_PRODUCT = re.compile(r"(?<=[0-9)])(\s*)[xX](\s*)(?=[(.0-9])")
_POINT_PRODUCT = re.compile(r"(?<=[0-9)])(\s*)·(\s*)(?=[(.0-9])")
_HEXADECIMAL = re.compile(r"(?<![0-9.])0[xX][0-9]")
_EQUALS = re.compile(r"[=≈]+")
_PLUS_SIGN = re.compile(r"(^|\()\s*\+\s*(?=[(.0-9])")
_OPERAND = r"[0-9.]+(?:/[0-9.]+)?"
_DIFFERENCES = re.compile(rf"{_OPERAND}(?:\s*-\s*{_OPERAND})+")
_DATE = re.compile(
  r"[0-9]{4}([-/])[0-9]{1,2}\1[0-9]{1,2}"
  r"|[0-9]{1,2}([-/])[0-9]{1,2}\2(?:[0-9]{4}|[0-9]{2})"
)
# Words, each behind a blank; a sentence may follow a full stop.
_WORDS = re.compile(
  r"(?:[,;.!]?\s+[A-Za-z]+(?:['’/-][A-Za-z]+)*['’]?)+[\s,;.!]*"
)
_WORD = re.compile(r"[A-Za-z]+")
_SCALES = {
  "hundred": 10**2,
  "thousand": 10**3,
  "million": 10**6,
  "billion": 10**9,
  "trillion": 10**12,
}
# What makes another number of the one before, or takes it back. Two words that
# do so together stand here as one.
_NO_UNITS = frozenset(
  """
  tens bn mn mio mil mille millones bln mln bil tril mill thou thous grand
  tausend hundert millionen mrd lac lacs lakh lakhs crore crores myriad myriads
  googol doz dz dzn score scores
  half halves halve halved halving third thirds quarter quarters quartered
  dozen dozens dutzend docena docenas douzaine douzaines gross pair pairs couple
  couples percent percents percentage pct percento pourcent porciento prozent
  permille permil promille bp bps basispoint basispoints ppm ppb
  twice thrice fold double doubled doubles doubling triple tripled triples
  treble trebled quadruple quadrupled
  squared cubed factorial plus minus negative divided multiplied remainder
  power thepower root sqrt pi log mod modulo exponent reciprocal inverse
  infinity infinite nil nought naught binary octal hex hexadecimal
  or not no none nor neither but however though although rather instead wait
  wrong incorrect correction sorry oops apologies mistake mistaken error
  recheck reconsider recalculate recompute redo scratchthat holdon
  actually unless except isn aren wasn weren doesn didn
  """.split()
)
_TEENS = "(?:thir|four|fif|six|seven|eigh|nine)teen"
_TENS = "(?:twen|thir|for|fif|six|seven|eigh|nine)t"
_DIGITS = "two|three|four|five|six|seven|eight|nine|ten|eleven|twelve"
_LARGE = "hundred|thousand|milliard|[a-z]*illion"
# "Ones" are things; a "five" is a number, as are "fives" and "fivefold".
_NUMBER_WORD = re.compile(
  rf"(?:zero|{_DIGITS}|{_TEENS}|{_LARGE})(?:e?s|fold)?|one(?:fold)?"
  rf"|{_TENS}(?:y|ies|yfold|ieths?)"
  rf"|(?:four|fif|six|seven|eigh|nin|ten|eleven|twelf|{_TEENS}|{_LARGE})ths?"
  r"|[a-z]+tupled?|(?:multi|mani)fold"
)
# A letter by itself is a variable, save these units.
_LETTER_UNITS = frozenset("ghlms")


def read_equation(answer: str) -> str | None:
  """Reads the equation that an answer is.

  Args:
    answer: one line, such as "(84 / 2) = 42 miles." or "$1,234.50".

  Returns:
    An equation `arithmetic.evaluate_equation` has a value for, in the answer's
    own spelling without what is no part of it; None where the answer is none,
    or may mean another number: "2,3", "3 dozen", "10-12 apples", "5 of 8".
    Of several sides of "=" it is the first that all others agree with, exactly
    or rounded to their own decimals.
  """
  if len(answer) > MAX_CHARACTERS:
    return None
  text = markup.write_plain_math(markup.unwrap(answer)).translate(_CHARACTERS)
  # Two stars are bold print, one is a product.
  text = _strip_quotes(text.replace("**", " "))
  plain = numerals.remove_thousands_marks(_remove_currency(text))
  if plain is None or _HEXADECIMAL.search(plain):
    return None
  has_unit = _CURRENCY.search(text) is not None
  return _read_checked_remark(plain, has_unit) or _read_sides(plain, has_unit)


def _read_checked_remark(text: str, has_unit: bool) -> str | None:
  """Reads "8 (5 + 3 = 8)"."""
  start = _find_opening(text) if text.endswith(")") else 0
  if not start or not _EQUALS.search(text, start):
    return None
  equation = _read_sides(text[:start].strip(), has_unit)
  remark = _read_sides(text[start + 1 : -1].strip(), has_unit)
  if equation is None or remark is None:
    return None
  return remark if arithmetic.equations_equal(equation, remark) else None


def _read_sides(plain: str, has_unit: bool) -> str | None:
  """Reads a text with or without "="; `has_unit`, as of a sum of money."""
  parts = [part.strip() for part in _EQUALS.split(plain)]
  is_checked = len(parts) > 1
  if is_checked and (not parts[0] or _are_words(f" {parts[0]}", is_name=True)):
    parts = parts[1:]  # "= 42", "x = 42"
  # With its result beside it a difference is no range.
  has_unit = has_unit and len(parts) == 1
  sides = [
    _read_side(_write_products(part, is_checked), has_unit) for part in parts
  ]
  for equation in sides:
    if equation is not None and all(_agrees(side, equation) for side in sides):
      return equation
  return None


def _agrees(side: str | None, equation: str) -> bool:
  value = arithmetic.evaluate_equation(equation)
  if side is None or value is None:
    return False
  return arithmetic.equations_equal(
    side, equation
  ) or numerals.is_written_value(side, value)


def _strip_quotes(text: str) -> str:
  text = text.strip().rstrip(".!,; ")
  while len(text) > 2 and text[0] == text[-1] and text[0] in _QUOTES:
    text = text[1:-1].strip().rstrip(".!,; ")
  return text


def _remove_currency(text: str) -> str:
  """Removes currency signs; between two numbers a blank stays."""
  parts, end = [], 0
  for match in _CURRENCY.finditer(text):
    before = text[end : match.start()]
    follows_number = before.rstrip()[-1:] in tuple("0123456789).")
    parts.append(before)
    parts.append(" " if follows_number else "")
    end = match.end()
    while not follows_number and text[end : end + 1].isspace():
      end += 1
  return "".join([*parts, text[end:]])


def _write_products(part: str, is_checked: bool) -> str:
  """Writes "5 x 3" and "5 · 3" with a star.

  "5·3" may be a decimal and "5 x 3 feet" a size. Where a result is beside it,
  that decides.
  """

  def write(match: re.Match[str]) -> str:
    is_point = "·" in match[0]
    is_certain = (match[1] and match[2]) if is_point else not has_unit
    if is_certain or is_checked:
      return f"{match[1]}*{match[2]}"
    return match[0]

  has_unit = part[-1:].isalpha()
  return _POINT_PRODUCT.sub(write, _LETTER_PRODUCT.sub(write, part))


def _read_side(side: str, has_unit: bool) -> str | None:
  """Reads one side of "=", or all of an answer without one."""
  side = _PLUS_SIGN.sub(r"\1", side).strip()
  if _is_equation(side, has_unit):
    return side
  if side.endswith(")") and (start := _find_opening(side)):
    return _read_with_remark(side[:start].rstrip(), side[start:], has_unit)
  return _read_with_unit(side)


def _read_with_remark(side: str, remark: str, has_unit: bool) -> str | None:
  """Reads "8 (5 + 3)" and "8 (apples)"."""
  are_words = _are_words(f" {remark[1:-1].strip()}")
  equation = side if _is_equation(side, has_unit or are_words) else None
  equation = equation or _read_with_unit(side)
  if equation is None or are_words:
    return equation
  if not arithmetic.equations_equal(equation, remark):
    return None
  has_more = numerals.parse_number(remark[1:-1].strip()) is None
  is_result = numerals.parse_number(equation) is not None
  return remark if is_result and has_more else equation


def _find_opening(side: str) -> int:
  """Returns where the parenthesis opens that the last character closes."""
  depth = 0
  for position in range(len(side) - 1, -1, -1):
    depth += {")": 1, "(": -1}.get(side[position], 0)
    if not depth:
      return position
  return 0


def _read_with_unit(side: str) -> str | None:
  """Reads "42 miles" and "5 thousand dollars"."""
  start = max((side.rfind(mark) for mark in "0123456789)"), default=-1) + 1
  equation, words = side[:start], side[start:]
  if not equation or not _WORDS.fullmatch(words):
    return None
  scale = 1
  while (match := re.match(r"\s+([A-Za-z]+)(?![A-Za-z'’/-])", words)) and (
    match[1].lower() in _SCALES
  ):
    scale *= _SCALES[match[1].lower()]
    words = words[match.end() :]
  if words.strip(" ,;.!") and not _are_words(words):
    return None
  if scale > 1:
    number = numerals.parse_number(equation)
    return None if number is None else _write_number(number * scale)
  return equation if _is_equation(equation, has_unit=True) else None


def _are_words(text: str, is_name: bool = False) -> bool:
  """Tells whether words, the first behind a blank, leave a number as it is."""
  if not _WORDS.fullmatch(text):
    return False
  first, *more = _WORD.findall(text)
  is_unit = first.lower() in _LETTER_UNITS or (first == "a" and more)
  if len(first) == 1 and not is_name and not is_unit:
    return False
  if len(first) == 1 and first in "KMB":
    return is_name
  if any(len(word) == 1 and word not in {"a", *_LETTER_UNITS} for word in more):
    return False
  words = [word.lower() for word in (first, *more)]
  pairs = map("".join, itertools.pairwise(words))
  return "MM" not in (first, *more) and not any(
    word in _NO_UNITS or _NUMBER_WORD.fullmatch(word)
    for word in (*words, *pairs)
  )


def _is_equation(text: str, has_unit: bool) -> bool:
  """Tells whether a text has a value and is no range and no date."""
  if arithmetic.evaluate_equation(text) is None:
    return False
  while text.startswith("(") and text.endswith(")") and not _find_opening(text):
    text = text[1:-1].strip()
  return not _DATE.fullmatch(text) and not _is_range(text, has_unit)


def _is_range(text: str, has_unit: bool) -> bool:
  """Tells whether numbers and hyphens are a range, or a number of some kind.

  People write "10-12", "$5 - $10" and "10 - 12 apples" for ranges, and
  "555-1234-99" for telephones; "3 - 13" alone is how teachers subtract.
  """
  is_compact = re.search(r"\s-", text) is None
  if not _DIFFERENCES.fullmatch(text) or not (is_compact or has_unit):
    return False
  values = [
    arithmetic.evaluate_equation(part) or Fraction() for part in text.split("-")
  ]
  steps = [a < b for a, b in itertools.pairwise(values)]
  return any(steps) if is_compact else all(steps)


def _write_number(number: Fraction) -> str:
  """Writes a decimal number of few digits exactly."""
  num_decimals = 0
  while (number * 10**num_decimals).denominator > 1:
    num_decimals += 1
  digits = str(abs(number * 10**num_decimals)).rjust(num_decimals + 1, "0")
  sign = "-" if number < 0 else ""
  if not num_decimals:
    return sign + digits
  return f"{sign}{digits[:-num_decimals]}.{digits[-num_decimals:]}"
