"""Tests of files/disk_space.py: a full disk, however it is wrapped.

What becomes of the checkpoints is tested with `manager`.
"""

import errno
import logging
import os

import pytest
from absl import logging as absl_logging

from distill_jax.errors import UserError
from distill_jax.files import disk_space

FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def wrap(error):
  """Returns an error that was raised because of another."""
  try:
    raise RuntimeError("a save failed") from error
  except RuntimeError as wrapped:
    return wrapped


@pytest.mark.parametrize(
  "error,is_full",
  [
    (FULL, True),
    (wrap(wrap(FULL)), True),
    (ValueError("RESOURCE_EXHAUSTED: No space left on device"), True),
    (OSError(errno.EIO, "Input/output error"), False),
    (wrap(PermissionError(errno.EACCES, "no")), False),
    (None, False),
  ],
)
def test_what_is_a_full_disk(error, is_full):
  assert disk_space.is_full_disk(error) == is_full


def test_it_is_told_of_and_other_errors_are_left_as_they_are(tmp_path):
  with pytest.raises(UserError, match="disk of .* is full.*before is intact"):
    with disk_space.explain_full_disk(tmp_path):
      raise wrap(FULL)
  with pytest.raises(ZeroDivisionError):
    with disk_space.explain_full_disk(tmp_path):
      raise ZeroDivisionError


@pytest.mark.parametrize("error,is_shown", [(FULL, False), (KeyError(), True)])
def test_its_traces_are_shown_to_those_who_ask(error, is_shown, monkeypatch):
  record = logging.makeLogRecord({"exc_info": (type(error), error, None)})
  monkeypatch.setattr(absl_logging, "get_verbosity", lambda: -1)
  assert disk_space.is_worth_showing(record) == is_shown
  monkeypatch.setattr(absl_logging, "get_verbosity", lambda: 0)
  assert disk_space.is_worth_showing(record)
