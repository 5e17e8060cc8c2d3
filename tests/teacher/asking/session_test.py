"""Signals and the bar of a sending session."""

import asyncio
import os
import signal

import pytest

from distill_jax.errors import UserError
from distill_jax.teacher.asking import journal, labelling, session
from distill_jax.teacher.asking.exchange import Request, Response


class _Teacher:
  """Calls `reply_fn` for each request."""

  def __init__(self, reply_fn):
    self._reply_fn = reply_fn
    self.is_closed = False
    self.num_sent = 0

  async def send(self, request):
    self.num_sent += 1
    await self._reply_fn(self.num_sent)
    return Response("yes", "stop", 10, 5, "m", 0.0, 1)

  async def close(self):
    self.is_closed = True


def _send(tmp_path, teacher, num_requests=20, drain_seconds=30.0):
  requests = [
    (Request("m", "completions", f"{i}?", {}), "q") for i in range(num_requests)
  ]
  with journal.Journal(tmp_path / "journal.jsonl") as own:
    return session.send_all(
      requests,
      num_requests,
      lambda: teacher,
      own,
      journal.Answers([own]),
      labelling.Limits(2, drain_seconds=drain_seconds),
    )


async def _answer(number):
  await asyncio.sleep(0)


def test_all_is_sent(tmp_path, capsys):
  teacher = _Teacher(_answer)
  sent = _send(tmp_path, teacher)
  assert sent.progress.num_answered == 20
  assert sent.signal_number is None
  assert sent.seconds > 0
  assert teacher.is_closed
  shown = capsys.readouterr().err
  assert "20/20" in shown and "20 answered, 0 failed" in shown


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_sending_and_not_the_program(
  tmp_path, number, caplog
):
  async def reply(num_sent):
    if num_sent == 5:
      os.kill(os.getpid(), number)
    await asyncio.sleep(0.001)

  before = signal.getsignal(number)
  teacher = _Teacher(reply)
  sent = _send(tmp_path, teacher)
  assert sent.signal_number == number
  assert sent.progress.num_answered == teacher.num_sent < 20
  assert teacher.is_closed
  assert "nothing more is sent" in caplog.text
  assert signal.getsignal(number) == before


def test_a_second_signal_does_not_wait(tmp_path):
  async def reply(num_sent):
    if num_sent == 2:
      os.kill(os.getpid(), signal.SIGINT)
      await asyncio.sleep(0.01)
      os.kill(os.getpid(), signal.SIGINT)
      await asyncio.Event().wait()

  teacher = _Teacher(reply)
  sent = _send(tmp_path, teacher, drain_seconds=1000.0)
  assert sent.signal_number == signal.SIGINT
  assert teacher.is_closed
  assert sent.progress.num_answered == teacher.num_sent - 1


def test_the_transport_is_closed_after_an_error(tmp_path):
  async def reply(num_sent):
    raise UserError("no key")

  teacher = _Teacher(reply)
  with pytest.raises(UserError, match="no key"):
    _send(tmp_path, teacher)
  assert teacher.is_closed
