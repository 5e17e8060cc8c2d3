"""The forms of an answer, and how the label of each is read.

Layer 1; imports `answers` and, of its own folder, equation_answers and markup.
Takes what stands in an answer's place; `parsing` finds that place. Text is
untrusted: nothing in it raises.
"""

import re
from collections.abc import Callable
from typing import Literal

from distill_jax.answers import arithmetic, equality
from distill_jax.teacher import equation_answers, markup

AnswerForm = Literal["choice_letter", "closed_set", "equation", "free_text"]

_MIN_PREFIX_CHARACTERS = 3
_PUNCTUATION = ".,;:!?*_`\"'()“”‘’"
_CLAUSE_END = re.compile(r"[.,;:!?](?=\s)|\s[-–—]\s")
# "B.", "B)", "[B]", "B: bank", "option B" and "B, bank".
_LETTER = re.compile(
  r"""[\s"'*_`(\[]*
  (?P<named>(?:the\s)?(?:(?:correct|right|best)\s)?
    (?:option|choice|letter)\s(?:is\s)?["'*_`(\[]{0,4})?
  (?P<letter>[a-z])
  (?:(?P<closed>[.):*_`\]]|\s[-–—]\s|$)|(?P<comma>,)|\s|(?=[^\w]))""",
  re.IGNORECASE | re.VERBOSE,
)
_LETTERS = re.compile(
  r"(?:either\s)?[a-z](?:(?:,|\s?/|\s?&|,?\s(?:or|and))\s?[a-z])+"
)
_OR_LETTER = re.compile(r"\W{0,4}(?:or|and|/|&)\s(?:option\s)?[a-z](?!\w)")
_CLOSED_LETTERS = re.compile(r"(?<!\w)([a-z])\)")


def read_label(
  answer: str, form: AnswerForm, labels: tuple[str, ...], is_cut: bool
) -> tuple[str | None, str]:
  """Reads a label.

  Args:
    answer: what a teacher wrote in its place.
    form: "choice_letter", a letter that names an option; "equation", what
      `equation_answers` can read; "closed_set", a word of `labels` or an
      unmistakable beginning of one; "free_text", any line.
    labels: the options in the order of their letters, or the closed set.
    is_cut: the output broke off somewhere.

  Returns:
    The label, None where there is none, and one of `data.records.STATUSES`.
  """
  return _READERS[form](answer, labels, is_cut)


def get_metric(form: AnswerForm) -> equality.LabelMetric:
  """Returns by which labels of a form are the same, see `equality`."""
  return "equation" if form == "equation" else "exact_match"


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
  """Takes the first letter.

  Two different ones make it ambiguous, and so does the text of another option
  beside it.
  """
  lowered = markup.unwrap(answer).lower()
  letters = re.findall(r"\(([a-z])\)", lowered)
  if not letters:
    return _read_bare_choice(markup.unwrap(answer), options, is_cut)
  option = get_option(letters[0], options)
  if option is None:
    return None, "outside_label_set"
  before, _, after = lowered.partition(f"({letters[0]})")
  is_certain = len(set(letters)) == 1 and not (
    _names_other(after, option, options)
    or _names_other(before, option, options)
  )
  return option, "ok" if is_certain else "ambiguous"


def _names_other(text: str, option: str, options: tuple[str, ...]) -> bool:
  """Tells whether a text, or its first clause, is another option's."""
  said = _list_said(text)
  if _strip(option) in said:
    return False
  return any(_strip(other) in said for other in options)


def _list_said(text: str) -> set[str]:
  """Returns a text and its first clause, bare; neither where they are blank."""
  return {_strip(text), _strip(_CLAUSE_END.split(text, maxsplit=1)[0])} - {""}


def _read_bare_choice(
  answer: str, options: tuple[str, ...], is_cut: bool
) -> tuple[str | None, str]:
  """Takes "b", "B.", "b) bank", "option B", or the very text of an option."""
  bare = _strip(answer)
  # An option may be nothing but marks.
  said = [o for o in options if (_strip(o) == bare if bare else o == answer)]
  if said:
    return said[0], "ok" if len(set(said)) == 1 else "ambiguous"
  unread = None, "truncated" if is_cut else "outside_label_set"
  if _LETTERS.fullmatch(bare):
    letters = re.findall(r"(?<!\w)[a-z](?!\w)", bare)
    is_read = all(get_option(letter, options) for letter in letters)
    return (None, "ambiguous") if is_read else unread
  if (match := _LETTER.match(answer)) is None:
    return unread
  letter, after = match["letter"], answer[match.end() :].lower()
  option = get_option(letter.lower(), options)
  if option is None:
    return unread
  names_own = _strip(option) in _list_said(after)
  # "a" before a blank is an article, and one before a comma may be.
  is_letter = (
    match["named"] is not None
    or match["closed"] is not None
    or (match["comma"] is not None and letter.isupper())
    or (names_own and letter != "a")
  )
  if not is_letter:
    return unread
  others = set(_CLOSED_LETTERS.findall(after)) - {letter.lower()}
  is_one_of_two = _OR_LETTER.match(after) is not None
  if others or is_one_of_two or _names_other(after, option, options):
    return option, "ambiguous"
  return option, "ok"


def _strip(text: str) -> str:
  return text.strip(_PUNCTUATION + " ").lower()


def _read_equation(
  answer: str, _: tuple[str, ...], is_cut: bool
) -> tuple[str | None, str]:
  """Takes the whole line, see `equation_answers.read_equation`."""
  equation = equation_answers.read_equation(answer)
  if equation is not None:
    return equation, "ok"
  return None, "truncated" if is_cut else "not_evaluable"


def _read_closed_set(
  answer: str, labels: tuple[str, ...], is_cut: bool
) -> tuple[str | None, str]:
  """Takes a label of several words, or else the first word of the answer.

  The word must be a label or begin exactly one, and no other label be named.
  """
  for label in labels:
    if answer.strip() in (label, f"{label}."):
      return label, "ok"  # A label may be nothing but marks.
  answer = markup.unwrap(answer)
  said = _strip(answer)
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
  """Takes the whole line without the marks around it."""
  if answer := markup.unwrap(answer):
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
