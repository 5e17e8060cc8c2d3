"""Rates on a clock that only sleeping moves."""

import asyncio

import pytest
from fake_time import FakeTime

from distill_jax.teacher.transports import rate_limits


@pytest.fixture
def fake_time():
  return FakeTime()


def _make_limit(fake_time, per_minute):
  return rate_limits.RateLimit(
    per_minute, clock=fake_time.clock, sleep=fake_time.sleep
  )


def _record_times(fake_time, limit, amounts):
  """Returns when each amount was let through, in the order asked."""
  times = []

  async def take(amount):
    await limit.acquire(amount)
    times.append(fake_time.now)

  async def take_all():
    await asyncio.gather(*map(take, amounts))

  asyncio.run(take_all())
  return times


def test_requests_leave_evenly(fake_time):
  limit = _make_limit(fake_time, 60)
  times = _record_times(fake_time, limit, [1] * 5)
  assert times == pytest.approx([0, 1, 2, 3, 4])


@pytest.mark.parametrize("per_minute", [0.5, 1, 7, 60, 90, 6000])
def test_any_minute_sees_the_limit_and_one_bucket(fake_time, per_minute):
  limit = _make_limit(fake_time, per_minute)
  times = _record_times(fake_time, limit, [1] * 400)
  allowed = per_minute + max(1, per_minute / 60)
  for start in times:
    within = sum(start <= time < start + 60 for time in times)
    assert within <= allowed + 1e-6
  # And it is not slower than it must be.
  assert times[-1] == pytest.approx(
    (400 - max(1, per_minute / 60)) * 60 / per_minute, abs=1e-3
  )


def test_an_amount_above_the_bucket_leaves_a_debt(fake_time):
  limit = _make_limit(fake_time, 600)  # 10 a second.
  assert _record_times(fake_time, limit, [50, 10, 1]) == pytest.approx(
    [0, 5, 5.1]
  )


def test_the_small_do_not_overtake_the_large(fake_time):
  may_wake, served = asyncio.Event(), []

  async def sleep(seconds):
    await may_wake.wait()
    await fake_time.sleep(seconds)

  async def take(limit, amount):
    await limit.acquire(amount)
    served.append(amount)

  async def run():
    limit = rate_limits.RateLimit(600, clock=fake_time.clock, sleep=sleep)
    await limit.acquire(10)
    large = asyncio.create_task(take(limit, 10))
    await asyncio.sleep(0)
    fake_time.now = 0.5  # Enough for the small one by now.
    small = asyncio.create_task(take(limit, 1))
    for _ in range(5):
      await asyncio.sleep(0)
    assert served == []
    may_wake.set()
    await asyncio.gather(large, small)

  asyncio.run(run())
  assert served == [10, 1]


def test_a_correction_counts_while_others_wait(fake_time):
  limit = _make_limit(fake_time, 600)

  async def run():
    await limit.acquire(110)  # Ten seconds of debt.
    waiting = asyncio.create_task(limit.acquire(10))
    await asyncio.sleep(0)
    limit.correct(-100)  # The answer was shorter.
    await waiting

  asyncio.run(run())
  assert fake_time.now <= 1.0


def test_a_correction_never_overfills(fake_time):
  limit = _make_limit(fake_time, 600)
  limit.correct(-1e9)
  assert _record_times(fake_time, limit, [10, 10]) == pytest.approx([0, 1])


def test_one_who_is_cancelled_spends_nothing(fake_time):
  limit = _make_limit(fake_time, 60)

  async def never(seconds):
    del seconds
    await asyncio.Event().wait()

  async def run():
    await limit.acquire()
    limit._sleep = never
    waiting = asyncio.create_task(limit.acquire())
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
      await waiting
    limit._sleep = fake_time.sleep
    await limit.acquire()

  asyncio.run(run())
  assert fake_time.now == pytest.approx(1)


def _make_limits(fake_time, requests, tokens):
  return rate_limits.RateLimits(
    requests, tokens, clock=fake_time.clock, sleep=fake_time.sleep
  )


def test_no_limit_never_sleeps(fake_time):
  limits = _make_limits(fake_time, None, None)
  asyncio.run(limits.acquire(1e9))
  limits.correct_tokens(1e9)
  asyncio.run(limits.acquire(1e9))
  assert fake_time.sleeps == []


def test_the_slower_of_the_two_limits_decides(fake_time):
  limits = _make_limits(fake_time, 60, 60_000)
  assert _record_times(fake_time, limits, [2000] * 3) == pytest.approx(
    [0, 2, 4]
  )
  limits = _make_limits(fake_time, 30, 60_000)
  start = fake_time.now
  assert _record_times(fake_time, limits, [1] * 3) == pytest.approx(
    [start, start + 2, start + 4]
  )


def test_a_pause_holds_everyone_and_the_longest_counts(fake_time):
  limits = _make_limits(fake_time, None, None)
  limits.pause(30)
  limits.pause(5)
  assert _record_times(fake_time, limits, [1, 1]) == [30, 30]


def test_a_pause_that_grows_meanwhile_is_waited_for(fake_time):
  limits = _make_limits(fake_time, None, None)

  async def run():
    limits.pause(10)
    waiting = asyncio.create_task(limits.acquire(1))
    await asyncio.sleep(0)
    limits.pause(20)
    await waiting

  asyncio.run(run())
  assert fake_time.now == 20
