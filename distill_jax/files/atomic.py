"""Files that are, at every moment, the old one or the whole new one."""

import contextlib
import os
import pathlib
import uuid
from collections.abc import Iterator

# Of a file that a killed process left behind.
UNFINISHED = ".writing"
_LONGEST_NAME = 100


@contextlib.contextmanager
def writing(path: str | os.PathLike[str]) -> Iterator[pathlib.Path]:
  """Yields a file to write, which then takes the place of another.

  Args:
    path: the file to replace, or to make in a folder that is there.

  Raises:
    OSError: it cannot be written; `path` is then as before.
  """
  path = pathlib.Path(path)
  # In the same folder, or the replacement is none; of a name of its own, as
  # others may write the same file.
  name = f".{path.name[:_LONGEST_NAME]}.{uuid.uuid4().hex}{UNFINISHED}"
  unfinished = path.with_name(name)
  try:
    yield unfinished
    with open(unfinished, "rb") as file:
      os.fsync(file.fileno())
    os.replace(unfinished, path)
  finally:
    unfinished.unlink(missing_ok=True)


def write_text(path: str | os.PathLike[str], text: str) -> None:
  """Writes a text in UTF-8; see `writing`."""
  write_bytes(path, text.encode())


def write_bytes(path: str | os.PathLike[str], content: bytes) -> None:
  """Writes bytes; see `writing`."""
  with writing(path) as unfinished:
    unfinished.write_bytes(content)
