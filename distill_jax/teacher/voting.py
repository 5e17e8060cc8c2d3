"""One label out of several answers: samples of a teacher, several teachers.

Owns when two answers are the same, what a vote weighs, which answer's rationale
is kept and how a tie ends. Layer 1; imports answers.arithmetic, data.records,
answer_forms and parsing. Knows no prompt and asks no teacher.
"""

import collections
import dataclasses
import math
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

from distill_jax.answers import arithmetic
from distill_jax.data.records import Record
from distill_jax.teacher import answer_forms, parsing

# A label may be whole though its rationale is missing or broke off; one that
# stands beside another ("ambiguous") is nobody's vote.
_VOTING_STATUSES = ("ok", "empty_rationale", "truncated")
_MIN_ACCURACY = 0.5
# At 1 the weight would be infinite, and no measurement says 1.
_MAX_ACCURACY = 0.999


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
    confidence: the winner's share of the weight of all answers, those that
      could not be read included; 0 where none could.
    votes: for each label voted for, the most weight first, `label` as first
      written, `num_votes` and `weight`, its share.
    labels_by_teacher: teacher -> the label of each of its answers in order,
      None where it was not read.
  """

  winner: Answer
  confidence: float
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
) -> Vote:
  """Finds the label with the most weight behind it.

  Equations are the same where their values are; free text without regard to
  case, white space and a full stop at the end; options and labels of a closed
  set where they are equal. Of labels with equal weight the one wins that was
  voted for first, in the order given. The winner is the first answer that
  voted for that label and whose rationale is whole; where none has one, the
  first. Where no answer could be read, it is the first with the most frequent
  status.

  Args:
    answers: one or more, in a fixed order: by teacher, then by sample.
    answer_form: of the template they answer.
    accuracies: teacher -> accuracy; each teacher's weight (`compute_weight`)
      is divided among its answers, and where none is better than half all
      teachers weigh the same. None: every answer weighs the same.

  Returns:
    The vote.

  Raises:
    ValueError: no answers, or a teacher without accuracy.

  Source: Wang et al. 2022, "Self-Consistency Improves Chain of Thought
    Reasoning" (arXiv 2203.11171), unweighted majority over samples.
  """
  if not answers:
    raise ValueError("no answers to vote")
  weights = _weigh(answers, accuracies)
  ballots: dict[Hashable, list[int]] = {}
  for index, answer in enumerate(answers):
    if (key := _make_key(answer.parsed, answer_form)) is not None:
      ballots.setdefault(key, []).append(index)
  # fsum: the sum must not depend on the order, or ties would.
  shares = {
    key: math.fsum(weights[index] for index in indices)
    for key, indices in ballots.items()
  }
  # Sorting keeps equals in the order in which they were first voted for.
  ranked = sorted(ballots, key=lambda key: -shares[key])
  total = math.fsum(weights)
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
    gains `confidence`, `votes` and `teachers` (`Vote.labels_by_teacher`).
  """
  parsed = vote.winner.parsed
  return dataclasses.replace(
    record,
    rationale=parsed.rationale,
    teacher_label=parsed.label,
    teacher=vote.winner.teacher,
    status=parsed.status,
    meta={
      **record.meta,
      "confidence": vote.confidence,
      "votes": list(vote.votes),
      "teachers": vote.labels_by_teacher,
    },
  )


def _weigh(
  answers: Sequence[Answer], accuracies: Mapping[str, float] | None
) -> list[float]:
  if accuracies is None:
    return [1.0] * len(answers)
  num_answers = collections.Counter(answer.teacher for answer in answers)
  if missing := num_answers.keys() - accuracies.keys():
    raise ValueError(f"no accuracy of {', '.join(sorted(missing))}")
  weights = {name: compute_weight(accuracies[name]) for name in num_answers}
  if not any(weights.values()):
    weights = dict.fromkeys(weights, 1.0)
  return [
    weights[answer.teacher] / num_answers[answer.teacher] for answer in answers
  ]


def _make_key(
  parsed: parsing.ParsedOutput, answer_form: answer_forms.AnswerForm
) -> Hashable | None:
  """Returns what equal answers have in common; None: no vote."""
  if parsed.label is None or parsed.status not in _VOTING_STATUSES:
    return None
  if answer_form == "equation":
    return arithmetic.evaluate_equation(parsed.label)
  if answer_form == "free_text":
    return " ".join(parsed.label.casefold().split()).removesuffix(".").rstrip()
  return parsed.label


def _choose(answers: Sequence[Answer], indices: Sequence[int]) -> Answer:
  for index in indices:
    if answers[index].parsed.status == "ok":
      return answers[index]
  return answers[indices[0]]


def _choose_unread(answers: Sequence[Answer]) -> Answer:
  statuses = collections.Counter(answer.parsed.status for answer in answers)
  (status, _), *_ = statuses.most_common(1)  # the first of equals
  return next(answer for answer in answers if answer.parsed.status == status)
