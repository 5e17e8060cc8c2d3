"""How fast requests may leave: so many a minute, and a pause for all of them.

Time and sleep are given, so a test of a minute takes none.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable

# A sleeper looks again this often, to see a correction that came meanwhile.
_MAX_SLEEP_SECONDS = 1.0


class RateLimit:
  """At most so many units a minute, spread evenly over it.

  A bucket fills at the rate and holds one second's worth, or one unit where
  that is more: servers enforce a minute's limit in shorter steps, and a whole
  minute's worth at once is refused. So any minute sees at most the limit and
  one bucket. Waiters are served in the order they came.
  """

  def __init__(
    self,
    per_minute: float,
    *,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
  ):
    """Starts with a full bucket.

    Args:
      per_minute: units allowed a minute, above 0.
      clock: seconds, never going back.
      sleep: waits so many seconds.
    """
    self._per_second = per_minute / 60
    self._capacity = max(1.0, self._per_second)
    self._level = self._capacity
    self._clock = clock
    self._sleep = sleep
    self._filled_at = clock()
    self._lock = asyncio.Lock()

  async def acquire(self, num_units: float = 1) -> None:
    """Waits until `num_units` may be spent, and spends them.

    More than the bucket holds is spent once the bucket is full and leaves a
    debt, which later callers wait for. A caller cancelled while it waits has
    spent nothing.
    """
    async with self._lock:
      needed = min(num_units, self._capacity)
      while (missing := needed - self._fill()) > 1e-9:
        await self._sleep(min(missing / self._per_second, _MAX_SLEEP_SECONDS))
      self._level -= num_units

  def correct(self, num_units: float) -> None:
    """Spends `num_units` at once, or gives back where they are negative.

    For an amount that was guessed before and is known afterwards.
    """
    self._level = self._fill() - num_units  # The next look cuts an excess.

  def _fill(self) -> float:
    now = self._clock()
    gained = (now - self._filled_at) * self._per_second
    self._level = min(self._level + gained, self._capacity)
    self._filled_at = now
    return self._level


class RateLimits:
  """What one request waits for: its turn, its tokens, the end of a pause."""

  def __init__(
    self,
    requests_per_minute: float | None,
    tokens_per_minute: float | None,
    *,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
  ):
    """Makes the limits.

    Args:
      requests_per_minute: None: no limit.
      tokens_per_minute: of prompts and answers together; None: no limit.
      clock: seconds, never going back.
      sleep: waits so many seconds.
    """
    self._requests, self._tokens = (
      None if limit is None else RateLimit(limit, clock=clock, sleep=sleep)
      for limit in (requests_per_minute, tokens_per_minute)
    )
    self._clock = clock
    self._sleep = sleep
    self._paused_until = clock()

  async def acquire(self, num_tokens: float) -> None:
    """Waits until one request of about `num_tokens` tokens may leave."""
    if self._tokens is not None:
      await self._tokens.acquire(num_tokens)
    if self._requests is not None:
      await self._requests.acquire()
    # Last, because a pause may begin while the others are waited for; and again
    # where it grew meanwhile.
    waited_until = self._clock()
    while (until := self._paused_until) > waited_until:
      await self._sleep(until - self._clock())
      waited_until = until

  def correct_tokens(self, num_tokens: float) -> None:
    """Spends tokens that `acquire` did not foresee; negative: gives back."""
    if self._tokens is not None:
      self._tokens.correct(num_tokens)

  def pause(self, seconds: float) -> None:
    """Lets no request leave for `seconds` from now, as a server asked."""
    self._paused_until = max(self._paused_until, self._clock() + seconds)
