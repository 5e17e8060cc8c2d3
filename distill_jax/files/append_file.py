"""A file of lines that only grows: its lock, its torn end, its way to the disk.

Knows bytes, and not what a line says.
"""

import fcntl
import logging
import os
import pathlib
from collections.abc import Callable

from distill_jax.errors import UserError

_log = logging.getLogger(__name__)

_BLOCK_BYTES = 1 << 16


def lock(path: pathlib.Path, what: str, is_shared: bool = False) -> int:
  """Takes a lock that ends with this process, however it ends.

  Args:
    path: the lock's file. It stays: removing it could give two their lock.
    what: is locked, the beginning of a sentence.
    is_shared: others may have it too, if they share it.

  Returns:
    A file descriptor; closing it gives the lock up.

  Raises:
    UserError: another process has it; names that one. Or there can be none.
  """
  descriptor = -1
  try:
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    kind = fcntl.LOCK_SH if is_shared else fcntl.LOCK_EX
    fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
    return descriptor
  except OSError as error:
    owner = os.pread(descriptor, 32, 0) if descriptor >= 0 else b""
    if descriptor >= 0:
      os.close(descriptor)
    if isinstance(error, BlockingIOError):
      named = f" {int(owner)}" if owner.strip().isdigit() else ""
      raise UserError(
        f"{what} is in use by process{named}. Wait for it or end it; or give"
        " another OUTPUT_PATH, or a --shard of its own."
      ) from error
    raise UserError(f"{path} cannot be locked: {error.strerror}.") from error


def repair_end(
  descriptor: int, path: pathlib.Path, is_whole_fn: Callable[[bytes], bool]
) -> None:
  """Moves a last line that a crash cut off out of the way, with a notice.

  Args:
    descriptor: the file, open for reading and appending.
    path: its path; the line goes to `<name>.torn` beside it.
    is_whole_fn: tells whether a line lacks nothing but its line break, which it
      then gets.
  """
  size = os.fstat(descriptor).st_size
  start = _find_last_line(descriptor, size)
  if start == size:
    return
  torn = os.pread(descriptor, size - start, start)
  if is_whole_fn(torn):
    _log.warning("%s: the last line lacked its line break; added.", path)
    write_all(descriptor, b"\n")
    return
  side_path = path.with_name(f"{path.name}.torn")
  with open(side_path, "ab") as side_file:
    side_file.write(torn + b"\n")
    side_file.flush()
    os.fsync(side_file.fileno())
  os.ftruncate(descriptor, start)
  os.fsync(descriptor)
  _log.warning(
    "%s: the last line was cut off by a crash; its %d bytes are moved to %s.",
    path,
    len(torn),
    side_path.name,
  )


def write_all(descriptor: int, content: bytes) -> None:
  """Appends all of it, or, where the disk is full, none.

  Args:
    descriptor: a file open for appending.
    content: handed to the system before this returns.

  Raises:
    OSError: it cannot be written.
  """
  size = os.fstat(descriptor).st_size
  view = memoryview(content)
  try:
    while view:
      view = view[os.write(descriptor, view) :]
  except OSError:
    os.ftruncate(descriptor, size)
    raise


def sync_folder(path: pathlib.Path) -> None:
  """Brings a folder's list of names to the disk."""
  descriptor = os.open(path, os.O_RDONLY)
  try:
    os.fsync(descriptor)
  finally:
    os.close(descriptor)


def _find_last_line(descriptor: int, size: int) -> int:
  """Returns where what follows the last line break begins."""
  end = size
  while end > 0:
    start = max(0, end - _BLOCK_BYTES)
    found = os.pread(descriptor, end - start, start).rfind(b"\n")
    if found >= 0:
      return start + found + 1
    end = start
  return 0
