"""What stands before an answer, and what opens the next part of an output.

Owns the patterns of markers and field names, with the Markdown around them.
Every pattern takes time linear in the text it searches: what may repeat is
bounded.
"""

import functools
import re

_MARKS = "[*_]{0,3}"
# No underscore: it may be a mark, as in "__Answer:__".
_NO_LETTER_BEFORE, _NO_LETTER_AFTER = r"(?<![^\W_])", r"(?![^\W_])"
_COLON = rf"{_MARKS}[ \t]{{0,2}}[:：]{_MARKS}"
_OPTIONAL_COLON = rf"(?:{_COLON}|{_MARKS})"
_LINE_START = r"^[ \t]{0,3}[-*_#>`]{0,6}[ \t]{0,2}[*_]{0,3}"
_KINDS = r"(?:(?:final|correct|right|best)[ \t]{1,2})?"
_THE_ANSWER_IS = (
  r"(?:\b(?:so|thus|hence|therefore),? )?"
  rf"{_NO_LETTER_BEFORE}the {_KINDS}answer is{_NO_LETTER_AFTER}"
  rf"{_OPTIONAL_COLON}"
)
_ANSWER_FIELD = (
  rf"(?:{_NO_LETTER_BEFORE}the[ \t])?{_KINDS}{_NO_LETTER_BEFORE}answer{_COLON}"
)
_ANSWER_HEADING = (
  r"^[ \t]{0,3}(?:#{1,6}[ \t]{1,4}[*_]{0,3}|[*_]{2,3})"
  rf"{_KINDS}answer{_MARKS}[ \t]{{0,4}}$"
)
_FLAGS = re.IGNORECASE | re.MULTILINE
_EMPTY_ANSWER_LINE = re.compile(
  rf"{_LINE_START}{_ANSWER_FIELD}[ \t]*|{_ANSWER_HEADING}|<answer>", _FLAGS
)

THE_ANSWER_IS = re.compile(_THE_ANSWER_IS, _FLAGS)
# What chat models write whatever the prompt asks for.
COMMON = re.compile(
  rf"{_THE_ANSWER_IS}|{_LINE_START}{_ANSWER_FIELD}|{_ANSWER_HEADING}|<answer>",
  _FLAGS,
)
# An answer that has a line of its own, and lines behind it.
WHOLE_LINE_ANSWER = re.compile(
  rf"{_LINE_START}(?:{_ANSWER_FIELD}|{_THE_ANSWER_IS})(?P<answer>[^\n]+)\n",
  _FLAGS,
)


def compile_marker(words: str) -> re.Pattern[str]:
  """Makes the pattern of a marker as a prompt writes it.

  Args:
    words: such as "So the answer is", "Answer:" or "####"; not blank.

  Returns:
    A pattern without regard to case and kind of white space, with or without
    a colon at the end, and with the marks that close bold print there. Of "so
    the answer is" the "so" is optional, and "the final answer is" is as good:
    teachers use all of them whatever the prompt does.
  """
  words = words.strip().removesuffix(":").rstrip() or words.strip()
  if words.lower() in ("the answer is", "so the answer is"):
    return THE_ANSWER_IS
  if words.lower() in ("answer", "final answer"):
    return re.compile(_ANSWER_FIELD, _FLAGS)
  pattern = r"\s+".join(re.escape(word) for word in words.split())
  # A field's name without its colon is a word of any sentence.
  is_sentence = " " in words or not words[-1].isalnum()
  colon = _OPTIONAL_COLON if is_sentence else _COLON
  # Only between letters is there a boundary to be kept.
  before = _NO_LETTER_BEFORE if words[0].isalnum() else ""
  after = _NO_LETTER_AFTER if words[-1].isalnum() else ""
  return re.compile(f"{before}{pattern}{after}{colon}", _FLAGS)


@functools.lru_cache(maxsize=256)
def compile_fields(names: tuple[str, ...]) -> re.Pattern[str]:
  """Makes the pattern of field names where they open a line.

  Args:
    names: such as "Premise:" or "Q:"; one or more.

  Returns:
    A pattern of any of them and the Markdown marks around it.
  """
  return re.compile(
    rf"{_LINE_START}(?:{'|'.join(map(_write_field, names))})", re.MULTILINE
  )


def remove_last_heading(text: str) -> str:
  """Removes a last line that announces an answer and holds none: "Answer:"."""
  before, _, last_line = text.rpartition("\n")
  if _EMPTY_ANSWER_LINE.fullmatch(last_line):
    return before.rstrip()
  return text


def _write_field(name: str) -> str:
  name = name.strip()
  bare = name.removesuffix(":").rstrip()
  if bare and bare != name:
    return re.escape(bare) + _COLON
  after = _NO_LETTER_AFTER if name[-1:].isalnum() else ""
  return re.escape(name) + after
