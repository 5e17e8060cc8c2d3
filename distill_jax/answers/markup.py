"""What chat models put around their words: thinking, Markdown and LaTeX.

Owns which of it is taken away. Texts are untrusted: every step is linear in
their length and nothing raises.
"""

import re
import string
from collections.abc import Iterable, Iterator

# Of DeepSeek R1, Qwen, Gemini and their relatives; the last is Mistral's.
_THINKING_TAG = re.compile(
  r"<(/?)(?:think|thinking|thought)>|\[(/?)THINK\]", re.IGNORECASE
)
_MARKS = "*_#>`~-"
# Longest first. An underscore may be part of a word.
_PAIRS = (
  ("**", "**"),
  ("*", "*"),
  ("`", "`"),
  ("$$", "$$"),
  ("$", "$"),
  ("\\(", "\\)"),
  ("\\[", "\\]"),
)
_MAX_NESTED_PAIRS = 6
_WRAPPER = re.compile(
  r"\\(?:boxed|fbox|text|textbf|textrm|mathrm|mathbf|emph)\s?\{|\{|\}"
)
_BOX_OR_BRACE = re.compile(r"\\boxed\s?\{|\{|\}")
_FRACTION = re.compile(r"\\[dt]?frac\s?\{([^{}]*)\}\s?\{([^{}]*)\}")
_PLAIN = re.compile(r"\s*[0-9.]+\s*")
_COMMANDS = {
  "times": "*",
  "cdot": "*",
  "ast": "*",
  "div": "/",
  "approx": "≈",
  "left": "",
  "right": "",
  "displaystyle": "",
}
_COMMAND = re.compile(r"\\([A-Za-z]+)")
_ESCAPED = re.compile(r"\\([$%#&_{}])")
_NUMBER_START = re.compile(r"[.,]?\d")
_NUMBER_END = re.compile(r"[\d.,]")
_SPACING = re.compile(r"\\[()\[\],;:! ]")


def remove_thinking(text: str) -> tuple[str, bool]:
  """Takes away what a model wrote to itself, between "<think>" and "</think>".

  Args:
    text: an output. Where "</think>" comes without its beginning, which some
      servers leave out, all that precedes it is thinking.

  Returns:
    What is left, and whether the thinking broke off, so that there is no
    answer behind it.
  """
  shown, depth, end = [], 0, 0
  for match in _THINKING_TAG.finditer(text):
    is_closing = bool(match[1] or match[2])
    if not is_closing:
      if not depth:
        shown.append(text[end : match.start()])
      depth += 1
    elif depth > 1:
      depth -= 1
    else:
      shown = shown if depth else []
      depth, end = 0, match.end()
  if depth:
    return _join(shown), True
  return _join([*shown, text[end:]]), False


def strip_opening_marks(text: str) -> tuple[str, str]:
  """Takes away the Markdown marks that open what was cut off behind a text.

  Args:
    text: what precedes, say, "**Answer:** yes" cut before the "A". Marks that
      close a word of it ("**no**") stay.

  Returns:
    The text without white space at its end, and the marks that stood last.
  """
  bare = text.rstrip(_MARKS + string.whitespace)
  tail = text[len(bare) :]
  if bare and tail and not tail[0].isspace():
    # Marks right behind a word close it.
    closing = tail.split(maxsplit=1)[0]
    bare, tail = bare + closing, tail[len(closing) :]
  return bare, (tail.split() or [""])[-1]


def strip_closing_marks(answer: str, before: str) -> str:
  """Takes away the mark at an answer's end that was opened before its marker.

  Args:
    answer: such as "yes**".
    before: what precedes the marker, such as "Of course.\n**".

  Returns:
    The answer; as it is where the mark closes one of its own.
  """
  mark = strip_opening_marks(before)[1].strip("#>`~-")
  bare = answer.rstrip(" .")
  if mark and bare.endswith(mark) and bare.count(mark) % 2:
    return bare.removesuffix(mark) + answer[len(bare) :].rstrip()
  return answer


def unwrap(answer: str) -> str:
  """Takes away what stands around a whole answer: bold print, "$", boxes.

  Args:
    answer: one line, such as "**neutral**", "\\boxed{42}." or "\\(8\\)".

  Returns:
    What it holds, and the full stop behind it.
  """
  answer = _unwrap_commands(answer).strip()
  for _ in range(_MAX_NESTED_PAIRS):
    stop = "." if answer.endswith(".") else ""
    bare = answer.removesuffix(".").rstrip()
    for opening, closing in _PAIRS:
      inner = bare[len(opening) : -len(closing)]
      if (
        inner.strip()
        and bare.startswith(opening)
        and bare.endswith(closing)
        and closing not in inner
      ):
        answer = inner.strip() + stop
        break
    else:
      break
  return answer


def find_boxes(text: str) -> Iterator[tuple[int, int, str]]:
  """Finds each "\\boxed{...}" that is closed and in no other.

  Yields:
    Where it starts and ends, and what it holds.
  """
  depth = 0
  opening = None
  for match in _BOX_OR_BRACE.finditer(text):
    if opening is None:
      if match[0].startswith("\\"):
        opening, depth = match, 1
    elif match[0] == "}":
      depth -= 1
      if not depth:
        yield opening.start(), match.end(), text[opening.end() : match.start()]
        opening = None
    else:
      depth += 1


def write_plain_math(text: str) -> str:
  """Writes LaTeX as plain text: "\\frac{84}{2} \\times 3" as "(84 / 2) * 3"."""
  if "\\" not in text:
    return text
  text = text.replace("{,}", ",")
  text = _FRACTION.sub(_write_fraction, text)
  text = _unwrap_commands(text)
  text = _COMMAND.sub(_write_command, text)
  return _SPACING.sub(" ", _ESCAPED.sub(r"\1", text))


def _write_fraction(match: re.Match[str]) -> str:
  parts = [
    part.strip() if _PLAIN.fullmatch(part) else f"({part.strip()})"
    for part in match.groups()
  ]
  return f"({parts[0]} / {parts[1]})"


def _write_command(match: re.Match[str]) -> str:
  text, start, end = match.string, match.start(), match.end()
  written = _COMMANDS.get(match[1], match[0])
  if not written and _NUMBER_END.match(text[max(0, start - 1) : start]):
    return "" if text[end : end + 1] in ("(", ")") else " "
  return written


def _unwrap_commands(text: str) -> str:
  """Replaces "\\boxed{x}", "\\text{x}" and the like by what they hold."""
  if "\\" not in text:
    return text
  pieces, is_wrapper, end = [], [], 0
  for match in _WRAPPER.finditer(text):
    if match[0] == "}":
      is_taken = is_wrapper.pop() if is_wrapper else False
    else:
      is_taken = match[0] != "{"
      is_wrapper.append(is_taken)
    if is_taken:
      pieces.append(text[end : match.start()])
      end = match.end()
  return _join([*pieces, text[end:]])


def _join(pieces: Iterable[str]) -> str:
  """Joins what stood around that which was removed.

  Digits do not touch then: they would make one number of two.
  """
  joined: list[str] = []
  last = ""
  for piece in filter(None, pieces):
    if _NUMBER_END.match(last) and _NUMBER_START.match(piece):
      joined.append(" ")
    joined.append(piece)
    last = piece[-1]
  return "".join(joined)
