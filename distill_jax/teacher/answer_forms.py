"""The forms of an answer, and how the label of each is read.

Layer 1; imports `answers` only. Takes what stands in an answer's place;
`parsing` finds that place. Text is untrusted: nothing in it raises.
"""

import re
from collections.abc import Callable
from typing import Literal

from distill_jax.answers import arithmetic

AnswerForm = Literal["choice_letter", "closed_set", "equation", "free_text"]

_MIN_PREFIX_CHARACTERS = 3
_PUNCTUATION = ".,;:!?*\"'()"


def read_label(
  answer: str, form: AnswerForm, labels: tuple[str, ...], is_cut: bool
) -> tuple[str | None, str]:
  """Reads a label.

  Args:
    answer: what a teacher wrote in its place.
    form: "choice_letter", a letter in parentheses that names an option;
      "equation", something `evaluate_equation` can read; "closed_set", a word
      of `labels` or an unmistakable beginning of one; "free_text", any line.
    labels: the options in the order of their letters, or the closed set.
    is_cut: the output broke off somewhere.

  Returns:
    The label, None where there is none, and one of `data.records.STATUSES`.
  """
  return _READERS[form](answer, labels, is_cut)


def get_option(letter: str, options: tuple[str, ...]) -> str | None:
  """Returns the option that a letter names, None where there is none."""
  index = ord(letter) - ord("a")
  return options[index] if 0 <= index < len(options) else None


def is_evaluable(equation: str) -> bool:
  """Tells whether an equation has a value."""
  return arithmetic.equations_equal(equation, equation)


def _read_choice_letter(
  answer: str, options: tuple[str, ...], is_cut: bool
) -> tuple[str | None, str]:
  """Takes the first letter; two different ones make it ambiguous."""
  letters = re.findall(r"\(([a-z])\)", answer.lower())
  if not letters:
    return _read_bare_choice(answer, options, is_cut)
  option = get_option(letters[0], options)
  if option is None:
    return None, "outside_label_set"
  return option, "ok" if len(set(letters)) == 1 else "ambiguous"


def _read_bare_choice(
  answer: str, options: tuple[str, ...], is_cut: bool
) -> tuple[str | None, str]:
  """Takes "b", "B." and "b) bank", or the very text of an option."""
  bare = answer.strip(_PUNCTUATION + " ").lower()
  said = [o for o in options if o.strip(_PUNCTUATION + " ").lower() == bare]
  if said:
    return said[0], "ok" if len(set(said)) == 1 else "ambiguous"
  # "a" before a blank is an article.
  letter = re.match(r"[\"'*]*([a-z])(?:[.):*]|$)", answer.lower())
  option = get_option(letter[1], options) if letter else None
  if option is not None:
    return option, "ok"
  return None, "truncated" if is_cut else "outside_label_set"


_SIGNS = str.maketrans(
  {"×": "*", "÷": "/", "−": "-", "–": "-", "$": "", ",": ""}
)
_UNIT = re.compile(r"\s+[A-Za-z][A-Za-z '-]*")


def _read_equation(
  answer: str, _: tuple[str, ...], is_cut: bool
) -> tuple[str | None, str]:
  """Takes the whole line, without full stop, currency and thousands marks.

  A value may follow ("84 / 2 = 42") where it is right, and a unit ("42 miles").
  """
  # Two stars are bold print, one is a product.
  plain = answer.replace("**", " ").strip().removesuffix(".").translate(_SIGNS)
  equation, equals, value = (part.strip() for part in plain.partition("="))
  if equals and not arithmetic.equations_equal(
    _remove_unit(equation), _remove_unit(value)
  ):
    # Neither side is more the answer than the other.
    return None, "truncated" if is_cut else "not_evaluable"
  equation = _remove_unit(equation)
  if is_evaluable(equation):
    return equation, "ok"
  return None, "truncated" if is_cut else "not_evaluable"


def _remove_unit(equation: str) -> str:
  """Returns what precedes words at the end, if only words are there."""
  start = max((equation.rfind(mark) for mark in "0123456789)"), default=-1) + 1
  return equation[:start] if _UNIT.fullmatch(equation[start:]) else equation


def _read_closed_set(
  answer: str, labels: tuple[str, ...], is_cut: bool
) -> tuple[str | None, str]:
  """Takes a label of several words, or else the first word of the answer.

  The word must be a label or begin exactly one, and no other label be named.
  """
  said = answer.strip(_PUNCTUATION + " ").lower()
  named = [label for label in labels if _names(said, label.lower())]
  if len(named) > 1 and said not in (label.lower() for label in labels):
    return None, "ambiguous"
  word = (answer.split() or [""])[0].strip(_PUNCTUATION).lower()
  for label in labels:
    if label.lower() in (said, word):
      return label, "ok"
  begun = [label for label in labels if label.lower().startswith(word)]
  if len(begun) == 1 and len(word) >= _MIN_PREFIX_CHARACTERS:
    return begun[0], "ok"
  return None, "truncated" if begun and is_cut else "outside_label_set"


def _names(text: str, label: str) -> bool:
  return re.search(rf"(?<!\w){re.escape(label)}(?!\w)", text) is not None


def _read_free_text(
  answer: str, _: tuple[str, ...], is_cut: bool
) -> tuple[str | None, str]:
  """Takes the whole line."""
  if answer:
    return answer, "ok"
  return None, "truncated" if is_cut else "outside_label_set"


_READERS: dict[
  AnswerForm, Callable[[str, tuple[str, ...], bool], tuple[str | None, str]]
] = {
  "choice_letter": _read_choice_letter,
  "equation": _read_equation,
  "closed_set": _read_closed_set,
  "free_text": _read_free_text,
}
