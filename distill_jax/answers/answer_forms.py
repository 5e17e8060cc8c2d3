"""The forms of an answer, and how the label of each is read.

Takes what stands in an answer's place; `parsing` finds that place. Text is
untrusted: nothing in it raises.
"""

import re
from collections.abc import Callable
from typing import Literal

from distill_jax.answers import arithmetic, equality, equation_answers, markup

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
# What joins a letter and its option's text: "(b) - bank", "(b), i.e. the bank".
_LEAD = re.compile(
  r"""[\W_]*(?:(?:i\.?\s?e\b\.?|that\sis|which\s(?:is|means)|namely|meaning|viz
  |is)[\W_]+)?""",
  re.VERBOSE,
)
_ARTICLE = re.compile(r"(?:the|an?)\s+")
_DENIAL_BEFORE = re.compile(
  r"\b(?:not|never|nor|neither|cannot be|can['’]t be|rather than|instead of"
  r"|except)\s(?:the\s)?(?:option\s|choice\s|letter\s|answer\s)?\W*$"
  r"|n['’]t\s(?:option\s|choice\s|letter\s)?\W*$"
)
_DENIAL_AFTER = re.compile(
  r"""[\W_]*(?:
    (?:(?:is|was|seems|looks|would\sbe)\s)?
    (?:wrong|incorrect|false|invalid|impossible|excluded|ruled\sout)\b
    |(?:is|was|does|can|could|would)(?:n['’]t|\s?not)\b
    |(?:no\W*$|no,|wait)\b
  )""",
  re.VERBOSE,
)
_LETTERS = re.compile(
  r"(?:either\s)?[a-z](?:(?:,|\s?/|\s?&|,?\s(?:or|and))\s?[a-z])+"
)
_OR = re.compile(r"\W{0,4}(?:(?:or|and)\W|[/&])", re.IGNORECASE)
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
    or _opens_with_other(answer, letters[0], options)
    or _DENIAL_BEFORE.search(before)
    or _is_denied(after, option)
  )
  return option, "ok" if is_certain else "ambiguous"


def _opens_with_other(
  answer: str, letter: str, options: tuple[str, ...]
) -> bool:
  """Tells whether an answer begins as "C. tree" and names "(a)" behind it."""
  answer = markup.unwrap(answer)
  match = _LETTER.match(answer)
  if match is None or match["letter"].lower() == letter:
    return False
  # "A place, (b)" opens with an article.
  is_letter = (
    match["named"] is not None
    or match["closed"] is not None
    or match["letter"] in "BCDEFGHJKLMNOPQRSTUVWXYZ"
    or _OR.match(answer, match.end("letter")) is not None
  )
  return is_letter and get_option(match["letter"].lower(), options) is not None


def _is_denied(after: str, option: str) -> bool:
  """Tells whether "is wrong" or the like follows an option or its text."""
  after = after.lower()
  bare, start = _strip(option), _match_end(_LEAD, after)
  start += _match_end(_ARTICLE, after[start:])
  if bare and after.startswith(bare, start):
    after = after[start + len(bare) :]
  return _DENIAL_AFTER.match(after) is not None


def _names_other(text: str, option: str, options: tuple[str, ...]) -> bool:
  """Tells whether a text, or its first clause, is another option's.

  Where no option is the very text, articles and what joins it do not count.
  """
  for find, write in ((_list_said, _strip), (_list_meant, _strip_article)):
    said = find(text)
    if write(option) in said:
      return False
    if any(write(other) in said for other in options):
      return True
  return False


def _list_said(text: str) -> set[str]:
  """Returns a text and its first clause, bare; neither where they are blank."""
  return {_strip(text), _strip(_CLAUSE_END.split(text, maxsplit=1)[0])} - {""}


def _list_meant(text: str) -> set[str]:
  """Returns what is said behind "- ", "=", "i.e." and an article."""
  text = text.lower()
  start = _match_end(_LEAD, text)
  return {_strip_article(said) for said in _list_said(text[start:])} - {""}


def _strip_article(text: str) -> str:
  bare = _strip(text)
  return bare[_match_end(_ARTICLE, bare) :]


def _match_end(pattern: re.Pattern[str], text: str) -> int:
  match = pattern.match(text)
  return match.end() if match else 0


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
  if (
    others
    or is_one_of_two
    or _names_other(after, option, options)
    or _is_denied(after, option)
  ):
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
    if label.lower() == said:
      return label, "ok"
  first = named[0].lower() if named else word
  if first and _DENIAL_AFTER.match(said.partition(first)[2]):
    return None, "ambiguous"
  for label in labels:
    if label.lower() == word:
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
