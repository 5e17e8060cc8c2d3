"""Folders that appear when they are complete, and what kills leave of them.

A folder is built in another beside it, which names the process that builds it.
The next process that builds there removes what a dead one has left; what a
living one or another host has is not touched.
"""

import json
import logging
import os
import pathlib
import shutil
import time
import uuid
from collections.abc import Iterator
from typing import Any

from distill_jax.files import process_identity

_log = logging.getLogger(__name__)

_OWNER, _CONTENT, _REPLACED = "owner.json", "content", "replaced"
_NAME_LETTERS = 40
# Threads of a library may still write after an interrupt.
_REMOVE_SECONDS = 5.0
_QUIET_SECONDS = 0.2


class UnfinishedFolder:
  """A folder being built; a context manager that removes what is left of it.

  Attributes:
    content: exists within the context; what is put in place when complete.
  """

  def __init__(self, folder: pathlib.Path, prefix: str):
    """Writes nothing yet.

    Args:
      folder: to be built.
      prefix: of the names of unfinished folders, ".writing-" for instance.
    """
    self._folder, self._prefix = folder.absolute(), prefix
    name = f"{prefix}{folder.name[:_NAME_LETTERS]}-{uuid.uuid4().hex[:12]}"
    self._outer = self._folder.with_name(name)
    self.content = self._outer / _CONTENT
    self._built: os.stat_result | None = None

  def __enter__(self) -> "UnfinishedFolder":
    self._folder.parent.mkdir(parents=True, exist_ok=True)
    remove_dead(self._folder.parent, self._prefix)
    try:
      self._outer.mkdir()
      owner = process_identity.describe() | {"folder": self._folder.name}
      (self._outer / _OWNER).write_text(
        json.dumps(owner, indent=2) + "\n", encoding="utf-8"
      )
      self.content.mkdir()
    except BaseException:
      self._remove()
      raise
    return self

  def __exit__(self, kind, *exception) -> None:
    if kind is None:
      _clear(self._outer, self._folder)
    else:
      self._remove()

  def put_in_place(self) -> None:
    """Gives the folder its name; what was there goes last."""
    self._built = self.content.stat()
    if self._folder.exists():
      os.rename(self._folder, self._outer / _REPLACED)
    os.rename(self.content, self._folder)

  def describe_end(self) -> str:
    """Says what an interrupt has left."""
    end = "nothing was written"
    # The folder itself tells: a signal may come just when it has been moved.
    if self._built is not None and self._folder.exists():
      if os.path.samestat(self._built, self._folder.stat()):
        end = f"{self._folder} is complete"
    if self._outer.exists():
      end += f", but {self._outer} is left; remove it"
    return f"{end}."

  def _remove(self) -> None:
    """Removes what is there until nothing comes back."""
    deadline = time.monotonic() + _REMOVE_SECONDS
    while True:
      _clear(self._outer, self._folder)
      time.sleep(_QUIET_SECONDS)
      if not self._outer.exists():
        return
      if time.monotonic() > deadline:
        _log.warning("%s could not be removed", self._outer)
        return


def remove_dead(parent: pathlib.Path, prefix: str) -> None:
  """Removes what dead processes of this machine left, and says so.

  Args:
    parent: where folders are built.
    prefix: see `UnfinishedFolder`.
  """
  for outer, owner in _find(parent, prefix):
    if owner is None:
      _log.info(
        "%s is unfinished, and it does not say whose. It stays; remove it if"
        " nothing writes there.",
        outer,
      )
    elif process_identity.is_dead(owner):
      _log.warning(
        "Removing %s, which process %s on this machine left unfinished",
        outer,
        owner["pid"],
      )
      _clear(outer, parent / pathlib.PurePath(owner["folder"]).name)
    elif not process_identity.is_here(owner):
      _log.info(
        "%s is unfinished, of process %s on host %r. It stays; remove it if"
        " there is no such process any more.",
        outer,
        owner["pid"],
        owner.get("host"),
      )


def _find(
  parent: pathlib.Path, prefix: str
) -> Iterator[tuple[pathlib.Path, dict[str, Any] | None]]:
  try:
    found = [
      path
      for path in sorted(parent.iterdir())
      if path.name.startswith(prefix)
      and path.is_dir()
      and not path.is_symlink()
    ]
  except OSError:
    return
  for path in found:
    try:
      owner = json.loads((path / _OWNER).read_text(encoding="utf-8"))
      is_known = isinstance(owner["pid"], int) and owner["folder"] > ""
    except (OSError, ValueError, KeyError, TypeError):
      is_known = False
    yield path, owner if is_known else None


def _clear(outer: pathlib.Path, folder: pathlib.Path) -> None:
  """Removes what is unfinished; puts back what it was to replace."""
  replaced = outer / _REPLACED
  try:
    if replaced.exists() and not folder.exists():
      os.rename(replaced, folder)
      _log.warning("%s is put back as it was", folder)
  except OSError as error:
    _log.warning("%s cannot be put back: %s. It stays.", replaced, error)
    return
  shutil.rmtree(outer, ignore_errors=True)
