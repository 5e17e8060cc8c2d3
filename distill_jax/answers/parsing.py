"""What a teacher's output says: its rationale, its answer, how reading went.

Owns the tolerant reading of a raw continuation: one rule driven by an
`OutputFormat`, which a prompt template or a released data set gives
(`official_parsing`, which also has the authors' strict rules). Knows no file,
template, model or framework.

A teacher goes on past its answer into an invented next question until its
budget ends, so all readings first cut at the text that opens one. Outputs are
untrusted: every step is linear in their length and nothing in them raises.
"""

import dataclasses
import re
from collections.abc import Sequence
from typing import Literal, NamedTuple

from distill_jax.answers import (
  answer_forms,
  answer_markers,
  equality,
  finish_reasons,
  markup,
)
from distill_jax.answers.answer_forms import AnswerForm

Order = Literal["rationale_first", "label_first"]


@dataclasses.dataclass(frozen=True)
class ParsedOutput:
  """A teacher's output taken apart.

  Attributes:
    rationale: the reasoning. The strict reading writes a blank where there is
      none, the tolerant one None.
    label: the answer; blank or None in the same way.
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
    order: "rationale_first", the answer is what follows the last marker of
      the first item that has an answer; "label_first", the answer opens the
      output, with or without the marker, and the rest argues for it.
    answer_end: what the prompt's own answers end in, no part of a free text.
    rationale_prefixes: field names that an output may repeat before its
      rationale, no part of it.
    fields: names before the parts of a question. Behind an answer they open
      another, invented item, which does not count.
  """

  answer_form: AnswerForm
  marker: re.Pattern[str]
  stop: str | tuple[str, ...]
  labels: tuple[str, ...] = ()
  order: Order = "rationale_first"
  answer_end: str = ""
  rationale_prefixes: tuple[str, ...] = ()
  fields: tuple[str, ...] = ()


_LIST_ITEM = re.compile(r"[0-9]{1,2}[.)]\s")
_MAX_BESIDE_BOX = 80
# Behind a box: what touches it, and the words of a unit.
_BESIDE_BOX = re.compile(
  r"([\w.,%°]{0,40})[^\w\n]{0,6}([A-Za-z]+(?:[ ][A-Za-z]+)?(?!\w))?"
)


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
      "stop", by itself or at a stop string, which servers then leave out;
      "error" or "content_filter", see `finish_reasons.is_broken_off`. Of
      anything
      else, None included, the text decides.

  Returns:
    Rationale, label and status. In "label_first" order "truncated" may come
    with a label: then the rationale is what broke off. What a server broke off
    is "truncated" with neither.

  Raises:
    ValueError: choices are missing. No text raises.
  """
  labels = get_labels(output_format, choices)
  if finish_reasons.is_broken_off(finish_reason):
    return ParsedOutput(None, None, "truncated")
  text, is_thinking_cut = markup.remove_thinking(text)
  shown, is_cut = cut_at(text, output_format.stop, finish_reason)
  is_over_budget = finish_reasons.is_length(finish_reason)
  output = _Output(
    shown, output_format, labels, is_cut or is_thinking_cut, is_over_budget
  )
  if output_format.order == "label_first":
    return _parse_label_first(output)
  return _parse_rationale_first(output)


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


@dataclasses.dataclass(frozen=True)
class _Output:
  """What is shown of an output, and how it is read.

  Attributes:
    text: without thinking, and up to the stop text.
    format: how it was asked for.
    labels: see `get_labels`.
    is_cut: it broke off.
    is_over_budget: it broke off where its budget ended.
  """

  text: str
  format: OutputFormat
  labels: tuple[str, ...]
  is_cut: bool
  is_over_budget: bool

  def read_answer(self, answer: str, is_cut: bool) -> tuple[str | None, str]:
    """Reads a label from an answer's line."""
    answer = answer.partition("</answer>")[0].strip()
    boxes = list(markup.find_boxes(answer))
    if len(boxes) > 1:
      # Next to each other they would be read as one.
      held = [self._read_one(box[2], is_cut=False) for box in boxes]
      label, status = held[-1]
      if all(self._is_same(other, label) for other, _ in held):
        return label, status
      return None, "ambiguous"
    return self._read_one(answer, is_cut)

  def _read_one(self, answer: str, is_cut: bool) -> tuple[str | None, str]:
    if lead := answer_markers.THE_ANSWER_IS.match(answer):
      answer = answer[lead.end() :].strip()
    if self.format.answer_form == "free_text":
      answer = answer.removesuffix(self.format.answer_end.strip()).strip()
    return answer_forms.read_label(
      answer, self.format.answer_form, self.labels, is_cut
    )

  def names_other(self, answer: str, label: str) -> bool:
    """Tells whether an answer is certain, and another one than a label."""
    _, status = self.read_answer(answer, is_cut=False)
    return status == "ok" and self.differs(answer, label)

  def differs(self, answer: str, label: str) -> bool:
    other, _ = self.read_answer(answer, is_cut=False)
    return not self._is_same(other, label)

  def _is_same(self, a: str | None, b: str | None) -> bool:
    metric = answer_forms.get_metric(self.format.answer_form)
    return (
      a is not None and b is not None and equality.labels_equal(a, b, metric)
    )


