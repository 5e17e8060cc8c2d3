"""Calls to a teacher on a fake clock, closed at their end."""

import asyncio
import random


def call(make_fn, run_fn, fake_time, seed=0):
  """Makes a client, a connection or a transport and runs a coroutine with it.

  Args:
    make_fn: takes `rng`, `clock` and `sleep`.
    run_fn: what was made -> a coroutine.
    fake_time: gives clock and sleep.
    seed: of the waits.

  Returns:
    What the coroutine returned.
  """

  async def run():
    made = make_fn(
      rng=random.Random(seed), clock=fake_time.clock, sleep=fake_time.sleep
    )
    try:
      return await run_fn(made)
    finally:
      await made.close()

  return asyncio.run(run())


async def send_together(transport, requests):
  """Sends requests at once; returns answers and errors in their order."""
  return await asyncio.gather(
    *map(transport.send, requests), return_exceptions=True
  )
