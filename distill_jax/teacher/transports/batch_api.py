"""Asks a teacher through its provider's batch API: cheaper, and within a day.

The same `send` as the direct client's, which returns once the batch that holds
the request is done. Callers therefore send all their requests at once, and
nothing is submitted before one of these: `flush()`, a full batch, or a while in
which no further request came.

What was submitted is in a small JSON file, so that a restart asks for the
results of its batches instead of paying for them again. It is written before a
batch is created and completed after: a run killed in between looks for the
batch at the provider's first. Batches stay in the file, because only the caller
knows when an answer is safe; it does not send what it has. What failed does not
stay: sent again, it is submitted again.
"""

import asyncio
import dataclasses
import itertools
import json
import logging
import os
import pathlib
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from distill_jax.config import declaration
from distill_jax.config.declaration import field
from distill_jax.errors import UserError
from distill_jax.teacher.asking import exchange
from distill_jax.teacher.asking.exchange import Request, Response, TeacherError
from distill_jax.teacher.reading import replies
from distill_jax.teacher.transports import batch_replies, client
from distill_jax.teacher.transports.batch_state import Batch, BatchState
from distill_jax.teacher.transports.config import TeacherConfig

_log = logging.getLogger(__name__)

_DONE_STATUSES = ("completed", "expired", "cancelled")

Outcome = Response | replies.Failure | Exception


@dataclasses.dataclass(frozen=True)
class BatchConfig:
  """How requests become batches."""

  state_path: str | os.PathLike[str] | None = field(
    macro="BATCH_STATE_PATH",
    gin_text="None",
    help="the file that knows what was submitted; None: in OUTPUT_PATH",
  )
  poll_seconds: float = field(
    60.0,
    macro="BATCH_POLL_SECONDS",
    above=0,
    help="between two looks at a batch",
  )
  idle_seconds: float = field(
    5.0,
    macro="BATCH_IDLE_SECONDS",
    above=0,
    help="what is collected is submitted once no request came for this long",
  )
  max_requests: int = field(
    50_000, macro="BATCH_MAX_REQUESTS", above=0, help="in one batch"
  )
  max_bytes: int = field(
    100_000_000,
    macro="BATCH_MAX_BYTES",
    above=0,
    help="of one batch's file",
  )
  completion_window: str = field(
    "24h",
    macro="BATCH_COMPLETION_WINDOW",
    help="what the provider promises, in its words",
  )

  def __post_init__(self):
    declaration.check(self)


