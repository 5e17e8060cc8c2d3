"""One label out of several answers: samples of a teacher, several teachers.

Owns when two answers are the same, what a vote weighs, which answer's rationale
is kept and how a tie ends. Knows no prompt and asks no teacher.
"""

import collections
import dataclasses
import math
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

from distill_jax.answers import answer_forms, equality, parsing
from distill_jax.data.records import Record

# A label may be whole though its rationale is missing or broke off; one that
# stands beside another ("ambiguous") is nobody's vote.
_VOTING_STATUSES = ("ok", "empty_rationale", "truncated")
_MIN_ACCURACY = 0.5
# At 1 the weight would be infinite, and no measurement says 1.
_MAX_ACCURACY = 0.999
# Sums of weights are floats, and equal ones may differ in their last digits.
_TIE_TOLERANCE = 1e-9
# What `apply_vote` and its caller write into a record's meta.
META_FIELDS = ("confidence", "is_tie", "votes", "teachers", "failures")


@dataclasses.dataclass(frozen=True)
class Answer:
  """One answer to a question.

  Attributes:
    parsed: what it says.
    teacher: who gave it.
  """

  parsed: parsing.ParsedOutput
  teacher: str


@dataclasses.dataclass(frozen=True)
class Vote:
  """What answers to one question come to.

  Attributes:
    winner: the answer whose label, rationale and status stand for all.
    confidence: the winner's share of the weight of all answers asked for, those
      that could not be read or never came included; 0 where none was read.
    is_tie: another label has as much weight.
    votes: for each label voted for, the most weight first, `label` as first
      written, `num_votes` and `weight`, its share.
    labels_by_teacher: teacher -> the label of each of its answers in order,
      None where it was not read.
  """

  winner: Answer
  confidence: float
  is_tie: bool
  votes: tuple[dict[str, Any], ...]
  labels_by_teacher: dict[str, list[str | None]]


def compute_weight(accuracy: float) -> float:
  """Returns what the vote of a teacher weighs.

  log(p / (1 - p)), with p the accuracy brought into [0.5, 0.999]: the weights
  under which the majority of independent voters between two answers is right
  most often. A teacher that is right half of the time or less weighs nothing.

  Args:
    accuracy: share of right answers on labelled examples, in [0, 1].

  Returns:
    The weight, 0 or above.

  Raises:
    ValueError: the accuracy is outside [0, 1].

  Source: Nitzan and Paroush 1982, "Optimal Decision Rules in Uncertain
    Dichotomous Choice Situations"; more than two answers and voters that err
    together are outside their theorem. The bounds are ours.
  """
  if not 0 <= accuracy <= 1:
    raise ValueError(f"accuracy {accuracy}")
  bounded = min(max(accuracy, _MIN_ACCURACY), _MAX_ACCURACY)
  return math.log(bounded / (1 - bounded))


def take_vote(
  answers: Sequence[Answer],
  answer_form: answer_forms.AnswerForm,
  accuracies: Mapping[str, float] | None = None,
  failed_teachers: Sequence[str] = (),
) -> Vote:
  """Finds the label with the most weight behind it.

  Which labels are the same, `equality` says; options and labels of a closed
  set, whose spelling the reading has settled, may differ in case. Of labels
  with equal weight the one wins that was voted for first, in the order given.
  The winner is the first answer that voted for that label and whose rationale
  is whole; where none has one, the first. Where no answer could be read, it is
  the first with the most frequent status.

  Args:
    answers: one or more, in a fixed order: by teacher, then by sample.
    answer_form: of the template they answer.
    accuracies: teacher -> accuracy; each teacher's weight (`compute_weight`)
      is divided among the answers asked of it, and where none is better than
      half all teachers weigh the same. None: every answer weighs the same.
    failed_teachers: the teacher of each answer that was asked for and never
      came. It has no vote, and counts in the whole of which `confidence` is a
      share.

  Returns:
    The vote.

  Raises:
    ValueError: no answers, or a teacher without accuracy.

  Source: Wang et al. 2022, "Self-Consistency Improves Chain of Thought
    Reasoning" (arXiv 2203.11171), unweighted majority over samples.
  """
  if not answers:
    raise ValueError("no answers to vote")
  asked = [*(answer.teacher for answer in answers), *failed_teachers]
  weights = _weigh(asked, accuracies)
  ballots: dict[Hashable, list[int]] = {}
  for index, key in enumerate(_make_keys(answers, answer_form)):
    if key is not None:
      ballots.setdefault(key, []).append(index)
  # fsum: the sum must not depend on the order.
  shares = {
    key: math.fsum(weights[index] for index in indices)
    for key, indices in ballots.items()
  }
  total = math.fsum(weights)
  ranked, is_tie = _rank(shares)
  if ranked:
    winner = _choose(answers, ballots[ranked[0]])
    confidence = min(shares[ranked[0]] / total, 1.0)
  else:
    winner, confidence = _choose_unread(answers), 0.0
  labels_by_teacher: dict[str, list[str | None]] = {}
  for answer in answers:
    labels_by_teacher.setdefault(answer.teacher, []).append(answer.parsed.label)
  return Vote(
    winner=winner,
    confidence=confidence,
    is_tie=is_tie,
    votes=tuple(
      {
        "label": answers[ballots[key][0]].parsed.label,
        "num_votes": len(ballots[key]),
        "weight": shares[key] / total,
      }
      for key in ranked
    ),
    labels_by_teacher=labels_by_teacher,
  )


