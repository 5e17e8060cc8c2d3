"""Tests of files/process_identity.py.

Only what is surely dead counts as dead.
"""

import os
import subprocess
import sys

import pytest

from distill_jax.files import process_identity


def test_this_process_lives():
  owner = process_identity.describe()
  assert owner["pid"] == os.getpid()
  assert process_identity.is_here(owner)
  assert not process_identity.is_dead(owner)


def test_a_process_that_ended_is_dead():
  process = subprocess.Popen([sys.executable, "-c", ""])
  process.wait()
  owner = process_identity.describe() | {"pid": process.pid}
  assert process_identity.is_dead(owner)


def test_a_number_given_again_is_another_process():
  owner = process_identity.describe() | {"pid_started": "1"}
  assert process_identity.is_dead(owner)


@pytest.mark.parametrize("key", ["machine", "pid_namespace"])
def test_of_elsewhere_nothing_is_known(key):
  owner = process_identity.describe() | {"pid": 2**22 + 1, key: "another"}
  assert not process_identity.is_here(owner)
  assert not process_identity.is_dead(owner)


@pytest.mark.parametrize("pid", [None, "7", 2**22 + 1])
def test_no_process(pid):
  assert process_identity.find_start(pid) is None
