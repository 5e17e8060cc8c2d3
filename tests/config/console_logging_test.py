"""Tests of console_logging.py: our messages are shown, libraries' warnings."""

import subprocess
import sys

_PROGRAM = """
import logging
from absl import logging as absl_logging
from distill_jax.config import console_logging
console_logging.set_up()
logging.getLogger("distill_jax.train").info("ours")
absl_logging.info("chatter")
absl_logging.warning("warned")
"""


_SPEAKING = """
import logging, sys
from distill_jax.config import console_logging
console_logging.set_up()
console_logging.speak_as(int(sys.argv[1]))
logging.getLogger("distill_jax.train").info("told")
logging.getLogger("distill_jax.train").warning("warned")
"""


def test_of_several_processes_the_first_speaks_and_each_warns():
  shown = [
    subprocess.run(
      [sys.executable, "-c", _SPEAKING, str(index)],
      capture_output=True,
      text=True,
      check=True,
    ).stderr.splitlines()
    for index in (0, 1)
  ]
  assert [len(lines) for lines in shown] == [2, 1]
  for index, lines in enumerate(shown):
    assert all(line.startswith(f"[process {index}] ") for line in lines)
  assert shown[1][0].endswith("warned")


def test_what_is_shown():
  # In a process of its own: logging is set up once for all.
  shown = subprocess.run(
    [sys.executable, "-c", _PROGRAM], capture_output=True, text=True, check=True
  ).stderr
  assert "ours" in shown
  assert "warned" in shown
  assert "chatter" not in shown
