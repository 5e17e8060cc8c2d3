"""What a teacher's output says: its rationale, its answer, how reading went.

Owns the two readings of a raw continuation. "strict" is the authors' rules to
the letter, blanks and flaws included, for the data sets of their release.
"tolerant" is one rule driven by an `OutputFormat`: one of `FORMATS` for the
outputs released, a prompt template's own for all others. Layer 1; imports
data.arithmetic only; knows no file, template, model or framework.

A teacher goes on past its answer into an invented next question until its
budget ends, so both readings first cut at the text that opens one. Outputs are
untrusted: every step is linear in their length and nothing in them raises.
"""

import dataclasses
import re
from collections.abc import Callable, Sequence
from typing import Literal

from distill_jax.data import arithmetic

AnswerForm = Literal["choice_letter", "closed_set", "equation", "free_text"]
Order = Literal["rationale_first", "label_first"]


@dataclasses.dataclass(frozen=True)
class ParsedOutput:
  """A teacher's output taken apart.

  Attributes:
    rationale: the reasoning. The strict reading writes a blank where there is
      none, the tolerant one None.
    label: the answer, likewise.
    status: one of `data.records.STATUSES`; anything but "ok" says what failed.
      The rationale is kept where only the label fails.
  """

  rationale: str | None
  label: str | None
  status: str


@dataclasses.dataclass(frozen=True)
class OutputFormat:
  """How the tolerant reading takes an output apart.

  Attributes:
    answer_form: "choice_letter", a letter in parentheses that names an option;
      "equation", something `evaluate_equation` can read; "closed_set", a word
      of `labels` or an unmistakable beginning of one; "free_text", any line.
    marker: what stands before the answer.
    stop: what opens the next, invented question; of several, whichever comes
      first.
    labels: the closed set.
    order: "rationale_first", the answer is what follows the last marker;
      "label_first", the answer opens the output, with or without the marker,
      and the rest argues for it.
    answer_end: what the prompt's own answers end in, no part of a free text.
    rationale_prefixes: field names that an output may repeat before its
      rationale, no part of it.
  """

  answer_form: AnswerForm
  marker: re.Pattern[str]
  stop: str | tuple[str, ...]
  labels: tuple[str, ...] = ()
  order: Order = "rationale_first"
  answer_end: str = ""
  rationale_prefixes: tuple[str, ...] = ()


_THE_ANSWER_IS = re.compile(r"(?:\bso,? )?\bthe answer is\b:?", re.IGNORECASE)
_ANSWER_FIELD = re.compile(r"\banswer:", re.IGNORECASE)
_NLI_LABELS = ("entailment", "neutral", "contradiction")
_MIN_PREFIX_CHARACTERS = 3
_PUNCTUATION = ".,;:!?*\"'()"

FORMATS = {
  "cqa": OutputFormat("choice_letter", _THE_ANSWER_IS, "\nQ:"),
  "svamp": OutputFormat("equation", _THE_ANSWER_IS, "\nQ:"),
  "asdiv": OutputFormat("equation", _THE_ANSWER_IS, "\nQ:"),
  "anli1": OutputFormat(
    "closed_set", _THE_ANSWER_IS, "\nPremise:", _NLI_LABELS
  ),
  "esnli": OutputFormat("closed_set", _ANSWER_FIELD, "\nPremise:", _NLI_LABELS),
}


def parse_output(
  text: str,
  dataset: str,
  mode: str,
  choices: Sequence[str] | None = None,
) -> ParsedOutput:
  """Reads one output of a data set's teacher.

  Args:
    text: the raw continuation of the prompt.
    dataset: a name in `FORMATS`.
    mode: "strict" or "tolerant".
    choices: the options in the order of their letters; needed where the
      answer form is "choice_letter".

  Returns:
    Rationale, label and status.

  Raises:
    ValueError: an unknown data set or mode, or choices that are missing. No
      text raises.

  Source: strict, authors' data_utils.py, the `_parse_llm_output` of each
    loader; the statuses are ours.
  """
  if dataset not in FORMATS:
    raise ValueError(f"no output format for {dataset!r}")
  output_format = FORMATS[dataset]
  labels = _get_labels(output_format, choices, dataset)
  if mode == "tolerant":
    return _parse_tolerant(text, output_format, labels, None)
  if mode == "strict":
    return _STRICT_RULES[dataset](text, labels)
  raise ValueError(f"mode {mode!r}")


