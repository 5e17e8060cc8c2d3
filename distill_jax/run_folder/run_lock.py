"""One run at a time in a MODEL_DIR.

`lock.json` in the folder names the process that trains there. Two things tell
whether it still does:

- The file is locked by the system (flock), which lets go when the process ends,
  however it ends: on one machine, and on NFS, between machines too.
- Its number of beats grows every few seconds. Where the file system knows no
  locks, or each machine knows only its own (gcsfuse), whoever comes second
  watches it. No clocks are compared.

A process whose file another has taken, after a long pause for instance, ends
at its next step.
"""

import contextlib
import errno
import fcntl
import json
import os
import pathlib
import threading
import time
import uuid
from typing import Any

from distill_jax.errors import UserError
from distill_jax.files import process_identity

FILE = "lock.json"
_BEAT_SECONDS = 5.0
# Beats are missed: a network's folder may show them late.
_WATCH_SECONDS = 20.0
_POLL_SECONDS = 0.5
_MOST_TRIES = 20
_NO_LOCKS = {errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS,
             errno.EINVAL}  # fmt: skip


class RunLock:
  """Holds MODEL_DIR for this process; a context manager once acquired."""

  def __init__(
    self,
    folder: pathlib.Path,
    beat_seconds: float = _BEAT_SECONDS,
    watch_seconds: float = _WATCH_SECONDS,
  ):
    """Acquires nothing yet.

    Args:
      folder: MODEL_DIR.
      beat_seconds: time between two signs of life.
      watch_seconds: a process that gives none for so long is gone.
    """
    self._folder, self._path = folder, folder / FILE
    self._beat_seconds, self._watch_seconds = beat_seconds, watch_seconds
    self._made: list[pathlib.Path] = []
    self._file: int | None = None
    self._owner = _describe_process()
    self._lost_to: dict[str, Any] | None = None
    self._closed = threading.Event()
    self._thread: threading.Thread | None = None

  def acquire(self) -> None:
    """Takes the folder, which is made where it is missing.

    Raises:
      UserError: another process trains there, or it cannot be written.
    """
    try:
      self._make_folder()
      self._lock()
    except OSError as error:
      self._remove_made()
      raise UserError(
        f"MODEL_DIR {self._folder} cannot be written: {error}. Give a folder"
        " that can be."
      ) from error
    except BaseException:
      self._let_go()
      raise
    self._thread = threading.Thread(
      target=self._beat, name="run_lock", daemon=True
    )
    self._thread.start()

  def release(self) -> None:
    """Gives the folder back; what was made for this run and is empty, too."""
    self._closed.set()
    if self._thread is not None:
      self._thread.join(self._beat_seconds)
    if self._file is not None and self._lost_to is None:
      with contextlib.suppress(OSError):
        self._path.unlink()
    self._let_go()

  def raise_if_lost(self) -> None:
    """Ends this run where another has taken its folder.

    Raises:
      UserError: names the other.
    """
    if self._lost_to is not None:
      raise UserError(
        f"{_name(self._lost_to)} has taken MODEL_DIR {self._folder} from this"
        " process, which gave no sign of life for too long. This one stops; the"
        " checkpoints are the other's now."
      )

  def __enter__(self) -> "RunLock":
    return self

  def __exit__(self, *exception) -> None:
    self.release()

  def _make_folder(self) -> None:
    if self._folder.exists() and not self._folder.is_dir():
      raise UserError(
        f"MODEL_DIR {self._folder} is a file. Give the path of a folder."
      )
    missing = []
    for path in (self._folder, *self._folder.parents):
      if path.exists():
        break
      missing.append(path)
    for path in reversed(missing):
      path.mkdir(exist_ok=True)
      self._made.insert(0, path)

  def _remove_made(self) -> None:
    with contextlib.suppress(OSError):  # It holds something by now.
      for path in self._made:
        path.rmdir()

  def _let_go(self) -> None:
    if self._file is not None:
      os.close(self._file)
      self._file = None
    self._remove_made()

  def _lock(self) -> None:
    is_locked = self._open_locked()
    before = self._read()
    if before is not None and not self._is_gone(before, is_locked):
      raise UserError(self._explain(before))
    self._write(0)
    if not is_locked:
      # Of two that come at once the last to write has it.
      time.sleep(min(1.0, self._beat_seconds))
      now = self._read()
      if now is not None and now["id"] != self._owner["id"]:
        raise UserError(self._explain(now))

  def _open_locked(self) -> bool:
    """Opens the file; returns whether the system locked it for us.

    Raises:
      UserError: it is another process's.
    """
    for _ in range(_MOST_TRIES):
      self._file = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o644)
      try:
        fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
      except OSError as error:
        if error.errno in _NO_LOCKS:
          return False
        if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
          raise
        raise UserError(self._explain(self._read_named())) from error
      try:
        # Its owner may have removed it between the two calls.
        if os.path.samestat(os.fstat(self._file), os.stat(self._path)):
          return True
      except FileNotFoundError:
        pass
      os.close(self._file)
      self._file = None
    raise UserError(self._explain(self._read_named()))

  def _read(self) -> dict[str, Any] | None:
    """Returns who is named in the file; None: nobody is."""
    try:
      owner = json.loads(self._path.read_text(encoding="utf-8"))
    except (OSError, ValueError):  # Or just being written.
      return None
    return owner if isinstance(owner, dict) and "id" in owner else None

  def _read_named(self) -> dict[str, Any]:
    """Reads it where somebody holds it, who may not have written it yet."""
    deadline = time.monotonic() + 2.0
    while (owner := self._read()) is None and time.monotonic() < deadline:
      time.sleep(0.05)
    return owner or {}

  def _is_gone(self, owner: dict[str, Any], is_locked: bool) -> bool:
    """Whether the process that the file names is no more."""
    mine = self._owner
    if owner.get("machine") == mine["machine"]:
      if is_locked:
        return True  # The system would have said that it lives.
      if owner.get("pid_namespace") == mine["pid_namespace"]:
        return process_identity.find_start(owner.get("pid")) != owner.get(
          "pid_started"
        )
    deadline = time.monotonic() + self._watch_seconds
    while time.monotonic() < deadline:
      time.sleep(min(_POLL_SECONDS, self._beat_seconds))
      now = self._read()
      if now is not None and (now["id"], now.get("beats")) != (
        owner["id"],
        owner.get("beats"),
      ):
        return False
    return True

  def _explain(self, owner: dict[str, Any]) -> str:
    return (
      f"MODEL_DIR {self._folder} is in use: {_name(owner)} trains there. Two"
      " runs in one folder would overwrite each other's checkpoints. Wait for"
      " it, stop it, or give another MODEL_DIR. If there is no such process any"
      f" more, remove {self._path}."
    )

  def _write(self, beats: int) -> None:
    assert self._file is not None
    content = json.dumps(self._owner | {"beats": beats}, indent=2).encode()
    os.pwrite(self._file, content, 0)
    os.ftruncate(self._file, len(content))
    os.fsync(self._file)

  def _beat(self) -> None:
    beats = 0
    while not self._closed.wait(self._beat_seconds):
      owner = self._read()
      if owner is not None and owner["id"] != self._owner["id"]:
        self._lost_to = owner
        return
      beats += 1
      # Whatever writes checkpoints reports a full disk.
      with contextlib.suppress(OSError):
        self._write(beats)


class LockHook:
  """Ends a run that has lost its folder, before it writes there again."""

  def __init__(self, lock: RunLock):
    """Remembers the lock.

    Args:
      lock: of the run.
    """
    self._lock = lock

  def after_step(self, step, state, batch, metrics) -> None:
    """See `loop.Hook`."""
    del step, state, batch, metrics
    self._lock.raise_if_lost()

  def close(self) -> None:
    """See `loop.Hook`."""


def _describe_process() -> dict[str, Any]:
  return process_identity.describe() | {
    "id": uuid.uuid4().hex,
    "started": time.strftime("%Y-%m-%d %H:%M:%S %z"),
  }


def _name(owner: dict[str, Any]) -> str:
  if "pid" not in owner:
    return "another process"
  return (
    f"process {owner['pid']} on host {owner.get('host')!r}, since"
    f" {owner.get('started')},"
  )
