"""Sends many requests over one transport and journals what comes of them.

Owns how many are under way, when to stop and what is brought to the disk when.
Knows no prompt, file format or progress bar. Requests come from an iterator and
answers go to the journal, so memory does not grow with their number.
"""

import asyncio
import collections
import contextlib
import dataclasses
from collections.abc import Callable, Iterable, Iterator

from distill_jax.errors import UserError
from distill_jax.teacher.asking.brake import Brake
from distill_jax.teacher.asking.budget import Budget
from distill_jax.teacher.asking.exchange import (
  UNREADABLE,
  Keeping,
  Repeating,
  Request,
  Response,
  TeacherError,
  Transport,
)
from distill_jax.teacher.asking.journal import Answers, Journal
from distill_jax.teacher.asking.standings import Doubt, Standing, Standings

# How many requests are passed over before others have their turn.
_MAX_PASSED_OVER = 50
# How soon a run that waits for its budget finds that it was stopped.
_BUDGET_POLL_SECONDS = 0.2


@dataclasses.dataclass(frozen=True)
class Limits:
  """When to send, sync and stop.

  Attributes:
    max_concurrency: requests under way at once.
    max_open_failures: nothing more is sent once this many requests in a row
      failed in a way that might pass: the server is in trouble, and what is
      left may be asked later.
    sync_lines: the journal is brought to the disk after this many lines.
    sync_seconds: it is also brought there after this time, if it has new lines.
    drain_seconds: how long a stop waits for what is under way.
    retry_failures: ask again what failed for good in an earlier run.
    max_first_refusals: nothing more is sent once this many requests were
      refused for good or got a useless answer, and none got a useful one: what
      they have in common is wrong. Not where failures are asked again, which
      may all fail again.
    max_first_doubts: how many refusals that may concern the key, the account
      or the model as well as one question (403, 404) end a run before the first
      answer of their model. Above 1, or a question that is refused would end
      every run that begins with it.
    max_doubts_in_a_row: how many end it after the first answer, with no answer
      between them, and how many refusals of any kind (400, 422) end it at any
      time: few questions in a row are refused for what they are.
    budget: how much all may cost; None: any.
  """

  max_concurrency: int
  max_open_failures: int = 100
  sync_lines: int = 100
  sync_seconds: float = 1.0
  drain_seconds: float = 30.0
  retry_failures: bool = False
  max_first_refusals: int = 20
  max_first_doubts: int = 3
  max_doubts_in_a_row: int = 20
  budget: Budget | None = None


@dataclasses.dataclass
class Progress:
  """What became of the requests of this run so far.

  Attributes:
    num_sent: given to the transport.
    num_answered: with a text.
    num_failed: failed for good, or answered without a text.
    num_open: failed in a way that might pass, or are to be asked once more.
    prompt_tokens: of the responses, as far as the server counted.
    completion_tokens: as `prompt_tokens`.
    is_in_trouble: it stopped because of `Limits.max_open_failures`.
    last_failure: what the last failure said.
    is_budget_spent: it stopped because of `Limits.budget`.
  """

  num_sent: int = 0
  num_answered: int = 0
  num_failed: int = 0
  num_open: int = 0
  prompt_tokens: int = 0
  completion_tokens: int = 0
  is_in_trouble: bool = False
  last_failure: str = ""
  is_budget_spent: bool = False


class Stop:
  """Asks a run to end: first after what is under way, then at once."""

  def __init__(self):
    self.sending = asyncio.Event()
    self.waiting = asyncio.Event()

  def ask(self) -> None:
    """Sends nothing more; asked again, does not wait either."""
    if self.sending.is_set():
      self.waiting.set()
    self.sending.set()


def needs_answer(key: str, answers: Answers, retry_failures: bool) -> bool:
  """Tells whether a request is to be sent.

  Args:
    key: of the request.
    answers: of all journals.
    retry_failures: what failed for good counts as not asked.

  Returns:
    False where there is a response or a failure that is final.
  """
  if answers.has_response(key):
    return False
  return retry_failures or not answers.has_final_failure(key)


