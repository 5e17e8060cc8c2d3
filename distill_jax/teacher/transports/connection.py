"""One server, asked again where that helps: attempts, waits, time and bytes.

Its own retries are off: every attempt is one that was decided here. Knows HTTP,
and neither prompts nor batches.
"""

import asyncio
import dataclasses
import datetime
import itertools
import logging
import random
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Generic, TypeVar

from distill_jax.errors import UserError
from distill_jax.teacher.asking import exchange
from distill_jax.teacher.asking.exchange import TeacherError
from distill_jax.teacher.reading import redaction, replies, retry_after
from distill_jax.teacher.transports.config import (
  TeacherConfig,
  list_secrets,
  read_api_key,
)
from distill_jax.teacher.transports.rate_limits import RateLimits

try:
  import httpx2
  import openai

  from distill_jax.teacher.transports import guarded_http
except ImportError as import_error:
  raise UserError(
    f"A teacher is asked through the openai package ({import_error}): pip"
    " install openai httpx2."
  ) from import_error

_log = logging.getLogger(__name__)

_MAX_DELAY_SECONDS = 60.0
# A server that no request has reached is likely not there at all, or about to
# start; waiting for as long as for one that has a bad moment tells nothing.
_MAX_ATTEMPTS_TO_REACH = 3

T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class Success(Generic[T]):
  """What a call got.

  Attributes:
    value: what its reader made of the reply.
    latency_seconds: of the attempt that succeeded.
    num_attempts: attempts made, that one included.
  """

  value: T
  latency_seconds: float
  num_attempts: int


