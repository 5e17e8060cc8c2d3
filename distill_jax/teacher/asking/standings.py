"""Whose fault a refusal is that may be of one question or of all.

A 403 or a 404 may say that a key or a model is wrong, or that this one question
is not answered. The other requests to the same model tell: an answer makes its
doubts failures of their questions; many in a row without one end the run. Until
it is known, they are open in the journal, and asked again by another run.

Any other refusal (400, 422) usually concerns its question. But a server may
also say in words that `account_errors` does not know that the credit is used
up: many in a row end the run, too. Those that an earlier run got as well do not
count then.
"""

import asyncio
import dataclasses

from distill_jax.errors import UserError
from distill_jax.teacher.asking.exchange import Request, TeacherError
from distill_jax.teacher.asking.journal import Answers, Journal

_MAX_NAMED = 3


@dataclasses.dataclass(frozen=True)
class Doubt:
  """A refusal that may be of one question or of all.

  Attributes:
    key: of the request.
    question: its id.
    error: the refusal. Without `advice` it likely concerns its question alone.
    was_refused_before: by an earlier run, in the same way.
  """

  key: str
  question: str
  error: TeacherError
  was_refused_before: bool


@dataclasses.dataclass
class Standing:
  """How one model stands in this run.

  Attributes:
    is_answered: it answered something.
    num_under_way: requests to it.
    doubts: since its last answer.
    moved: set for a moment whenever one of these changes.
  """

  is_answered: bool = False
  num_under_way: int = 0
  doubts: list[Doubt] = dataclasses.field(default_factory=list)
  moved: asyncio.Event = dataclasses.field(default_factory=asyncio.Event)

  def begin(self) -> None:
    """Counts a request that is sent."""
    self.num_under_way += 1

  def end(self) -> None:
    """Counts one that has an outcome, which must be noted without a pause."""
    self.num_under_way -= 1
    self.moved.set()
    self.moved.clear()


class Standings:
  """The standings of all models of a run."""

  def __init__(
    self,
    journal: Journal,
    answers: Answers,
    max_first_doubts: int,
    max_doubts_in_a_row: int,
  ):
    """Starts without any.

    Args:
      journal: where doubts are written.
      answers: of all journals.
      max_first_doubts: see `labelling.Limits`.
      max_doubts_in_a_row: see `labelling.Limits`.
    """
    self._journal = journal
    self._answers = answers
    self._max_first_doubts = max_first_doubts
    self._max_doubts_in_a_row = max_doubts_in_a_row
    self._standings: dict[tuple[str, str], Standing] = {}

  def get(self, request: Request) -> Standing:
    """Returns that of the model that a request asks."""
    place = request.model, request.endpoint
    return self._standings.setdefault(place, Standing())

  def note_doubt(self, standing: Standing, doubt: Doubt) -> None:
    """Journals a refusal, as open."""
    self._append(doubt, is_final=False)
    standing.doubts.append(doubt)

  def note_answer(self, standing: Standing) -> int:
    """Makes a model's doubts failures of their questions.

    Returns:
      How many they were.
    """
    standing.is_answered = True
    return self._settle(standing)

  async def wait_for_answer(self, standing: Standing) -> None:
    """Ends the run after too many doubts that no answer settles.

    Refusals come fast and answers take their time, so of requests that were
    sent together the refusals come first.

    Raises:
      UserError: there are too many, and nothing more is under way.
    """
    while self._has_too_many(standing):
      if not standing.num_under_way:
        raise self._blame_all(standing)
      await standing.moved.wait()

  def settle_all(self) -> int:
    """Decides at the end of a run, when no answer is to come.

    Returns:
      How many doubts turned into failures.

    Raises:
      UserError: a model refused all that it was asked.
    """
    num_settled = 0
    for standing in self._standings.values():
      # Who gives the same command again after an end like this one means it.
      is_repeated = self._answers.has_any_response() and all(
        doubt.was_refused_before for doubt in standing.doubts
      )
      advised = [doubt for doubt in standing.doubts if doubt.error.advice]
      # Several at the end likely mean that the account's credit ran out.
      is_account = (
        sum(doubt.error.is_about_account for doubt in advised)
        >= self._max_first_doubts
      )
      is_settled = standing.is_answered or is_repeated or not advised
      if is_account or not is_settled:
        raise self._blame_all(standing)
      num_settled += self._settle(standing)
    return num_settled

  def _has_too_many(self, standing: Standing) -> bool:
    num_advised = sum(
      doubt.error.advice is not None for doubt in standing.doubts
    )
    if num_advised >= (
      self._max_doubts_in_a_row
      if standing.is_answered
      else self._max_first_doubts
    ):
      return True
    num_new = sum(not doubt.was_refused_before for doubt in standing.doubts)
    return num_new >= self._max_doubts_in_a_row

  def _settle(self, standing: Standing) -> int:
    num_settled = len(standing.doubts)
    for doubt in standing.doubts:
      self._append(doubt, is_final=True)
    standing.doubts.clear()
    return num_settled

  def _append(self, doubt: Doubt, is_final: bool) -> None:
    error = TeacherError(
      f"Question {doubt.question!a}: {doubt.error}",
      kind=doubt.error.kind,
      is_final=is_final,
      num_attempts=doubt.error.num_attempts,
    )
    self._journal.append_failure(doubt.key, error)

  def _blame_all(self, standing: Standing) -> UserError:
    doubts = standing.doubts
    names = ", ".join(ascii(doubt.question) for doubt in doubts[:_MAX_NAMED])
    more = ", ..." if len(doubts) > _MAX_NAMED else ""
    error = doubts[-1].error
    advice = error.advice or (
      f"The teacher refuses one request after the other: {error}. Correct what"
      " it names."
    )
    said = f"{advice} So ended question {names}{more}"
    if standing.is_answered:
      said += f", {len(doubts)} in a row."
    else:
      said += " and nothing was answered in this run."
    if not self._answers.has_any_response():
      return UserError(said)
    if len(doubts) < self._max_first_doubts:
      said += (
        " If it is about these questions and not about key or model, the same"
        " command again counts them as failed."
      )
    elif error.advice is None:
      said += (
        " The same command asks them again, and goes on past them if they are"
        " refused again."
      )
    elif error.is_about_account:
      said += (
        " The same command asks them again. If it is about these questions and"
        " not about the account, take them out."
      )
    return UserError(said)
