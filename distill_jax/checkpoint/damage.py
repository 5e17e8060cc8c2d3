"""Checkpoints that cannot be read: damaged, or just not readable here.

Only what is damaged may be set aside, and nothing is ever deleted.
"""

import contextlib
import errno
import functools
import logging
import pathlib
from collections.abc import Iterator
from typing import Any

from distill_jax.checkpoint import checksums
from distill_jax.errors import UserError
from distill_jax.files import free_name
from distill_jax.hosts import distributed

_log = logging.getLogger(__name__)

_MACHINE_ERRORS = {
  errno.EACCES,
  errno.EPERM,
  errno.EMFILE,
  errno.ENFILE,
  errno.ESTALE,
  errno.ETIMEDOUT,
}


class DamagedCheckpointError(UserError):
  """A checkpoint's files are not what was saved; an earlier one may be."""


@contextlib.contextmanager
def explain_damage(
  path: pathlib.Path, is_verified: bool = False
) -> Iterator[None]:
  """Tells of a checkpoint that cannot be read, and what to do.

  Args:
    path: its folder.
    is_verified: its bytes are those that were saved, so that what fails is not
      damage.

  Raises:
    DamagedCheckpointError: a file is not what was saved; names the checkpoint
      to go on from.
    UserError: no damage was found.
  """
  try:
    yield
  # All of these come of one damaged file or another.
  except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
    # A checkpoint may have been renamed; then none is earlier.
    damaged = int(path.name) if path.name.isdigit() else 0
    earlier = [step for step in list_steps(path.parent) if step < damaged]
    advice = (
      f"move that folder out of {path.parent} to go on from step {earlier[-1]}"
      if earlier
      else "there is no earlier one to go on from"
    )
    # TensorStore's other reads fail too, and asyncio would trace each.
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)
    found = f"What was found: {str(error)[:300]}"
    if is_verified or _is_no_damage(error):
      raise UserError(
        f"{path} cannot be read, though no damage was found. It may need the"
        f" version of Orbax it was saved with, or other permissions. {found}"
      ) from error
    raise DamagedCheckpointError(
      f"{path} cannot be read as a checkpoint; {advice}. {found}"
    ) from error


def _is_no_damage(error: Exception) -> bool:
  """Whether an error speaks of the machine and not of a checkpoint's bytes."""
  if isinstance(error, OSError) and error.errno in _MACHINE_ERRORS:
    return True
  return any(
    status in str(error) for status in ("PERMISSION_DENIED", "UNAVAILABLE")
  )


def list_steps(folder: pathlib.Path) -> list[int]:
  """Steps of the complete checkpoints in a folder, which may be missing."""
  names = [child.name for child in folder.iterdir()] if folder.is_dir() else []
  return sorted(int(name) for name in names if name.isdigit())


def set_aside(path: pathlib.Path, error: Exception) -> None:
  """Renames a damaged checkpoint, whose step will be saved again.

  Args:
    path: its folder.
    error: what was found.
  """
  aside = free_name.find_free_name(path.with_name(f"damaged-{path.name}"))
  _log.error("%s\nIt is kept as %s and not used.", error, aside)
  path.rename(aside)


def verify(path: pathlib.Path) -> bool:
  """Compares a checkpoint with its checksums.

  Several processes read a part of the files each, and agree.

  Args:
    path: its folder, which all processes see.

  Returns:
    Whether it has checksums.

  Raises:
    DamagedCheckpointError: the files differ from them.
    UserError: a process cannot read them.
  """
  count = distributed.process_count()
  with explain_damage(path):
    if count == 1:
      return _verify_part(path, 0, 1)
    found: dict[str, Any] = {"problem": None, "is_damage": False}
    try:
      found["has_checksums"] = _verify_part(
        path, distributed.process_index(), count
      )
    except (OSError, ValueError) as error:
      found |= {"problem": str(error), "is_damage": not _is_no_damage(error)}
    answers = distributed.gather("checksums", found)
    for index, answer in enumerate(answers):
      if answer["problem"] and not answer["is_damage"]:
        raise UserError(
          f"{path} cannot be read by {distributed.describe(index)}:"
          f" {answer['problem']}"
        )
    if problems := [a["problem"] for a in answers if a["problem"]]:
      raise checksums.DamageError(", ".join(dict.fromkeys(problems)))
    return answers[0]["has_checksums"]


def _verify_part(path: pathlib.Path, index: int, count: int) -> bool:
  stats = [
    (str(file), stat.st_size, stat.st_mtime_ns, stat.st_ino)
    for file in sorted(path.rglob("*"))
    if (stat := file.stat())
  ]
  return _verify_once(path, tuple(stats), index, count)


@functools.lru_cache(maxsize=64)
def _verify_once(
  path: pathlib.Path, stats: tuple, index: int, count: int
) -> bool:
  """Verifies; an evaluation finds the same checkpoint several times."""
  del stats  # Files that were touched since are read again.
  return checksums.verify(path, index, count)