def parse_with_format(
  text: str,
  output_format: OutputFormat,
  choices: Sequence[str] | None = None,
  finish_reason: str | None = None,
) -> ParsedOutput:
  """Reads one output tolerantly.

  Args:
    text: the raw output.
    output_format: how it was asked for.
    choices: as for `parse_output`.
    finish_reason: why the server says the output ended: "length", the budget;
      "stop", by itself or at a stop string, which servers then leave out. Of
      anything else, None included, the text decides.

  Returns:
    Rationale, label and status. In "label_first" order "truncated" may come
    with a label: then the rationale is what broke off.

  Raises:
    ValueError: choices are missing. No text raises.
  """
  labels = _get_labels(output_format, choices, output_format.answer_form)
  return _parse_tolerant(text, output_format, labels, finish_reason)


def compile_marker(words: str) -> re.Pattern[str]:
  """Makes the pattern of a marker as a prompt writes it.

  Args:
    words: such as "So the answer is", "Answer:" or "####"; not blank.

  Returns:
    A pattern without regard to case and kind of white space, with or without
    a colon at the end. Of "the answer is" the "so" is optional: teachers use
    both whatever the prompt does.
  """
  words = words.strip().removesuffix(":").rstrip() or words.strip()
  if words.lower() in ("the answer is", "so the answer is"):
    return _THE_ANSWER_IS
  pattern = r"\s+".join(re.escape(word) for word in words.split())
  # A field's name without its colon is a word of any sentence.
  is_sentence = " " in words or not words[-1].isalnum()
  colon = ":?" if is_sentence else ":"
  # Only between letters is there a boundary to be kept.
  before = r"(?<!\w)" if words[0].isalnum() else ""
  after = r"(?!\w)" if words[-1].isalnum() else ""
  return re.compile(f"{before}{pattern}{after}{colon}", re.IGNORECASE)


def _get_labels(
  output_format: OutputFormat, choices: Sequence[str] | None, whose: str
) -> tuple[str, ...]:
  if output_format.answer_form != "choice_letter":
    return output_format.labels
  if choices is None:
    raise ValueError(f"outputs of {whose!r} are read with their choices")
  return tuple(choices)


# --- The tolerant reading ---------------------------------------------------


def _parse_tolerant(
  text: str,
  output_format: OutputFormat,
  labels: tuple[str, ...],
  finish_reason: str | None,
) -> ParsedOutput:
  shown, is_cut = _cut_at(text, output_format.stop, finish_reason)
  if output_format.order == "label_first":
    return _parse_label_first(shown, output_format, labels, is_cut)
  markers = list(output_format.marker.finditer(shown))
  if not markers:
    # Where reasoning ends is unknown then, so none of it is kept.
    return ParsedOutput(None, None, "truncated" if is_cut else "no_marker")
  marker = markers[-1]  # Reasoning may say the words too; the end counts.
  rationale = _strip_rationale(shown[: marker.start()], output_format)
  if rationale:
    rationale = rationale.removesuffix(",") or None
  answer, has_line_end, _ = shown[marker.end() :].strip().partition("\n")
  label, status = _read_answer(answer, output_format, labels, is_cut)
  # "18 - 2" may be the beginning of "18 - 26".
  is_open = is_cut and finish_reason == "length" and not has_line_end
  if is_open and output_format.answer_form in ("equation", "free_text"):
    label, status = None, "truncated"
  return _with_rationale(rationale, label, status)


def _parse_label_first(
  shown: str,
  output_format: OutputFormat,
  labels: tuple[str, ...],
  is_cut: bool,
) -> ParsedOutput:
  """Reads an answer and then its rationale, on a line of its own or not."""
  shown = _strip_prefixes(shown, output_format.rationale_prefixes)
  marker = output_format.marker.match(shown)
  opened = shown[marker.end() :].strip() if marker else shown
  answer, separator, rest = opened.partition("\n")
  if not rest.strip():
    # The dot of "3.5" and that of "(a)." differ in what follows.
    answer, separator, rest = opened.partition(". ")
  # An answer that something follows did not break off.
  label, status = _read_answer(
    answer.strip(), output_format, labels, is_cut and not separator
  )
  if label is None and marker is None:
    return ParsedOutput(None, None, "truncated" if is_cut else "no_marker")
  if label is not None and is_cut and status == "ok":
    status = "truncated"
  return _with_rationale(_strip_rationale(rest, output_format), label, status)


