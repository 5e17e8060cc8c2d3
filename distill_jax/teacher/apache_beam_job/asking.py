"""The step of the Beam pipeline that asks: one shard of questions at a time.

A question belongs to the shard that its first request's key says, so equal
questions meet and are asked once. Of N shards each gets an Nth of what the
teacher may be asked, and one worker at a time has it: however a runner spreads
the shards, all together stay within the limits. A shard has a journal of its
own, which outlives the attempt that wrote it: a bundle that is tried again
finds there what the last attempt was answered.
"""

import asyncio
import dataclasses
from collections.abc import Iterable, Iterator, Mapping

# Not installed where pyright runs.
import apache_beam as beam  # pyright: ignore[reportMissingImports]
from apache_beam import pvalue  # pyright: ignore[reportMissingImports]

from distill_jax.data.records import Record
from distill_jax.errors import UserError
from distill_jax.teacher.apache_beam_job import files as beam_files
from distill_jax.teacher.asking import journal, labelling
from distill_jax.teacher.asking.exchange import Request, Response
from distill_jax.teacher.asking.journal import Failure
from distill_jax.teacher.asking.labelling import Limits, Progress
from distill_jax.teacher.prompting import variants
from distill_jax.teacher.prompting.variants import Variant
from distill_jax.teacher.transports.client import TeacherClient
from distill_jax.teacher.transports.config import TeacherConfig

# Outputs of `Ask` besides the questions.
PROBLEM, PROGRESS = "problem", "progress"
# How often what only an object store keeps is written to it anew.
_UPLOAD_SECONDS = 60.0
_UPLOAD_LINES = 10_000


class FoundAnswers(journal.Answers):
  """Answers that were gathered from journals, instead of the journals."""

  def __init__(self, found: Mapping[str, Response | Failure]):
    """Keeps them.

    Args:
      found: request's key -> its response, or how it failed for good.
    """
    super().__init__(())
    self._found = found

  def has_response(self, key: str) -> bool:
    """See the base class."""
    return _is_answer(self._found.get(key))

  def has_final_failure(self, key: str) -> bool:
    """See the base class."""
    return key in self._found and not self.has_response(key)

  def read_response(self, key: str) -> Response | None:
    """See the base class."""
    found = self._found.get(key)
    return found if isinstance(found, Response) else None

  def read_failure(self, key: str) -> Failure | None:
    """See the base class."""
    found = self._found.get(key)
    return found if isinstance(found, Failure) else None


def _is_answer(found: Response | Failure | None) -> bool:
  """Tells whether something known of a request is a text."""
  return isinstance(found, Response) and found.is_answered


@dataclasses.dataclass(frozen=True)
class Question:
  """A question on its way.

  Attributes:
    position: number of its file and of its line there.
    record: it.
    keys: of its requests.
    answers: request's key -> its response, or how it failed for good.
  """

  position: tuple[int, int]
  record: Record
  keys: tuple[str, ...]
  answers: Mapping[str, Response | Failure]

  def get_answers(self) -> FoundAnswers:
    """Returns the answers in the form in which journals give them."""
    return FoundAnswers(self.answers)

  def is_open(self, retry_failures: bool) -> bool:
    """Tells whether a request of it is to be sent."""
    answers = self.get_answers()
    return any(
      labelling.needs_answer(key, answers, retry_failures) for key in self.keys
    )

  def get_shard(self, num_shards: int) -> int:
    """Returns which of the shards asks it."""
    return int(self.keys[0][:16], 16) % num_shards

  def add_answers(self, answers: journal.Answers) -> "Question":
    """Returns it with what another journal says of its requests."""
    found = dict(self.answers)
    for key in self.keys:
      if _is_answer(found.get(key)):
        continue
      if (response := answers.read_response(key)) is not None:
        found[key] = response
      elif answers.has_final_failure(key):
        failure = answers.read_failure(key)
        assert failure is not None
        found[key] = failure
    return dataclasses.replace(self, answers=found)


