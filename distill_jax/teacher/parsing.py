"""What a teacher's output says: its rationale, its answer, how reading went.

Owns the tolerant reading of a raw continuation: one rule driven by an
`OutputFormat`, which a prompt template or a released data set gives
(`official_parsing`, which also has the authors' strict rules). Layer 1; imports
answer_forms only; knows no file, template, model or framework.

A teacher goes on past its answer into an invented next question until its
budget ends, so all readings first cut at the text that opens one. Outputs are
untrusted: every step is linear in their length and nothing in them raises.
"""

import dataclasses
import re
from collections.abc import Sequence
from typing import Literal

from distill_jax.teacher import answer_forms
from distill_jax.teacher.answer_forms import AnswerForm

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
    answer_form: how the answer is written, see `answer_forms.read_label`.
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
  labels = get_labels(output_format, choices)
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


def get_labels(
  output_format: OutputFormat, choices: Sequence[str] | None
) -> tuple[str, ...]:
  """Returns the labels there are, in the order of their letters.

  Raises:
    ValueError: they are choices, which are missing.
  """
  if output_format.answer_form != "choice_letter":
    return output_format.labels
  if choices is None:
    raise ValueError(
      f"outputs of form {output_format.answer_form!r} are read with their"
      " choices"
    )
  return tuple(choices)


def _parse_tolerant(
  text: str,
  output_format: OutputFormat,
  labels: tuple[str, ...],
  finish_reason: str | None,
) -> ParsedOutput:
  shown, is_cut = cut_at(text, output_format.stop, finish_reason)
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
  return with_rationale(rationale, label, status)


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
  return with_rationale(_strip_rationale(rest, output_format), label, status)


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
  return answer_forms.read_label(
    answer, output_format.answer_form, labels, is_cut
  )


def cut_at(
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


def with_rationale(
  rationale: str | None, label: str | None, status: str
) -> ParsedOutput:
  """Puts the parts together; "ok" needs a rationale that is not blank."""
  if status == "ok" and not (rationale or "").strip():
    status = "empty_rationale"
  return ParsedOutput(rationale, label, status)