class _Reading(NamedTuple):
  """An answer, and where what stands before it ends."""

  rationale_end: int
  label: str | None
  status: str


def _parse_rationale_first(output: _Output) -> ParsedOutput:
  """Reads the answer behind the last marker of the first item that has one.

  Reasoning may say the marker's words too, so within an item the last marker
  counts. Chat models have markers of their own, which count where the one that
  was asked for has no answer.
  """
  questions, answers = _find_items(output)
  ends = sorted([*questions, *answers, len(output.text)])
  asked = _read_first_item(output, output.format.marker, ends, 0)
  if asked is not None and _is_answer(asked):
    return _finish(output, asked)
  # Its answer may be in another form behind it, or anywhere without it.
  start = _skip_prefixes(output) if asked is None else asked.rationale_end + 1
  ends = [*(end for end in questions if end > start), len(output.text)]
  if asked is not None:
    ends = ends[:1]
  common = _read_first_item(output, answer_markers.COMMON, ends, start)
  if common is not None and common.status in ("ok", "ambiguous"):
    return _finish(output, common)
  boxed = _parse_box(output, start, ends[0], asked)
  if boxed is not None:
    return boxed
  if asked is not None:
    return _finish(output, asked)
  # Where reasoning ends is unknown then, so none of it is kept.
  return ParsedOutput(None, None, "truncated" if output.is_cut else "no_marker")


def _is_answer(reading: _Reading) -> bool:
  return reading.label is not None or reading.status == "ambiguous"


def _finish(output: _Output, reading: _Reading) -> ParsedOutput:
  """Returns what was read, unless a line before it is another answer."""
  if reading.label is not None and any(
    output.names_other(match["answer"], reading.label)
    for match in answer_markers.WHOLE_LINE_ANSWER.finditer(
      output.text, 0, reading.rationale_end
    )
  ):
    reading = reading._replace(label=None, status="ambiguous")
  rationale = _strip_rationale(
    output.text[: reading.rationale_end], output.format
  )
  return with_rationale(rationale, reading.label, reading.status)


def _find_items(output: _Output) -> tuple[list[int], list[int]]:
  """Returns where lines begin that open a question, and an answer to one."""
  prefixes = tuple(
    prefix
    for prefix in output.format.rationale_prefixes
    if not output.format.marker.search(prefix)
  )
  starts = []
  for names in (output.format.fields, prefixes):
    # A name without a mark at its end is a word that may begin any line.
    names = tuple(name for name in names if not name[-1:].isalnum())
    matches = (
      answer_markers.compile_fields(names).finditer(output.text)
      if names
      else ()
    )
    starts.append([match.start() for match in matches])
  return starts[0], starts[1]


def _read_first_item(
  output: _Output, pattern: re.Pattern[str], ends: list[int], start: int
) -> _Reading | None:
  """Reads the answer of the first item that has one, or else of the last.

  Before its answer an item may repeat its question, field by field. One whose
  last line holds the marker has ended, whatever its answer is.
  """
  reading = last = None
  markers = pattern.finditer(output.text, start)
  marker = next(markers, None)
  for end in ends:
    while marker is not None and marker.start() < end:
      last, marker = marker, next(markers, None)
    if last is not None:
      reading = _read_behind(output, last.span(), end)
      is_last_line = "\n" not in output.text[last.end() : end].strip()
      if _is_answer(reading) or is_last_line:
        return reading
      last = None
  return reading


def _skip_prefixes(output: _Output) -> int:
  """Returns where an output begins behind its field names."""
  text = output.text.rstrip()
  prefixes = output.format.rationale_prefixes
  return max(0, len(text) - len(_strip_prefixes(text, prefixes)))


def _read_behind(
  output: _Output, marker: tuple[int, int], end: int
) -> _Reading:
  start, answer_start = marker
  behind = output.text[answer_start:end]
  before = output.text[max(0, start - 8) : start]
  answer, has_line_end, _ = behind.strip().partition("\n")
  answer = markup.strip_closing_marks(answer, before)
  is_cut = output.is_cut and end == len(output.text)
  if behind.lstrip(" \t").startswith("\n") and _LIST_ITEM.match(answer):
    answer = ""  # "1. First we add", and not the number one.
  label, status = output.read_answer(answer, is_cut)
  # "18 - 2" may be the beginning of "18 - 26".
  is_open = is_cut and output.is_over_budget and not has_line_end
  if is_open and output.format.answer_form in ("equation", "free_text"):
    label, status = None, "truncated"
  return _Reading(start, label, status)


