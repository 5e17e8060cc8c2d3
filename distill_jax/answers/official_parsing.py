"""The released teacher outputs, read by the authors' rules or tolerantly.

Owns the format of each released data set's outputs, and the "strict" reading:
the authors' rules to the letter, blanks and flaws included. "tolerant" is
`parsing`'s one rule with these formats. Outputs are untrusted: every step is
linear in their length and nothing in them raises.
"""

import re
from collections.abc import Callable, Sequence

from distill_jax.answers import answer_forms, answer_markers, parsing
from distill_jax.answers.parsing import OutputFormat, ParsedOutput

_ANSWER_FIELD = answer_markers.compile_marker("Answer:")
_THE_ANSWER_IS = answer_markers.compile_marker("The answer is")
_NLI_FIELDS = ("Premise:", "Hypothesis:")
_NLI_LABELS = ("entailment", "neutral", "contradiction")

FORMATS = {
  "cqa": OutputFormat("choice_letter", _THE_ANSWER_IS, "\nQ:", fields=("Q:",)),
  "svamp": OutputFormat("equation", _THE_ANSWER_IS, "\nQ:", fields=("Q:",)),
  "asdiv": OutputFormat("equation", _THE_ANSWER_IS, "\nQ:", fields=("Q:",)),
  "anli1": OutputFormat(
    "closed_set",
    _THE_ANSWER_IS,
    "\nPremise:",
    _NLI_LABELS,
    fields=_NLI_FIELDS,
  ),
  "esnli": OutputFormat(
    "closed_set", _ANSWER_FIELD, "\nPremise:", _NLI_LABELS, fields=_NLI_FIELDS
  ),
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
  if mode == "tolerant":
    return parsing.parse_with_format(text, output_format, choices)
  if mode == "strict":
    labels = parsing.get_labels(output_format, choices)
    return _STRICT_RULES[dataset](text, labels)
  raise ValueError(f"mode {mode!r}")


def _parse_strict_cqa(text: str, options: tuple[str, ...]) -> ParsedOutput:
  shown, is_cut = parsing.cut_at(text, "Q:")
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
    return parsing.with_rationale(
      rationale, " ", "truncated" if is_cut else "outside_label_set"
    )
  label = label.removesuffix(".")
  status = _get_closed_set_status(label, options, is_cut)
  is_other_option = status == "ok" and label != answer_forms.get_option(
    letters[0], options
  )
  if len(set(letters)) > 1 or is_other_option:
    status = "ambiguous"
  return parsing.with_rationale(rationale, label, status)


def _parse_strict_svamp(text: str, _: tuple[str, ...]) -> ParsedOutput:
  shown, is_cut = parsing.cut_at(text, "Q:")
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
    return parsing.with_rationale(
      rationale, " ", "truncated" if is_cut else "not_evaluable"
    )
  label = line[start:end]
  if not answer_forms.is_evaluable(label):
    status = "truncated" if is_cut else "not_evaluable"
  elif set(line[:start] + line[end:]) & set("+-*/"):
    status = "ambiguous"  # The rule loses what stands outside the parentheses.
  else:
    status = "ok"
  return parsing.with_rationale(rationale, label, status)


def _parse_strict_anli1(text: str, labels: tuple[str, ...]) -> ParsedOutput:
  shown, is_cut = parsing.cut_at(text, "Premise:")
  parts = shown.rstrip().split("So the answer is")
  if len(parts) != 2:
    return ParsedOutput("", "", _get_marker_status(parts, is_cut))
  label = parts[1].lstrip()[:-1]  # Meant for the full stop.
  status = _get_closed_set_status(label, labels, is_cut)
  return parsing.with_rationale(parts[0].rstrip(), label, status)


def _parse_strict_esnli(text: str, labels: tuple[str, ...]) -> ParsedOutput:
  rationale = text.partition("Answer:")[0].rstrip()
  parts = text.split("Answer: ")
  is_cut = parsing.cut_at(text, "Premise")[1]
  if len(parts) == 1:
    # "Answer:" alone is a marker whose answer is blank.
    if "Answer:" in text:
      status = _get_closed_set_status("", labels, is_cut)
    else:
      status = _get_marker_status(parts, is_cut)
    return parsing.with_rationale(rationale, " ", status)
  label = parts[1].partition("Premise")[0].rstrip()
  status = _get_closed_set_status(label, labels, is_cut)
  return parsing.with_rationale(rationale, label, status)


_STRICT_RULES: dict[str, Callable[[str, tuple[str, ...]], ParsedOutput]] = {
  "cqa": _parse_strict_cqa,
  "svamp": _parse_strict_svamp,
  "asdiv": _parse_strict_svamp,
  "anli1": _parse_strict_anli1,
  "esnli": _parse_strict_esnli,
}


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