def _strip_rationale(text: str, output_format: OutputFormat) -> str | None:
  return _strip_prefixes(text, output_format.rationale_prefixes) or None


def _strip_prefixes(text: str, prefixes: tuple[str, ...]) -> str:
  """Returns the text without white space around it and field names before."""
  text = text.strip()
  for prefix in prefixes:
    text = text.removeprefix(prefix).lstrip()
  return text


def _read_answer(
  answer: str,
  output_format: OutputFormat,
  labels: tuple[str, ...],
  is_cut: bool,
) -> tuple[str | None, str]:
  answer = answer.strip()
  if output_format.answer_form == "free_text":
    answer = answer.removesuffix(output_format.answer_end.strip()).strip()
  return _READERS[output_format.answer_form](answer, labels, is_cut)


def _read_choice_letter(
  answer: str, options: tuple[str, ...], is_cut: bool
) -> tuple[str | None, str]:
  """Takes the first letter; two different ones make it ambiguous."""
  letters = re.findall(r"\(([a-z])\)", answer.lower())
  if not letters:
    return _read_bare_choice(answer, options, is_cut)
  option = _get_option(letters[0], options)
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
  option = _get_option(letter[1], options) if letter else None
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
  if _is_evaluable(equation):
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

  The word must be a label or begin exactly one.
  """
  said = answer.strip(_PUNCTUATION + " ").lower()
  word = (answer.split() or [""])[0].strip(_PUNCTUATION).lower()
  for label in labels:
    if label.lower() in (said, word):
      return label, "ok"
  begun = [label for label in labels if label.lower().startswith(word)]
  if len(begun) == 1 and len(word) >= _MIN_PREFIX_CHARACTERS:
    return begun[0], "ok"
  return None, "truncated" if begun and is_cut else "outside_label_set"


def _read_free_text(
  answer: str, _: tuple[str, ...], is_cut: bool
) -> tuple[str | None, str]:
  """Takes the whole line."""
  if answer:
    return answer, "ok"
  return None, "truncated" if is_cut else "outside_label_set"


_READERS: dict[
  str, Callable[[str, tuple[str, ...], bool], tuple[str | None, str]]
] = {
  "choice_letter": _read_choice_letter,
  "equation": _read_equation,
  "closed_set": _read_closed_set,
  "free_text": _read_free_text,
}


# --- The strict reading: the authors' rules ---------------------------------


def _parse_strict_cqa(text: str, options: tuple[str, ...]) -> ParsedOutput:
  shown, is_cut = _cut_at(text, "Q:")
  parts = shown.rstrip().split("So the answer is")
  if len(parts) != 2:
    # The authors' code would raise; it never happens in their data.
    return ParsedOutput(" ", " ", _get_marker_status(parts, is_cut))
  rationale = parts[0].rstrip()
  # What precedes the first letter, then letters and texts in turn.
  _, *letters_and_texts = re.split(r"\((.)\)", parts[1])
  letters = letters_and_texts[::2]
  label = letters_and_texts[1].strip() if letters else ""
  if not label:
    return _with_rationale(
      rationale, " ", "truncated" if is_cut else "outside_label_set"
    )
  label = label.removesuffix(".")
  status = _get_closed_set_status(label, options, is_cut)
  is_other_option = status == "ok" and label != _get_option(letters[0], options)
  if len(set(letters)) > 1 or is_other_option:
    status = "ambiguous"
  return _with_rationale(rationale, label, status)


def _parse_strict_svamp(text: str, _: tuple[str, ...]) -> ParsedOutput:
  shown, is_cut = _cut_at(text, "Q:")
  parts = shown.rstrip().split("The answer is")
  if len(parts) != 2:
    return ParsedOutput(" ", " ", _get_marker_status(parts, is_cut))
  rationale = parts[0].rstrip()
  # By hand, because a greedy pattern for "from the first to the last
  # parenthesis" takes quadratic time on a line of opening ones.
  for line in parts[1].split("\n"):
    start, end = line.find("("), line.rfind(")") + 1
    if 0 <= start < end:
      break
  else:
    return _with_rationale(
      rationale, " ", "truncated" if is_cut else "not_evaluable"
    )
  label = line[start:end]
  if not _is_evaluable(label):
    status = "truncated" if is_cut else "not_evaluable"
  elif set(line[:start] + line[end:]) & set("+-*/"):
    status = "ambiguous"  # The rule loses what stands outside the parentheses.
  else:
    status = "ok"
  return _with_rationale(rationale, label, status)


def _parse_strict_anli1(text: str, labels: tuple[str, ...]) -> ParsedOutput:
  shown, is_cut = _cut_at(text, "Premise:")
  parts = shown.rstrip().split("So the answer is")
  if len(parts) != 2:
    return ParsedOutput("", "", _get_marker_status(parts, is_cut))
  label = parts[1].lstrip()[:-1]  # Meant for the full stop.
  status = _get_closed_set_status(label, labels, is_cut)
  return _with_rationale(parts[0].rstrip(), label, status)


def _parse_strict_esnli(text: str, labels: tuple[str, ...]) -> ParsedOutput:
  rationale = text.partition("Answer:")[0].rstrip()
  parts = text.split("Answer: ")
  is_cut = _cut_at(text, "Premise")[1]
  if len(parts) == 1:
    # "Answer:" alone is a marker whose answer is blank.
    if "Answer:" in text:
      status = _get_closed_set_status("", labels, is_cut)
    else:
      status = _get_marker_status(parts, is_cut)
    return _with_rationale(rationale, " ", status)
  label = parts[1].partition("Premise")[0].rstrip()
  status = _get_closed_set_status(label, labels, is_cut)
  return _with_rationale(rationale, label, status)


_STRICT_RULES: dict[str, Callable[[str, tuple[str, ...]], ParsedOutput]] = {
  "cqa": _parse_strict_cqa,
  "svamp": _parse_strict_svamp,
  "asdiv": _parse_strict_svamp,
  "anli1": _parse_strict_anli1,
  "esnli": _parse_strict_esnli,
}


# --- What both share --------------------------------------------------------


def _cut_at(
  text: str, stop: str | tuple[str, ...], finish_reason: str | None = None
) -> tuple[str, bool]:
  """Returns what precedes `stop`, and whether the output broke off.

  It did where it neither reached the next question nor ended a sentence, save
  that the server knows better.
  """
  stops = (stop,) if isinstance(stop, str) else stop
  starts = [start for each in stops if (start := text.find(each)) >= 0]
  if starts:
    shown = text[: min(starts)]
    return shown, False
  if finish_reason in ("stop", "length"):
    is_finished = finish_reason == "stop"
  else:
    is_finished = text.rstrip().endswith((".", "!", "?", '"', ")"))
  return text, bool(text.strip()) and not is_finished


def _get_option(letter: str, options: tuple[str, ...]) -> str | None:
  index = ord(letter) - ord("a")
  return options[index] if 0 <= index < len(options) else None


def _is_evaluable(equation: str) -> bool:
  return arithmetic.equations_equal(equation, equation)


def _get_marker_status(parts: list[str], is_cut: bool) -> str:
  """Status of an output whose marker does not occur exactly once."""
  if len(parts) > 1:
    return "ambiguous"
  return "truncated" if is_cut else "no_marker"


def _get_closed_set_status(
  label: str, labels: tuple[str, ...], is_cut: bool
) -> str:
  if label in labels:
    return "ok"
  # Broken off inside the label ("entail"), or inside the text that opens the
  # next question, which the strict rules then take for part of the label.
  if is_cut and any(
    known.startswith(label) or label.startswith(known) for known in labels
  ):
    return "truncated"
  return "outside_label_set"


def _with_rationale(
  rationale: str | None, label: str | None, status: str
) -> ParsedOutput:
  if status == "ok" and not (rationale or "").strip():
    status = "empty_rationale"
  return ParsedOutput(rationale, label, status)