class Connection:
  """Calls to one server.

  What is asked again waits a random time below a bound that doubles ("full
  jitter"), after the time that the server asked for where it did; that time
  holds every other call too. A call gives up before a wait that would end
  beyond its budget.
  """

  def __init__(
    self,
    config: TeacherConfig,
    *,
    rng: random.Random | None = None,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
  ):
    """Opens nothing yet.

    Args:
      config: address, limits and budgets.
      rng: draws the waits; None: one with a random seed.
      clock: seconds, never going back.
      sleep: waits so many seconds.

    Raises:
      UserError: no key.
    """
    key = read_api_key(config)
    secrets = list_secrets(config)
    for secret in secrets:
      redaction.add_secret(secret)
    if (
      any(map(redaction.is_secret, secrets))
      and config.base_url.startswith("http:")
      and not config.is_local
    ):
      _log.warning(
        "%s is asked over http: key and prompts travel unencrypted.",
        config.host,
      )
    self._config = config
    self._rng = rng or random.Random()
    self._clock = clock
    self._sleep = sleep
    self._limits = RateLimits(
      config.requests_per_minute,
      config.tokens_per_minute,
      clock=clock,
      sleep=sleep,
    )
    self._is_reached = False
    self._sdk = guarded_http.make_sdk(config, key, config.max_response_bytes)
    # Made when it is needed: reading the certificates takes a while.
    self._make_download_sdk_fn = lambda: guarded_http.make_sdk(
      config, key, None
    )
    self._download_sdk = None

  async def close(self) -> None:
    """Releases connections."""
    await self._sdk.close()
    if self._download_sdk is not None:
      await self._download_sdk.close()

  async def post_json(
    self,
    path: str,
    content: bytes,
    read_fn: Callable[[bytes], T | replies.Failure],
    num_tokens: float | None = None,
    is_one_of_many: bool = False,
    repeat_fn: Callable[[], Awaitable[bool]] | None = None,
  ) -> Success[T]:
    """Posts JSON.

    Args:
      path: below the base URL, with its leading slash.
      content: the JSON, encoded.
      read_fn: reads the body of a good reply, or says what is wrong with it.
      num_tokens: about how many the call takes, for the rate limits; None: it
        does not count towards them.
      is_one_of_many: a failure that may be this call's own is a TeacherError
        with `advice`; otherwise it is a UserError.
      repeat_fn: called before another attempt is made after one that may be
        charged; returns whether to make it. None: it is always made.

    Returns:
      What `read_fn` made of the reply.

    Raises:
      TeacherError: there is none.
      UserError: no call can succeed.
    """
    return await self.retry(
      lambda: self.attempt("post", path, read_fn, content=content),
      num_tokens,
      is_one_of_many,
      repeat_fn,
    )

  async def upload(
    self,
    path: str,
    name: str,
    content: bytes,
    fields: Mapping[str, str],
    read_fn: Callable[[bytes], T | replies.Failure],
  ) -> Success[T]:
    """Posts a file as a form does; otherwise as `post_json`."""
    return await self.retry(
      lambda: self.attempt(
        "post",
        path,
        read_fn,
        body=dict(fields),
        files={"file": (name, content, "application/jsonl")},
      )
    )

  async def get(
    self, path: str, read_fn: Callable[[bytes], T | replies.Failure]
  ) -> Success[T]:
    """Gets what is at a path; otherwise as `post_json`."""
    return await self.retry(lambda: self.attempt("get", path, read_fn))

  async def download_lines(
    self, path: str, line_fn: Callable[[bytes], None]
  ) -> None:
    """Gets a file of any size and hands its lines on, one at a time.

    A second attempt begins at the first line again.

    Args:
      path: below the base URL.
      line_fn: takes a line without its end; empty ones are left out, and those
        longer than a reply may be are cut off.

    Raises:
      TeacherError: it cannot be had whole.
      UserError: no call can succeed.
    """

    sdk = self._download_sdk or self._make_download_sdk_fn()
    self._download_sdk = sdk

    async def read() -> None:
      response: Any = await sdk.get(
        path,
        cast_to=httpx2.Response,
        stream=True,
        stream_cls=openai.AsyncStream,
      )
      try:
        async for line in guarded_http.split_lines(
          response.aiter_raw(), self._config.max_response_bytes
        ):
          line_fn(redaction.redact(line))
      finally:
        await response.aclose()

    await self.retry(lambda: self._catch(read()))

  def correct_tokens(self, num_tokens: float) -> None:
    """Tells the rate limits how far a `num_tokens` was off."""
    self._limits.correct_tokens(num_tokens)

  async def retry(
    self,
    attempt_fn: Callable[[], Awaitable[T | replies.Failure]],
    num_tokens: float | None = None,
    is_one_of_many: bool = False,
    repeat_fn: Callable[[], Awaitable[bool]] | None = None,
  ) -> Success[T]:
    """Attempts until it succeeds or one of the budgets is spent.

    Args:
      attempt_fn: one attempt.
      num_tokens: see `post_json`.
      is_one_of_many: see `post_json`.
      repeat_fn: see `post_json`.

    Returns:
      The first value that is no failure.

    Raises:
      TeacherError: there was none.
      UserError: no call can succeed.
    """
    config = self._config
    first_started = None
    for num_attempts in itertools.count(1):
      if num_tokens is not None:
        await self._limits.acquire(num_tokens)
      started = self._clock()
      # Waiting for one's turn is not the server's doing: the budget starts now.
      first_started = started if first_started is None else first_started
      outcome = await attempt_fn()
      ended = self._clock()
      if not isinstance(outcome, replies.Failure):
        return Success(outcome, ended - started, num_attempts)
      if outcome.hint and not (is_one_of_many and outcome.is_maybe_own):
        raise UserError(self.describe(outcome))
      asked = outcome.retry_after_seconds or 0.0
      delay = asked + self._draw_delay(num_attempts)
      stopped = self._get_reason_to_stop(
        num_attempts, delay, first_started + config.retry_budget_seconds - ended
      )
      if outcome.kind == "connection" and not self._is_reached:
        if stopped or num_attempts >= _MAX_ATTEMPTS_TO_REACH:
          raise UserError(
            f"No server answers at {config.base_url}: {outcome.message}. Start"
            " it, or correct TEACHER_BASE_URL."
          )
      if not outcome.is_final and not stopped:
        _log.debug("Attempt %d: %s", num_attempts, outcome.message)
        self._limits.pause(asked)
        await self._sleep(delay)
        if repeat_fn is None or not outcome.is_maybe_paid or await repeat_fn():
          continue
        stopped = (
          f"; given up after {num_attempts} attempts, because another would go"
          " beyond the budget (MAX_COST, MAX_TOTAL_TOKENS) or the run ends"
        )
      stopped = "" if outcome.is_final else stopped
      raise TeacherError(
        f"{outcome.message}{stopped}",
        # With `repeat_fn` the attempts before have journal lines of their own.
        kind=exchange.UNSENT
        if outcome.is_unsent and repeat_fn is not None
        else outcome.kind,
        is_final=outcome.is_final,
        num_attempts=num_attempts,
        advice=self.describe(outcome) if outcome.hint else None,
        is_about_account=outcome.account_error is not None,
        is_refusal=outcome.is_refusal,
      )
    raise AssertionError("unreachable")

  def _get_reason_to_stop(
    self, num_attempts: int, delay: float, budget: float
  ) -> str:
    if num_attempts >= self._config.max_attempts:
      return f"; given up after {num_attempts} attempts (MAX_ATTEMPTS)"
    if delay > budget:
      return (
        f"; given up after {num_attempts} attempts because the next would come"
        f" in {delay:.0f} seconds, beyond RETRY_BUDGET_SECONDS"
      )
    return ""

  def _draw_delay(self, num_attempts: int) -> float:
    most = self._config.first_delay_seconds * 2.0 ** min(num_attempts - 1, 30)
    return self._rng.uniform(0, min(most, _MAX_DELAY_SECONDS))

  def describe(self, failure: replies.Failure) -> str:
    """Returns, for the user, what no request survives and what to do."""
    hint = failure.hint
    variable = self._config.api_key_variable
    if failure.kind == "unauthorized" and variable is None:
      hint = f"{hint} Correct what EXTRA_HEADERS and EXTRA_QUERY send."
    elif failure.kind == "unauthorized":
      hint = (
        f"{hint} Set the environment variable {variable}"
        " to one it takes, or name another with TEACHER_API_KEY_VARIABLE."
      )
    return f"The teacher at {self._config.base_url}: {failure.message}. {hint}"

  async def attempt(
    self,
    method: str,
    path: str,
    read_fn: Callable[[bytes], T | replies.Failure],
    **arguments: Any,
  ) -> T | replies.Failure:
    """Calls once; failures are returned.

    Args:
      method: "get" or "post".
      path: below the base URL.
      read_fn: as of `post_json`.
      **arguments: what the SDK's `post` takes for a body.

    Returns:
      What `read_fn` made of the reply, or why there is nothing.
    """

    async def call() -> T | replies.Failure:
      if method == "get":
        response = await self._sdk.get(path, cast_to=httpx2.Response)
      else:
        is_form = "files" in arguments
        kind = "multipart/form-data" if is_form else "application/json"
        response = await self._sdk.post(
          path,
          cast_to=httpx2.Response,
          options={"headers": {"Content-Type": kind}},
          **arguments,
        )
      content = guarded_http.unpack(response, self._config.max_response_bytes)
      return read_fn(redaction.redact(content))

    outcome = await self._catch(call())
    if isinstance(outcome, replies.Failure) and "content" in arguments:
      return replies.discount_repetition(outcome, arguments["content"])
    return outcome

  async def _catch(self, call: Awaitable[T]) -> T | replies.Failure:
    """Awaits a call within the time of one attempt; failures are returned.

    Returned and not raised, so that no error carries the exceptions before it,
    whose requests hold the key and whose replies hold memory.
    """
    seconds = self._config.timeout_seconds
    try:
      # httpx's own timeouts start anew with each byte; this one does not.
      async with asyncio.timeout(seconds):
        value = await call
      self._is_reached = True
      return value
    except (TimeoutError, openai.APITimeoutError) as error:
      if isinstance(error.__cause__, httpx2.ConnectTimeout):
        return self._make_connection_failure(error.__cause__)
      if isinstance(error.__cause__, httpx2.TimeoutException):
        self._is_reached = True
      return replies.Failure(
        "timeout",
        f"No whole answer within {seconds:g} seconds (REQUEST_TIMEOUT_SECONDS)",
        False,
      )
    except openai.APIStatusError as error:
      self._is_reached = True
      content = guarded_http.unpack(
        error.response, self._config.max_response_bytes
      )
      return self._read_error(error.response, content)
    except guarded_http.RefusedReplyError as error:
      self._is_reached = True
      if error.response.status_code >= 300:  # What it is matters, not its text.
        return self._read_error(error.response, b"")
      return replies.Failure("bad_response", str(error), True)
    except openai.APIConnectionError as error:
      return self._make_connection_failure(error.__cause__ or error)
    except (httpx2.RequestError, OSError) as error:  # While a file is streamed.
      return self._make_connection_failure(error)

  def _read_error(
    self, response: httpx2.Response, content: bytes
  ) -> replies.Failure:
    retry_after_seconds = retry_after.get_seconds(
      response.headers, datetime.datetime.now(datetime.UTC)
    )
    return replies.read_error(
      response.status_code, redaction.redact(content), retry_after_seconds
    )

  def _make_connection_failure(self, cause: BaseException) -> replies.Failure:
    said = replies.quote(redaction.redact(str(cause))) if str(cause) else ""
    message = f"The connection failed ({type(cause).__name__}) {said}".strip()
    is_unsent = isinstance(cause, httpx2.ConnectError | httpx2.ConnectTimeout)
    self._is_reached = self._is_reached or not is_unsent
    return replies.Failure("connection", message, False, is_unsent=is_unsent)
