"""What a teacher's output says: its rationale, its answer, how reading went.

Owns the two readings of a raw continuation. "strict" is the authors' rules to
the letter, blanks and flaws included, for the data sets of their release.
"tolerant" is one rule driven by `FORMATS`, where a new data set is one line.
Layer 1; imports data.arithmetic only; knows no file, model or framework.

A teacher goes on past its answer into an invented next question until its
budget ends, so both readings first cut at the text that opens one. Outputs are
untrusted: every step is linear in their length and nothing in them raises.
"""

import dataclasses
import re
from collections.abc import Callable, Sequence
from typing import Literal

from distill_jax.data import arithmetic


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
      of `labels` or an unmistakable beginning of one.
    marker: what stands between rationale and answer.
    stop: what opens the next, invented question.
    labels: the closed set.
  """

  answer_form: Literal["choice_letter", "equation", "closed_set"]
  marker: re.Pattern[str]
  stop: str
  labels: tuple[str, ...] = ()


_THE_ANSWER_IS = re.compile(r"(?:\bso,? )?\bthe answer is\b:?", re.IGNORECASE)
_ANSWER_FIELD = re.compile(r"\banswer:", re.IGNORECASE)
_NLI_LABELS = ("entailment", "neutral", "contradiction")
_MIN_PREFIX_CHARACTERS = 3

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
  labels = output_format.labels
  if output_format.answer_form == "choice_letter":
    if choices is None:
      raise ValueError(f"outputs of {dataset!r} are read with their choices")
    labels = tuple(choices)
  if mode == "tolerant":
    return _parse_tolerant(text, output_format, labels)
  if mode == "strict":
    return _STRICT_RULES[dataset](text, labels)
  raise ValueError(f"mode {mode!r}")


# --- The tolerant reading ---------------------------------------------------


def _parse_tolerant(
  text: str, output_format: OutputFormat, labels: tuple[str, ...]
) -> ParsedOutput:
  shown, is_cut = _cut_at(text, output_format.stop)
  markers = list(output_format.marker.finditer(shown))
  if not markers:
    # Where reasoning ends is unknown then, so none of it is kept.
    return ParsedOutput(None, None, "truncated" if is_cut else "no_marker")
  marker = markers[-1]  # Reasoning may say the words too; the end counts.
  rationale = shown[: marker.start()].strip().removesuffix(",") or None
  answer = shown[marker.end() :].strip().partition("\n")[0].strip()
  label, status = _READERS[output_format.answer_form](answer, labels, is_cut)
  return _with_rationale(rationale, label, status)


def _read_choice_letter(
  answer: str, options: tuple[str, ...], is_cut: bool
) -> tuple[str | None, str]:
  """Takes the first letter; two different ones make it ambiguous."""
  letters = re.findall(r"\(([a-z])\)", answer.lower())
  if not letters:
    return None, "truncated" if is_cut else "outside_label_set"
  option = _get_option(letters[0], options)
  if option is None:
    return None, "outside_label_set"
  return option, "ok" if len(set(letters)) == 1 else "ambiguous"


def _read_equation(
  answer: str, _: tuple[str, ...], is_cut: bool
) -> tuple[str | None, str]:
  """Takes the whole line, without full stop, currency and thousands marks."""
  equation = answer.removesuffix(".").replace("$", "").replace(",", "").strip()
  if _is_evaluable(equation):
    return equation, "ok"
  return None, "truncated" if is_cut else "not_evaluable"


def _read_closed_set(
  answer: str, labels: tuple[str, ...], is_cut: bool
) -> tuple[str | None, str]:
  """Takes the first word where it is a label or begins exactly one."""
  word = (answer.split() or [""])[0].strip(".,;:!?*\"'()").lower()
  for label in labels:
    if label.lower() == word:
      return label, "ok"
  begun = [label for label in labels if label.lower().startswith(word)]
  if len(begun) == 1 and len(word) >= _MIN_PREFIX_CHARACTERS:
    return begun[0], "ok"
  return None, "truncated" if begun and is_cut else "outside_label_set"


_READERS: dict[
  str, Callable[[str, tuple[str, ...], bool], tuple[str | None, str]]
] = {
  "choice_letter": _read_choice_letter,
  "equation": _read_equation,
  "closed_set": _read_closed_set,
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


def _cut_at(text: str, stop: str) -> tuple[str, bool]:
  """Returns what precedes `stop`, and whether the output broke off.

  It did where it neither reached the next question nor ended a sentence.
  """
  shown, found, _ = text.partition(stop)
  is_finished = shown.rstrip().endswith((".", "!", "?", '"', ")"))
  return shown, bool(shown.strip()) and not (found or is_finished)


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
