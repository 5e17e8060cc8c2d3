"""Recognizes full disks in the errors of Orbax and TensorStore.

TensorStore and Orbax wrap the error in others, and Orbax logs a trace of it for
each of its threads.
"""

import contextlib
import errno
import logging
import pathlib
from collections.abc import Iterator

from absl import logging as absl_logging

from distill_jax.errors import UserError


@contextlib.contextmanager
def explain_full_disk(folder: pathlib.Path) -> Iterator[None]:
  """Turns the errors of a full disk into one that says so.

  Args:
    folder: what is written to.

  Raises:
    UserError: the disk is full.
  """
  try:
    yield
  except Exception as error:
    if not is_full_disk(error):
      raise
    raise UserError(
      f"The disk of {folder} is full; a checkpoint could not be written. Every"
      " checkpoint saved before is intact. Free some room and run the same"
      " command again: it goes on from the newest."
    ) from error


def is_worth_showing(record: logging.LogRecord) -> bool:
  """Keeps Orbax's traces of a full disk, which we tell of, off the screen.

  Args:
    record: of absl's logger, whose filter this is.
  """
  error = record.exc_info[1] if record.exc_info else None
  asked_for = absl_logging.get_verbosity() >= absl_logging.INFO
  return asked_for or not is_full_disk(error)


def is_full_disk(error: BaseException | None) -> bool:
  """Whether an error, or what led to it, is a full disk."""
  while error is not None:
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
      return True
    if "No space left" in str(error) or "ENOSPC" in str(error):
      return True
    error = error.__cause__ or error.__context__
  return False
