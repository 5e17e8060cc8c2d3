"""Tests of config/interrupts.py."""

import os
import signal
import subprocess
import sys
import threading

import pytest

from distill_jax.config import interrupts


def _send(number):
  os.kill(os.getpid(), number)


@pytest.mark.parametrize(
  "number, code", [(signal.SIGINT, 130), (signal.SIGTERM, 143)]
)
def test_an_interrupt_waits_for_the_end_of_the_block(number, code):
  before = signal.getsignal(number)
  steps = []
  with pytest.raises(KeyboardInterrupt) as raised, interrupts.deferred():
    steps.append("before")
    try:
      _send(number)
    except BaseException:  # What a library would swallow.
      steps.append("swallowed")
    steps.append("after")
  assert steps == ["before", "after"]
  assert interrupts.exit_code(raised.value) == code
  assert signal.getsignal(number) is before


def test_an_interrupt_counts_more_than_an_error_in_the_block():
  with pytest.raises(KeyboardInterrupt), interrupts.deferred():
    _send(signal.SIGINT)
    raise ImportError("what the interrupt broke")


def test_a_second_interrupt_ends_at_once():
  program = (
    "import os, signal\n"
    "from distill_jax.config import interrupts\n"
    "with interrupts.deferred():\n"
    "  os.kill(os.getpid(), signal.SIGINT)\n"
    "  os.kill(os.getpid(), signal.SIGINT)\n"
    "  print('still here')\n"
  )
  process = subprocess.run(
    [sys.executable, "-c", program], capture_output=True, text=True, timeout=60
  )
  assert process.returncode == -signal.SIGINT
  assert process.stdout == ""


def test_other_threads_keep_the_handlers():
  before = signal.getsignal(signal.SIGTERM)

  def use():
    interrupts.raise_on_signals()
    with interrupts.deferred():
      assert signal.getsignal(signal.SIGTERM) is before

  thread = threading.Thread(target=use)
  thread.start()
  thread.join()
  assert signal.getsignal(signal.SIGTERM) is before


def test_a_finalizer_does_not_swallow_an_interrupt():
  program = (
    "import os, signal, time\n"
    "from distill_jax.config import interrupts\n"
    "interrupts.raise_on_signals()\n"
    "class Thing:\n"
    "  def __del__(self):\n"
    "    os.kill(os.getpid(), signal.SIGINT)\n"
    "try:\n"
    "  thing = Thing()\n"
    "  del thing\n"
    "  time.sleep(30)\n"
    "except KeyboardInterrupt:\n"
    "  print('caught')\n"
  )
  process = subprocess.run(
    [sys.executable, "-c", program], capture_output=True, text=True, timeout=20
  )
  assert (process.stdout, process.stderr) == ("caught\n", "")