class BatchTransport:
  """A `Transport` by way of batches; see the module."""

  def __init__(
    self,
    config: TeacherConfig,
    batch_config: BatchConfig,
    *,
    rng: random.Random | None = None,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
  ):
    """Reads what was submitted before; opens nothing yet.

    Args:
      config: the server and the limits of single calls to it. Its rate limits
        are not for batches, which providers count apart.
      batch_config: sizes and times of batches.
      rng: draws the waits between attempts; None: one with a random seed.
      clock: seconds, never going back.
      sleep: waits so many seconds.

    Raises:
      UserError: no key, no `openai` package, or a state file of something else.
    """
    # Here, so that whoever only trains needs no `openai`.
    from distill_jax.teacher.transports import batch_calls, connection

    self._config = config
    self._batch_config = batch_config
    self._connection = connection.Connection(
      config, rng=rng, clock=clock, sleep=sleep
    )
    self._calls = batch_calls.BatchCalls(
      self._connection, batch_config.completion_window
    )
    self._sleep = sleep
    assert batch_config.state_path is not None
    self._state = BatchState(
      pathlib.Path(batch_config.state_path), config.base_url
    )
    self._batch_of_key = {
      key: batch for batch in self._state.batches for key in batch.keys
    }
    self._creating: set[str] = set()  # Input files of batches about to be.
    self._reconcile_lock = asyncio.Lock()
    # What is collected, by model and endpoint: a batch has one of each.
    self._collected: dict[tuple[str, str], dict[str, bytes]] = {}
    self._num_collected_bytes: dict[tuple[str, str], int] = {}
    self._idle_timer: asyncio.TimerHandle | None = None
    self._waiting: dict[str, asyncio.Future[Outcome]] = {}
    # Of batches that are done, what nobody has asked for yet.
    self._unclaimed: dict[str, Outcome] = {}
    self._followers: dict[str, asyncio.Task[None]] = {}
    self._submissions: set[asyncio.Task[None]] = set()

  async def send(self, request: Request) -> Response:
    """Returns the answer to a request, once its batch is done.

    Raises:
      TeacherError: there is none.
      UserError: the batch was refused, or no request can succeed.
    """
    key = request.key
    line = self._encode(request)
    await self._reconcile()
    if key in self._unclaimed:
      return self._unwrap(self._unclaimed.pop(key), line)
    if key not in self._waiting:
      self._waiting[key] = asyncio.get_running_loop().create_future()
      if key in self._batch_of_key:
        self._follow(self._batch_of_key[key])
      else:
        self._collect(request, line)
    # One sender that is cancelled must not cancel another's.
    return self._unwrap(await asyncio.shield(self._waiting[key]), line)

  def has_submitted(self, key: str) -> bool:
    """See `exchange.Keeping`."""
    return key in self._batch_of_key

  async def flush(self) -> None:
    """Submits what is collected; returns before it is answered."""
    for group in list(self._collected):
      self._start_submission(group)
    if self._submissions:
      await asyncio.wait(self._submissions)

  async def close(self) -> None:
    """Releases connections; what was submitted goes on at the provider's."""
    if self._idle_timer is not None:
      self._idle_timer.cancel()
    tasks = [*self._followers.values(), *self._submissions]
    for task in tasks:
      task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    closed = replies.Failure(
      "connection", "The client was closed before the batch was done", False
    )
    for key in list(self._waiting):
      self._deliver(key, closed)
    await self._connection.close()

  # --- From requests to batches ---------------------------------------------

  def _encode(self, request: Request) -> bytes:
    """Returns the line that asks a request in a batch's file."""
    line = {
      "custom_id": request.key,
      "method": "POST",
      "url": _get_url(request.endpoint),
      "body": client.make_body(request),
    }
    return client.encode_body(line, self._config.max_request_bytes) + b"\n"

  def _collect(self, request: Request, line: bytes) -> None:
    group = request.model, request.endpoint
    num_bytes = self._num_collected_bytes.get(group, 0) + len(line)
    if num_bytes > self._batch_config.max_bytes:
      self._start_submission(group)
      num_bytes = len(line)
    lines = self._collected.setdefault(group, {})
    lines[request.key] = line
    self._num_collected_bytes[group] = num_bytes
    if len(lines) >= self._batch_config.max_requests:
      self._start_submission(group)
    if self._idle_timer is not None:
      self._idle_timer.cancel()
    self._idle_timer = asyncio.get_running_loop().call_later(
      self._batch_config.idle_seconds, self._flush_idle
    )

  def _flush_idle(self) -> None:
    for group in list(self._collected):
      self._start_submission(group)

  def _start_submission(self, group: tuple[str, str]) -> None:
    lines = self._collected.pop(group, None)
    self._num_collected_bytes.pop(group, None)
    if lines:
      task = asyncio.create_task(self._submit(group[1], lines))
      self._submissions.add(task)
      task.add_done_callback(self._submissions.discard)

  async def _submit(self, endpoint: str, lines: dict[str, bytes]) -> None:
    try:
      try:
        input_file_id = await self._calls.upload(b"".join(lines.values()))
      except TeacherError as error:
        # A file without a batch is not processed, so nothing is charged.
        if error.kind in exchange.MAYBE_PAID_KINDS:
          error.kind = exchange.UNSENT
        raise
      batch = Batch(input_file_id, endpoint, list(lines))
      self._creating.add(batch.input_file_id)
      self._state.add(batch)
      self._batch_of_key |= dict.fromkeys(batch.keys, batch)
      try:
        batch.id = await self._calls.create(
          batch.input_file_id, _get_url(batch.endpoint)
        )
      except TeacherError as error:
        if error.kind in exchange.MAYBE_PAID_KINDS:
          error.kind = exchange.WAITING
        raise
      finally:
        # Where it failed it may have been created nevertheless; the next sender
        # looks, here or after a restart.
        self._creating.discard(batch.input_file_id)
      self._state.write()
      _log.info("Batch %s: %d requests submitted.", batch.id, len(lines))
      self._follow(batch)
    except Exception as error:  # A bug's, too, must not leave senders waiting.
      self._deliver_error(list(lines), error)

  async def _reconcile(self) -> None:
    """Settles which batches that were about to be created were."""
    async with self._reconcile_lock:
      # A failure below is for this sender; the next one tries anew.
      for batch in list(self._state.batches):
        if batch.id is None and batch.input_file_id not in self._creating:
          batch.id = await self._calls.find(batch.input_file_id)
          if batch.id is None:
            self._forget(batch, batch.keys)
          else:
            self._state.write()

  def _forget(self, batch: Batch, keys: Sequence[str]) -> None:
    """Lets these requests of a batch be submitted again."""
    forgotten = set(keys)
    batch.keys = [key for key in batch.keys if key not in forgotten]
    for key in forgotten:
      self._batch_of_key.pop(key, None)
    self._state.remove_empty()

  # --- From batches to answers ----------------------------------------------

  def _follow(self, batch: Batch) -> None:
    """Makes sure that someone waits for a batch."""
    if batch.id is None:
      return  # Its submission goes on and will.
    task = self._followers.get(batch.id)
    if task is None or task.done():
      self._followers[batch.id] = asyncio.create_task(self._wait_for(batch))

  async def _wait_for(self, batch: Batch) -> None:
    """Polls a batch until it is done, and delivers what it says."""
    try:
      described = await self._poll(batch)
      if described["status"] == "failed":
        raise self._make_refusal(batch, described)
      await self._read_results(batch, described)
    except Exception as error:  # A bug's, too, must not leave senders waiting.
      if isinstance(error, TeacherError):
        error.kind = exchange.WAITING
      self._deliver_error(batch.keys, error)
      if isinstance(error, _BatchRefusedError):
        self._forget(batch, batch.keys)

  async def _poll(self, batch: Batch) -> dict[str, Any]:
    shown = None
    while True:
      try:
        described = await self._connection.get(
          f"/batches/{batch.id}",
          lambda reply: batch_replies.read_object(reply, "status"),
        )
      except UserError as error:
        raise UserError(
          f"{error} This was asked about batch {batch.id}, which"
          f" {self._state.path} says was submitted; without that file, its"
          " requests are submitted, and paid for, again."
        ) from None
      status = described.value["status"]
      counts = described.value.get("request_counts")
      progress = status, json.dumps(counts, sort_keys=True)
      if progress != shown:
        shown = progress
        words = batch_replies.describe_progress(status, counts)
        _log.info("Batch %s: %s", batch.id, words)
      if status in (*_DONE_STATUSES, "failed"):
        return described.value
      await self._sleep(self._batch_config.poll_seconds)

  async def _read_results(
    self, batch: Batch, described: dict[str, Any]
  ) -> None:
    missing = set(batch.keys)
    to_forget = []
    # Refusals are delivered after all other outcomes.
    refused: dict[str, replies.Failure] = {}
    latency_seconds = batch_replies.get_duration(described)

    def take(line: bytes) -> None:
      key, outcome = batch_replies.read_result(
        line, batch.endpoint, latency_seconds
      )
      # Each once: a download that broke off begins at its first line again.
      if key in missing:
        missing.discard(key)
        # Who is to ask it again, and when, is for the journal to say.
        if not isinstance(outcome, Response) or not outcome.is_answered:
          to_forget.append(key)
        if isinstance(outcome, replies.Failure) and outcome.is_refusal:
          refused[key] = outcome
        else:
          self._deliver(key, outcome)

    for name in ("output_file_id", "error_file_id"):
      file_id = described.get(name)
      if batch_replies.is_plain_id(file_id):
        await self._connection.download_lines(f"/files/{file_id}/content", take)
    # A refusal before an answer concerns its question alone. Those at the end
    # of a batch may mean that the account's credit ran out.
    in_a_row = set(
      itertools.takewhile(refused.__contains__, reversed(batch.keys))
    )
    for key in filter(refused.__contains__, batch.keys):
      self._deliver(
        key, dataclasses.replace(refused[key], is_last=key in in_a_row)
      )
    for key in missing:
      self._deliver(
        key,
        replies.Failure(
          "bad_response",
          f"Batch {batch.id} is {described['status']} and says nothing of this"
          " request",
          False,
        ),
      )
    self._forget(batch, [*to_forget, *missing])

  def _unwrap(self, outcome: Outcome, line: bytes) -> Response:
    """Returns the answer that an outcome is, or raises what it is instead.

    Args:
      outcome: of a request.
      line: that asked it.
    """
    if isinstance(outcome, Response):
      return outcome
    if isinstance(outcome, UserError):
      # A new one each time: raised twice, one error would gather two traces.
      raise UserError(str(outcome))
    if isinstance(outcome, Exception):
      raise outcome
    failure = replies.discount_repetition(outcome, line)
    advice = self._connection.describe(failure) if failure.hint else None
    if advice is not None and not failure.is_maybe_own:
      raise UserError(advice)
    raise TeacherError(
      failure.message,
      kind=failure.kind,
      is_final=failure.is_final,
      num_attempts=1,
      advice=advice,
      is_about_account=failure.account_error is not None,
      is_refusal=failure.is_last,
    )

  def _make_refusal(self, batch: Batch, described: dict[str, Any]) -> UserError:
    errors = described.get("errors")
    listed = errors.get("data") if isinstance(errors, dict) else None
    said = [
      str(error.get("message") or error.get("code"))
      for error in (listed if isinstance(listed, list) else [])[:3]
      if isinstance(error, dict)
    ]
    return _BatchRefusedError(
      f"The teacher at {self._config.base_url} refused batch {batch.id}:"
      f" {replies.quote('; '.join(said) or 'no reason given')}. Nothing of it"
      " was answered. Correct what it names (BATCH_MAX_REQUESTS makes smaller"
      " batches) and run again."
    )

  def _deliver(self, key: str, outcome: Outcome) -> None:
    future = self._waiting.pop(key, None)
    if future is not None and not future.done():
      future.set_result(outcome)
    elif isinstance(outcome, Response) or (
      isinstance(outcome, replies.Failure) and outcome.is_final
    ):
      self._unclaimed[key] = outcome

  def _deliver_error(self, keys: Sequence[str], error: Exception) -> None:
    outcome = (
      replies.Failure(error.kind, str(error), error.is_final)
      if isinstance(error, TeacherError)
      else error
    )
    for key in keys:
      if key in self._waiting:
        self._deliver(key, outcome)


class _BatchRefusedError(UserError):
  """The provider did not take a batch at all."""


def _get_url(endpoint: str) -> str:
  # What batches call an endpoint, wherever the server is.
  return f"/v1{client.PATHS[endpoint]}"
