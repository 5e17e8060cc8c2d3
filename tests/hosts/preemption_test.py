"""Tests of hosts/preemption.py: what a signal does, and when."""

import os
import signal
import subprocess
import sys
import threading

import pytest

from distill_jax.hosts import preemption
from distill_jax.hosts.stop_agreement import StopAgreement


class _Run:
  """A hook with the calls it makes."""

  def __init__(self, is_saved=True, **others):
    self.calls = []
    self.hook = preemption.PreemptionHook(
      lambda *arguments: self.calls.append(("save", *arguments)),
      lambda seconds: self.calls.append(("wait", seconds)) or is_saved,
      train_steps=9,
      save_seconds=7.0,
      exit_fn=self._exit,
      **others,
    )

  def _exit(self, code):
    self.calls.append(("exit", code))
    raise InterruptedError  # Which no process survives.

  def step(self, step):
    self.hook.after_step(step, f"state {step}", "batch", {"loss": step})


@pytest.fixture(name="handlers", autouse=True)
def fixture_handlers():
  """The signals as they were, after each test."""
  before = {number: signal.getsignal(number) for number in preemption.SIGNALS}
  yield before
  for number, handler in before.items():
    signal.signal(number, handler)


@pytest.mark.parametrize(
  "number,code", [(signal.SIGTERM, 143), (signal.SIGINT, 130)]
)
def test_a_signal_saves_the_step_and_ends_the_run(number, code, capfd):
  run = _Run()
  run.step(3)
  assert run.calls == []
  os.kill(os.getpid(), number)
  assert run.calls == []
  assert "again ends the run at once" in capfd.readouterr().err
  with pytest.raises(SystemExit) as raised:
    run.step(4)
  assert raised.value.code == code
  assert run.calls == [("save", 4, "state 4", {"loss": 4}), ("wait", 7.0)]


def test_after_the_first_signal_the_system_ends_the_run(handlers):
  run = _Run()
  assert signal.getsignal(signal.SIGTERM) not in (signal.SIG_DFL, None)
  os.kill(os.getpid(), signal.SIGINT)
  for number in preemption.SIGNALS:
    assert signal.getsignal(number) == signal.SIG_DFL
  # Closing does not take that back: the last save may still be waited for.
  run.hook.close()
  assert signal.getsignal(signal.SIGINT) == signal.SIG_DFL


def test_a_run_that_was_not_stopped_gives_the_signals_back(handlers):
  _Run().hook.close()
  for number, handler in handlers.items():
    assert signal.getsignal(number) == handler


def test_a_save_that_hangs_is_given_up(caplog):
  run = _Run(is_saved=False)
  os.kill(os.getpid(), signal.SIGTERM)
  with pytest.raises(InterruptedError):
    run.step(4)
  assert run.calls[-1] == ("exit", 143)


def test_a_run_at_its_end_ends_well():
  run = _Run()
  os.kill(os.getpid(), signal.SIGTERM)
  run.step(9)
  assert run.calls == []


def test_outside_the_main_thread_signals_are_left_alone(handlers):
  runs = []
  thread = threading.Thread(target=lambda: runs.append(_Run()))
  thread.start()
  thread.join()
  for number, handler in handlers.items():
    assert signal.getsignal(number) == handler
  runs[0].step(1)
  runs[0].hook.close()


class _Agreement(StopAgreement):
  """All stop after step 5."""

  def __init__(self, stop_step=5):
    self.stop_step, self.asked, self.calls = stop_step, [], []

  def is_reached(self, step):
    self.asked.append(step)
    return step >= self.stop_step

  def request(self):
    self.calls.append("request")

  def close(self):
    self.calls.append("close")


def test_several_processes_stop_after_the_step_they_agree_on():
  agreement = _Agreement()
  run = _Run(agreement=agreement)
  for step in (3, 4):
    run.step(step)
  assert run.calls == []
  with pytest.raises(SystemExit) as raised:
    run.step(5)
  assert raised.value.code == 143
  assert agreement.asked == [3, 4, 5]
  assert run.calls[0] == ("save", 5, "state 5", {"loss": 5})
  run.hook.close()
  assert agreement.calls == ["close"]


@pytest.mark.parametrize(
  "number,code", [(signal.SIGTERM, 143), (signal.SIGINT, 130)]
)
def test_a_signal_to_one_of_several_asks_all_to_stop(number, code):
  agreement = _Agreement()
  run = _Run(agreement=agreement)
  os.kill(os.getpid(), number)
  assert agreement.calls == ["request"]
  for each in preemption.SIGNALS:
    assert signal.getsignal(each) == signal.SIG_DFL
  run.step(4)
  assert run.calls == []
  with pytest.raises(SystemExit) as raised:
    run.step(5)
  assert raised.value.code == code


def test_several_processes_at_their_end_end_well():
  run = _Run(agreement=_Agreement(9))
  run.step(9)
  assert run.calls == []


_STUCK = """
import time
from distill_jax.hosts import preemption
preemption.PreemptionHook(None, None, 9, 1.0)
print("ready", flush=True)
while True:
  time.sleep(0.01)
"""


def test_a_second_signal_ends_at_once():
  """Even where no step ever ends."""
  process = subprocess.Popen(
    [sys.executable, "-c", _STUCK],
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
  )
  assert process.stdout.readline() == b"ready\n"
  process.send_signal(signal.SIGTERM)
  while b"SIGTERM: stopping" not in process.stderr.readline():
    pass
  assert process.poll() is None
  process.send_signal(signal.SIGTERM)
  assert process.wait(timeout=30) == -signal.SIGTERM
  process.stdout.close()
  process.stderr.close()
