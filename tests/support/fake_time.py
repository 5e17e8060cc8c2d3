"""A clock that only sleeping moves, for code that takes its clock and sleep."""

import asyncio


class FakeTime:
  """Seconds that pass only while someone sleeps.

  Attributes:
    now: seconds since the test began.
    sleeps: every sleep asked for, in order.
  """

  def __init__(self):
    self.now = 0.0
    self.sleeps = []

  def clock(self):
    return self.now

  async def sleep(self, seconds):
    self.sleeps.append(seconds)
    wake_at = self.now + seconds
    await asyncio.sleep(0)
    self.now = max(self.now, wake_at)
