"""Tests of console_logging.py: our messages are shown, libraries' warnings."""

import os
import subprocess
import sys

_PROGRAM = """
import logging
from absl import logging as absl_logging
from distill_jax.config import console_logging
console_logging.set_up()
logging.getLogger("distill_jax.runs.train").info("ours")
absl_logging.info("chatter")
absl_logging.warning("warned")
"""


_SPEAKING = """
import logging, sys
from distill_jax.config import console_logging
console_logging.set_up()
console_logging.speak_as(int(sys.argv[1]))
logging.getLogger("distill_jax.runs.train").info("told")
logging.getLogger("distill_jax.runs.train").warning("warned")
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


_STARTING = """
import os, sys
from distill_jax.config import console_logging
console_logging.set_up()
if len(sys.argv) > 1:
  from absl import logging
  logging.set_verbosity(logging.INFO)
import tensorflow
sys.stderr.write(str(tensorflow.__loader__.__class__.__name__))
sys.stderr.flush()
os.write(2, b"I0000 00:00:17.6 12 port.cc:153] after\\n")
"""
_TENSORFLOW = r"""
import os
for line in (
  "WARNING: All log messages before absl::InitializeLog() is called are",
  "I0000 00:00:1795910401.662459    7799 port.cc:153] oneDNN custom operations",
  "E0000 00:00:1795910401.662459    7799 cuda_dnn.cc:8579] Unable to register"
  " cuDNN factory: Attempting to register factory",
  "2026-11-28 10:00:00.123456: I tensorflow/core/util/port.cc:153] oneDNN",
  "W0000 00:00:1795910401.662459    7799 a.cc:1] computation placer already",
  "E0000 00:00:1795910401.662459    7799 a.cc:1] the disk is on fire",
  "Traceback: shown",
):
  os.write(2, line.encode() + b"\n")
"""


def test_what_tensorflow_says_when_it_starts_is_not_shown(tmp_path):
  (tmp_path / "tensorflow.py").write_text(_TENSORFLOW)

  def start(*arguments):
    return subprocess.run(
      [sys.executable, "-c", _STARTING, *arguments],
      cwd=tmp_path,
      env=os.environ | {"PYTHONPATH": str(tmp_path)},
      capture_output=True,
      text=True,
      check=True,
    ).stderr.splitlines()

  shown = start()
  assert shown[0].endswith("the disk is on fire")
  assert shown[1] == "Traceback: shown"
  # Afterwards all is as it was.
  assert len(shown) == 3 and shown[2].startswith("SourceFileLoader")
  assert len(start("--verbosity=0")) == 8


def test_a_program_without_logging_shows_ours_and_another_keeps_its_own():
  program = """
import logging, sys
from absl import logging as absl_logging
from distill_jax.config import console_logging
absl_logging.info("as Orbax does when it is imported")
if "all" in sys.argv:
  logging.basicConfig(format="theirs %(message)s", level="INFO", force=True)
if "quiet" in sys.argv:
  logging.getLogger("distill_jax").setLevel("WARNING")
console_logging.set_up_in_program()
console_logging.set_up_in_program()
logging.getLogger("distill_jax.x").info("said")
logging.getLogger("distill_jax.x").warning("warned")
"""

  def run(*arguments):
    return subprocess.run(
      [sys.executable, "-c", program, *arguments],
      capture_output=True,
      text=True,
      check=True,
    ).stderr.splitlines()

  said, warned = run()
  assert said.endswith(" said") and warned.endswith(" warned")
  assert run("all") == ["theirs said", "theirs warned"]
  (warned,) = run("quiet")
  assert warned.endswith("warned")
