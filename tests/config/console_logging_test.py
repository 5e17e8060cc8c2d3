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


def test_what_is_shown():
  # In a process of its own: logging is set up once for all.
  shown = subprocess.run(
    [sys.executable, "-c", _PROGRAM], capture_output=True, text=True, check=True
  ).stderr
  assert "ours" in shown
  assert "warned" in shown
  assert "chatter" not in shown