async def answer_requests(
  requests: Iterable[tuple[Request, str]],
  transport: Transport,
  journal: Journal,
  answers: Answers,
  limits: Limits,
  stop: Stop,
  progress_fn: Callable[[Progress], None] = lambda progress: None,
) -> Progress:
  """Sends what has no answer yet and journals what comes.

  Each request is in the journal before it is sent, and sent once, however often
  it stands among the requests. Returns after the journal's last line is on the
  disk.

  Args:
    requests: each with the id of its question; read as they are needed.
    transport: the way to the teacher; not closed here.
    journal: open for writing.
    answers: of all journals, `journal` among them.
    limits: see `Limits`.
    stop: ends the run early.
    progress_fn: called after each outcome.

  Returns:
    What became of them. Fewer than all where the run was stopped.

  Raises:
    UserError: no request can succeed, see also `Limits.max_first_refusals`; or
      the journal cannot be written. What was under way is waited for first.
  """
  run = _Run(
    iter(requests), transport, journal, answers, limits, stop, progress_fn
  )
  return await run.run()


class _Run:
  """One call of `answer_requests`."""

  def __init__(
    self,
    requests: Iterator[tuple[Request, str]],
    transport: Transport,
    journal: Journal,
    answers: Answers,
    limits: Limits,
    stop: Stop,
    progress_fn: Callable[[Progress], None],
  ):
    self._requests = requests
    self._transport = transport
    self._journal = journal
    self._answers = answers
    self._limits = limits
    self._stop = stop
    self._progress_fn = progress_fn
    self._progress = Progress()
    self._turn = asyncio.Lock()
    # Key -> question.
    self._under_way: dict[str, str] = {}
    # How many of them wait for others: for room in the budget before another
    # attempt, or for an answer that shows what a refusal concerns.
    self._num_held = 0
    # Asked in this run; a failure is not asked twice in one.
    self._failed: set[bytes] = set()
    self._num_open_in_a_row = 0
    self._brake = Brake(limits.max_first_refusals)
    self._standings = Standings(
      journal, answers, limits.max_first_doubts, limits.max_doubts_in_a_row
    )
    # Requests whose reply could not be read, once each: they are asked again
    # when all others were, so that a proxy in trouble has time to recover.
    self._again: collections.deque[tuple[Request, str, str]] = (
      collections.deque()
    )
    self._error: Exception | None = None
    self._sync_wanted = asyncio.Event()
    self._settled = asyncio.Event()

  async def run(self) -> Progress:
    if isinstance(self._transport, Repeating):
      self._transport.repeat_fn = self._repeat
    workers = [
      asyncio.create_task(self._work())
      for _ in range(self._limits.max_concurrency)
    ]
    syncing = asyncio.create_task(self._sync_now_and_then())
    try:
      await self._wait_for(workers)
    finally:
      for task in (*workers, syncing):
        task.cancel()
      await asyncio.gather(*workers, syncing, return_exceptions=True)
    if self._error is None and not self._stop.sending.is_set():
      try:
        self._count_settled(self._standings.settle_all())
      except UserError as error:
        self._fail(error)
    if self._error is None or self._journal.num_unsynced:
      self._journal.sync()
    if self._error is not None:
      raise self._error
    return self._progress

  async def _wait_for(self, workers: list[asyncio.Task[None]]) -> None:
    """Waits for all, or, after a stop, for what is under way."""
    finished = asyncio.ensure_future(asyncio.wait(workers))
    stopped = asyncio.create_task(self._stop.sending.wait())
    impatient = asyncio.create_task(self._stop.waiting.wait())
    try:
      await asyncio.wait(
        (finished, stopped), return_when=asyncio.FIRST_COMPLETED
      )
      if not finished.done():
        await asyncio.wait(
          (finished, impatient),
          timeout=self._limits.drain_seconds,
          return_when=asyncio.FIRST_COMPLETED,
        )
    finally:
      for task in (finished, stopped, impatient):
        task.cancel()

  async def _work(self) -> None:
    """Sends one request after the other until there is none."""
    try:
      while (taken := await self._take()) is not None:
        request, key, question = taken
        try:
          await self._ask(request, key, question)
        finally:
          self._under_way.pop(key, None)
          self._settled.set()
    # A bug's, too, must end the run.
    except Exception as error:
      self._fail(error)

  async def _take(self) -> tuple[Request, str, str] | None:
    """Returns the next request to be sent; None: there is none."""
    async with self._turn:
      num_passed_over = 0
      while not self._stop.sending.is_set():
        request, question = next(self._requests, (None, ""))
        if request is None:
          return await self._take_again()
        key = request.key
        if (
          needs_answer(key, self._answers, self._limits.retry_failures)
          and key not in self._under_way
          and bytes.fromhex(key) not in self._failed
        ):
          if not self._is_kept(key) and not await self._fits_budget(request):
            return None
          self._under_way[key] = question
          return request, key, question
        num_passed_over += 1
        if num_passed_over % _MAX_PASSED_OVER == 0:
          await asyncio.sleep(0)
      return None

  async def _take_again(self) -> tuple[Request, str, str] | None:
    if not self._again or not await self._fits_budget(self._again[0][0]):
      return None
    self._progress.num_open -= 1
    request, key, question = self._again.popleft()
    self._under_way[key] = question
    return request, key, question

  def _is_kept(self, key: str) -> bool:
    """Tells whether the server still has a request of an earlier run."""
    return (
      isinstance(self._transport, Keeping)
      and self._journal.ledger.is_open(key)
      and self._transport.has_submitted(key)
    )

  async def _fits_budget(self, request: Request) -> bool:
    """Waits until the budget has room for a request; stops if it never has."""
    budget = self._limits.budget
    while budget is not None and not budget.admits(request):
      if self._stop.sending.is_set():
        return False
      if not self._under_way:
        self._progress.is_budget_spent = True
        self._stop.sending.set()
        return False
      await self._wait_for_room()
    return True

  async def _repeat(self, request: Request) -> bool:
    """Tells whether to send a request again that may be charged already.

    If so, the journal gets another request line.
    """
    budget = self._limits.budget
    self._num_held += 1
    try:
      while budget is not None and not budget.admits(request):
        if self._stop.sending.is_set():
          return False
        if self._num_held >= len(self._under_way):
          self._progress.is_budget_spent = True
          return False
        await self._wait_for_room()
    finally:
      self._num_held -= 1
    key = request.key
    self._journal.append_request(key, request, self._under_way[key])
    return True

  async def _wait_for_room(self) -> None:
    # What is under way counts for the most it can be, and will be less.
    self._settled.clear()
    with contextlib.suppress(TimeoutError):
      async with asyncio.timeout(_BUDGET_POLL_SECONDS):
        await self._settled.wait()

  async def _ask(self, request: Request, key: str, question: str) -> None:
    progress = self._progress
    earlier = self._answers.read_failure(key)
    if not self._is_kept(key):
      self._journal.append_request(key, request, question)
    progress.num_sent += 1
    standing = self._standings.get(request)
    standing.begin()
    try:
      try:
        response = await self._transport.send(request)
      finally:
        standing.end()
    except TeacherError as error:
      if error.advice is not None or error.is_refusal:
        doubt = Doubt(
          key,
          question,
          error,
          earlier is not None and earlier.kind == error.kind,
        )
        self._note_doubt(standing, doubt)
        self._num_held += 1
        try:
          await self._standings.wait_for_answer(standing)
        finally:
          self._num_held -= 1
      else:
        self._journal.append_failure(key, error)
        self._note_failure(key, error)
    except UserError as error:
      # So that no one takes it for a request that was lost, and may be paid.
      ended = TeacherError(
        str(error), kind="fatal", is_final=False, num_attempts=1
      )
      self._journal.append_failure(key, ended)
      raise
    else:
      self._journal.append_response(key, response)
      self._note_response(standing, request, key, question, response)
    if self._journal.num_unsynced >= self._limits.sync_lines:
      self._sync_wanted.set()
    self._progress_fn(progress)

  def _note_response(
    self,
    standing: Standing,
    request: Request,
    key: str,
    question: str,
    response: Response,
  ) -> None:
    progress = self._progress
    progress.prompt_tokens += response.prompt_tokens or 0
    progress.completion_tokens += response.completion_tokens or 0
    if response.status == UNREADABLE:
      self._note_unreadable(request, key, question, response)
      return
    self._num_open_in_a_row = 0
    self._count_settled(self._standings.note_answer(standing))
    if response.is_answered:
      progress.num_answered += 1
    else:
      self._failed.add(bytes.fromhex(key))
      progress.num_failed += 1
    if response.problem is not None:
      progress.last_failure = f"{response.status}: {response.problem}"
      self._note_bad(response.status, response.problem, is_final=True)

  def _note_unreadable(
    self, request: Request, key: str, question: str, response: Response
  ) -> None:
    """Puts a request off once; then its answer is what it is."""
    progress = self._progress
    digest = bytes.fromhex(key)
    problem = response.problem or ""
    progress.last_failure = f"{response.status}: {problem}"
    if digest not in self._failed and needs_answer(
      key, self._answers, self._limits.retry_failures
    ):
      self._again.append((request, key, question))
      progress.num_open += 1
      is_final = False
    else:
      progress.num_failed += 1
      is_final = True
    self._failed.add(digest)
    self._note_open()
    self._note_bad(response.status, problem, is_final)

  def _note_failure(self, key: str, error: TeacherError) -> None:
    self._failed.add(bytes.fromhex(key))
    self._progress.last_failure = f"{error.kind}: {error}"
    if not error.is_final:
      self._progress.num_open += 1
      self._note_open()
      return
    # The server did its part.
    self._num_open_in_a_row = 0
    self._progress.num_failed += 1
    if error.num_attempts:  # What was not sent tells nothing of the server.
      self._note_bad(error.kind, str(error), is_final=True)

  def _note_open(self) -> None:
    self._num_open_in_a_row += 1
    if self._num_open_in_a_row >= self._limits.max_open_failures:
      self._progress.is_in_trouble = True
      self._stop.sending.set()

  def _note_bad(self, kind: str, problem: str, is_final: bool) -> None:
    """Counts a request without a useful answer; ends a run of only such."""
    self._brake.note(kind, is_final)
    if not self._limits.retry_failures:
      self._brake.check(self._progress.num_answered, problem)

  def _note_doubt(self, standing: Standing, doubt: Doubt) -> None:
    self._failed.add(bytes.fromhex(doubt.key))
    self._progress.num_open += 1
    self._progress.last_failure = f"{doubt.error.kind}: {doubt.error}"
    self._standings.note_doubt(standing, doubt)
    if doubt.error.advice is None:
      # The server did its part.
      self._num_open_in_a_row = 0
      if not doubt.was_refused_before:
        self._note_bad(doubt.error.kind, str(doubt.error), is_final=False)

  def _count_settled(self, num_settled: int) -> None:
    self._progress.num_open -= num_settled
    self._progress.num_failed += num_settled

  def _fail(self, error: Exception) -> None:
    """Stops the run; of several errors the first is the cause."""
    if self._error is None:
      self._error = error
    self._stop.sending.set()

  async def _sync_now_and_then(self) -> None:
    try:
      while True:
        # Not wait_for, which before Python 3.12 loses a cancellation that comes
        # as the event does: this task would never end.
        with contextlib.suppress(TimeoutError):
          async with asyncio.timeout(self._limits.sync_seconds):
            await self._sync_wanted.wait()
        self._sync_wanted.clear()
        if self._journal.num_unsynced:
          # In a thread: a slow disk must not hold answers up.
          await asyncio.to_thread(self._journal.sync)
    except Exception as error:
      self._fail(error)