def apply_vote(record: Record, vote: Vote) -> Record:
  """Writes a vote into a record.

  Args:
    record: the question's.
    vote: of the answers to it.

  Returns:
    The record with the winner's rationale, label, teacher and status; `meta`
    gains `confidence`, `votes` and `teachers` (`Vote.labels_by_teacher`), and
    `is_tie` where there is one.
  """
  parsed = vote.winner.parsed
  tie = {"is_tie": True} if vote.is_tie else {}
  return dataclasses.replace(
    record,
    rationale=parsed.rationale,
    teacher_label=parsed.label,
    teacher=vote.winner.teacher,
    status=parsed.status,
    meta={
      **record.meta,
      "confidence": vote.confidence,
      **tie,
      "votes": list(vote.votes),
      "teachers": vote.labels_by_teacher,
    },
  )


def _weigh(
  asked: Sequence[str], accuracies: Mapping[str, float] | None
) -> list[float]:
  """Returns the weight of each answer asked for, by its teacher."""
  if accuracies is None:
    return [1.0] * len(asked)
  num_asked = collections.Counter(asked)
  if missing := num_asked.keys() - accuracies.keys():
    raise ValueError(f"no accuracy of {', '.join(sorted(missing))}")
  weights = {name: compute_weight(accuracies[name]) for name in num_asked}
  if not any(weights.values()):
    weights = dict.fromkeys(weights, 1.0)
  return [weights[teacher] / num_asked[teacher] for teacher in asked]


def _make_keys(
  answers: Sequence[Answer], answer_form: answer_forms.AnswerForm
) -> list[Hashable | None]:
  """Returns what equal answers have in common; None: no vote."""
  labels = [
    answer.parsed.label if answer.parsed.status in _VOTING_STATUSES else None
    for answer in answers
  ]
  label_set = None
  if answer_form in ("choice_letter", "closed_set"):
    # Members of one set: what only case tells apart is different.
    label_set = tuple({label: None for label in labels if label is not None})
  metric = answer_forms.get_metric(answer_form)
  return [
    None if label is None else equality.make_key(label, metric, label_set)
    for label in labels
  ]


def _rank(shares: Mapping[Hashable, float]) -> tuple[list[Hashable], bool]:
  """Returns the keys, the most weight first, and whether several have it.

  Keys come in the order in which they were first voted for, and of equals the
  first stays first.
  """
  most = max(shares.values(), default=0.0)
  tied = [
    key
    for key, share in shares.items()
    if math.isclose(share, most, rel_tol=_TIE_TOLERANCE)
  ]
  others = [key for key in shares if key not in tied]
  ranked = [*tied, *sorted(others, key=lambda key: -shares[key])]
  return ranked, len(tied) > 1


def _choose(answers: Sequence[Answer], indices: Sequence[int]) -> Answer:
  for index in indices:
    if answers[index].parsed.status == "ok":
      return answers[index]
  return answers[indices[0]]


def _choose_unread(answers: Sequence[Answer]) -> Answer:
  statuses = collections.Counter(answer.parsed.status for answer in answers)
  (status, _), *_ = statuses.most_common(1)  # the first of equals
  return next(answer for answer in answers if answer.parsed.status == status)