def _parse_box(
  output: _Output, start: int, end: int, asked: _Reading | None
) -> ParsedOutput | None:
  """Reads the last "\\boxed{...}" of an item, if it is certain.

  Another that holds another answer makes it ambiguous. Without the marker
  that was asked for it is part of the reasoning, unless it has a line of its
  own.
  """
  text = output.text[:end]
  boxes = [box for box in markup.find_boxes(text) if box[0] >= start]
  if not boxes or text.rfind("\\boxed") >= boxes[-1][1]:
    return None  # There is none, or the last one broke off.
  box_start, box_end, answer = boxes[-1]
  label, status = output.read_answer(answer, is_cut=False)
  beside = text[max(0, box_start - 1) : box_end + _MAX_BESIDE_BOX]
  if status != "ok" or label is None or _changes_box(output, label, beside):
    return None
  if any(output.names_other(held, label) for _, _, held in boxes[:-1]):
    label, status = None, "ambiguous"
  line_start = text.rfind("\n", 0, box_start) + 1
  line_end = text.find("\n", box_end)
  line_end = len(text) if line_end < 0 else line_end
  before, after = text[line_start:box_start], text[box_end:line_end]
  if asked is not None:
    rationale = text[: asked.rationale_end]
  elif re.search(r"\w", before + after):
    rationale = text[:box_start] + markup.unwrap(answer) + after
  else:
    rationale = text[:line_start].rstrip()
    rationale = rationale.removesuffix("\\[").removesuffix("$$")
  return with_rationale(
    _strip_rationale(rationale, output.format), label, status
  )


def _changes_box(output: _Output, label: str, text: str) -> bool:
  """Tells whether what stands beside a box makes another number of its own.

  Args:
    output: how it is read.
    label: what the box holds.
    text: the box with the character before it and some behind it, such as
      "-\\boxed{5}", "\\boxed{5}0" and "\\boxed{5} thousand".
  """
  if output.format.answer_form != "equation":
    return False
  (_, end, held), *_ = markup.find_boxes(text)
  match = _BESIDE_BOX.match(text, end)
  glued, words = match.groups("") if match else ("", "")
  whole = [f"\\boxed{{{held}}}{glued}", f"{held} {words}"]
  return (
    text[0] in "-−–"
    or text[0].isdigit()
    or any(output.differs(each, label) for each in whole)
  )


def _parse_label_first(output: _Output) -> ParsedOutput:
  """Reads an answer and then its rationale, on a line of its own or not."""
  text, is_cut = output.text, output.is_cut
  first = len(text) - len(text.lstrip())
  if ends := [end for end in _find_items(output)[0] if end > first]:
    text, is_cut = text[: ends[0]], False
  shown = _strip_prefixes(text, output.format.rationale_prefixes)
  marker_end = _match_marker(shown, output.format.marker)
  opened = shown[marker_end or 0 :].strip()
  answer, separator, rest = opened.partition("\n")
  if not rest.strip():
    # The dot of "3.5" and that of "(a)." differ in what follows.
    answer, separator, rest = opened.partition(". ")
  answer = markup.strip_closing_marks(answer.strip(), shown[:8])
  # An answer that something follows did not break off.
  label, status = output.read_answer(answer, is_cut and not separator)
  if label is None and marker_end is None:
    return ParsedOutput(None, None, "truncated" if is_cut else "no_marker")
  if label is not None and is_cut and status == "ok":
    status = "truncated"
  return with_rationale(_strip_rationale(rest, output.format), label, status)


def _match_marker(text: str, marker: re.Pattern[str]) -> int | None:
  """Returns where the marker ends that opens a text; None: none does."""
  start = len(text) - len(text.lstrip("*_#>`- "))
  for pattern, position in (
    (marker, 0),
    (marker, start),
    (answer_markers.COMMON, 0),
    (answer_markers.THE_ANSWER_IS, start),
  ):
    if match := pattern.match(text, position):
      return match.end()
  return None


def _strip_rationale(text: str, output_format: OutputFormat) -> str | None:
  """Returns the rationale without what opens the answer behind it."""
  text = _strip_prefixes(text, output_format.rationale_prefixes)
  if output_format.order == "rationale_first":
    text, _ = markup.strip_opening_marks(text)
    text = answer_markers.remove_last_heading(text).removesuffix(",")
  return text or None


def _strip_prefixes(text: str, prefixes: tuple[str, ...]) -> str:
  """Returns the text without white space around it and field names before."""
  text = text.strip()
  for prefix in prefixes:
    if match := answer_markers.compile_fields((prefix,)).match(text):
      text = text[match.end() :].lstrip()
  return text


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
    return text[: min(starts)], False
  is_finished = finish_reasons.is_ended(finish_reason) or (
    not finish_reasons.is_length(finish_reason)
    and text.rstrip().endswith((".", "!", "?", '"', ")"))
  )
  return text, bool(text.strip()) and not is_finished


def with_rationale(
  rationale: str | None, label: str | None, status: str
) -> ParsedOutput:
  """Puts the parts together; "ok" needs a rationale that is not blank."""
  if status == "ok" and not (rationale or "").strip():
    status = "empty_rationale"
  return ParsedOutput(rationale, label, status)