class Ask(beam.DoFn):
  """(shard, questions), problems -> questions with their answers.

  Asks nothing where there are problems. `PROGRESS` has a `labelling.Progress`
  for each shard, `PROBLEM` the words of each UserError.
  """

  def __init__(
    self,
    variant: Variant,
    client: TeacherConfig,
    limits: Limits,
    folder: str,
    num_shards: int,
  ):
    """Divides the limits; opens nothing and reads no key.

    Args:
      variant: how to ask.
      client: how hard all shards together may ask.
      limits: when to stop.
      folder: the output folder.
      num_shards: at least as many as there ever are side by side, and at most
        `client.max_concurrency`.
    """
    self._variant = variant
    self._client = divide_limits(client, num_shards)
    self._limits = dataclasses.replace(
      limits, max_concurrency=self._client.max_concurrency
    )
    if not beam_files.is_local(folder):
      self._limits = dataclasses.replace(
        self._limits, sync_seconds=_UPLOAD_SECONDS, sync_lines=_UPLOAD_LINES
      )
    self._folder = folder
    self._num_shards = num_shards
    self._runner = self._transport = self._problem = None

  def setup(self):
    """Makes the client, on the worker, whose environment has the key."""
    # One loop for all shards: connections are bound to it.
    self._runner = asyncio.Runner()
    try:
      self._transport = TeacherClient(self._client)
    except UserError as error:
      self._problem = str(error)

  def teardown(self):
    """Releases connections."""
    if self._runner is not None:
      if self._transport is not None:
        self._runner.run(self._transport.close())
      self._runner.close()
      self._runner = self._transport = None

  def process(self, element, problems, *args, **kwargs):
    """Asks what is open of one shard."""
    shard, questions = element
    if problems:
      return
    if self._problem is not None:
      yield pvalue.TaggedOutput(PROBLEM, self._problem)
      return
    try:
      with beam_files.open_shard_journal(
        self._folder, shard, self._num_shards
      ) as (own, answers):
        progress = self._send(questions, own, answers)
        yield pvalue.TaggedOutput(PROGRESS, progress)
        for question in questions:
          yield question.add_answers(answers)
    except UserError as error:
      yield pvalue.TaggedOutput(PROBLEM, str(error))

  def _send(
    self,
    questions: Iterable[Question],
    own: journal.Journal,
    answers: journal.Answers,
  ) -> Progress:
    assert self._runner is not None and self._transport is not None
    return self._runner.run(
      labelling.answer_requests(
        self._list_requests(questions),
        self._transport,
        own,
        answers,
        self._limits,
        labelling.Stop(),
      )
    )

  def _list_requests(
    self, questions: Iterable[Question]
  ) -> Iterator[tuple[Request, str]]:
    """Yields those whose answer no earlier journal has."""
    for question in questions:
      known = question.get_answers()
      for request in variants.make_requests(self._variant, question.record):
        if labelling.needs_answer(
          request.key, known, self._limits.retry_failures
        ):
          yield request, question.record.id


def divide_limits(client: TeacherConfig, num_shards: int) -> TeacherConfig:
  """Returns the limits of one of several that ask at the same time.

  Args:
    client: of all together.
    num_shards: how many there are.

  Returns:
    An Nth of each limit.

  Raises:
    UserError: there are more of them than requests may be under way.
  """
  if num_shards > client.max_concurrency:
    raise UserError(
      f"--num_shards is {num_shards}, and MAX_CONCURRENCY, which they share, is"
      f" {client.max_concurrency}. Give fewer shards, or allow more requests at"
      " a time."
    )
  return dataclasses.replace(
    client,
    max_concurrency=client.max_concurrency // num_shards,
    **{
      name: limit / num_shards
      for name in ("requests_per_minute", "tokens_per_minute")
      if (limit := getattr(client, name)) is not None
    },
  )


def sum_progress(parts: Iterable[Progress]) -> Progress:
  """Returns what became of the requests of all shards."""
  total = Progress()
  for part in parts:
    for field in dataclasses.fields(Progress):
      value = getattr(part, field.name)
      if isinstance(value, str):
        value = value or getattr(total, field.name)
      else:
        # Of truth values, their sum is whether any is true.
        value += getattr(total, field.name)
      setattr(total, field.name, value)
  total.is_in_trouble = bool(total.is_in_trouble)
  total.is_budget_spent = bool(total.is_budget_spent)
  return total
