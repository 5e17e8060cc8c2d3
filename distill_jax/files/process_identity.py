"""Which process something belongs to, and whether it still runs.

A process id counts on one machine since it was started, and in one namespace of
it, such as a container's.
"""

import os
import pathlib
import socket
from collections.abc import Mapping
from typing import Any


def describe() -> dict[str, Any]:
  """Returns what tells this process from all others, as JSON."""
  pid = os.getpid()
  return {
    "host": socket.gethostname(),
    "pid": pid,
    "machine": _read_text("/proc/sys/kernel/random/boot_id")
    or socket.gethostname(),
    "pid_namespace": _read_link("/proc/self/ns/pid"),
    "pid_started": find_start(pid),
  }


def is_here(owner: Mapping[str, Any]) -> bool:
  """Whether a process's id can be looked up on this machine.

  Args:
    owner: what `describe` returned in that process.
  """
  mine = describe()
  return all(
    owner.get(key) == mine[key] for key in ("machine", "pid_namespace")
  )


def is_dead(owner: Mapping[str, Any]) -> bool:
  """Whether a process is known to be no more; not so of another machine's.

  Args:
    owner: what `describe` returned in that process.
  """
  return is_here(owner) and find_start(owner.get("pid")) != owner.get(
    "pid_started"
  )


def find_start(pid: Any) -> str | None:
  """Returns when a process started, as this system counts; None: it is gone."""
  if not isinstance(pid, int):
    return None
  stat = _read_text(f"/proc/{pid}/stat")
  if stat is not None:
    # The name before may hold blanks and brackets; the state Z is a dead one.
    fields = stat.rpartition(")")[2].split()
    return None if fields[0] in "ZX" else fields[19]
  if os.path.isdir("/proc/self"):
    return None
  try:
    os.kill(pid, 0)
  except ProcessLookupError:
    return None
  except OSError:
    pass
  return "unknown"


def _read_text(path: str) -> str | None:
  try:
    return pathlib.Path(path).read_text(encoding="utf-8").strip()
  except OSError:
    return None


def _read_link(path: str) -> str | None:
  try:
    return os.readlink(path)
  except OSError:
    return None
