"""Checksums of a checkpoint's files, to notice bytes that changed on the disk.

Orbax verifies nothing of an array's bytes: a flipped bit is decoded into
another number. `checksums.json` in the checkpoint's folder holds size and
CRC-32 of every file. A CRC finds damage, not forgery; SHA-256 would take three
times as long and find no more of it.

The names in that file are compared with those of the folder and never opened.
"""

import json
import pathlib
import zlib

from distill_jax.files import atomic

MANIFEST = "checksums.json"
_BLOCK_BYTES = 2**22


class DamageError(ValueError):
  """Files of a checkpoint are not those that were saved."""


def write(folder: pathlib.Path, leave_out: str | None = None) -> None:
  """Adds to the manifest of a folder the files that it does not name yet.

  Args:
    folder: of a checkpoint, whose files are written and closed.
    leave_out: name of a file that is still to be written to.
  """
  path = folder / MANIFEST
  sums = _read(path) if path.exists() else {}
  added = {
    name: _measure(file)
    for name, file in _list_files(folder).items()
    if name not in sums and name != leave_out
  }
  if not added:
    return
  # Without blanks, so that every byte of it matters.
  text = json.dumps({"files": sums | added}, separators=(",", ":"))
  atomic.write_text(path, text)


def verify(folder: pathlib.Path, part: int = 0, num_parts: int = 1) -> bool:
  """Compares the files of a folder with its manifest.

  Files that the manifest does not name are not looked at.

  Args:
    folder: of a checkpoint.
    part: which part of them to compare, from 0.
    num_parts: into how many the files are divided.

  Returns:
    Whether there is a manifest; without one nothing was compared.

  Raises:
    DamageError: a file is missing or has other bytes, or the manifest itself
      cannot be read.
  """
  path = folder / MANIFEST
  if not path.exists():
    return False
  files = _list_files(folder)
  problems = []
  for name, expected in sorted(_read(path).items())[part::num_parts]:
    if name not in files:
      problems.append(f"{name} is missing")
    elif (found := _measure(files[name])) != expected:
      problems.append(f"{name} has {_describe(found, expected)}")
  if problems:
    more = f" and {len(problems) - 3} more" if len(problems) > 3 else ""
    raise DamageError(f"{', '.join(problems[:3])}{more}")
  return True


def _list_files(folder: pathlib.Path) -> dict[str, pathlib.Path]:
  return {
    file.relative_to(folder).as_posix(): file
    for file in folder.rglob("*")
    if file.is_file()
    and file.name != MANIFEST
    and file.suffix != atomic.UNFINISHED
  }


def _measure(file: pathlib.Path) -> dict[str, int]:
  """Returns the size and the CRC-32 of a file."""
  num_bytes = crc = 0
  with open(file, "rb") as opened:
    while block := opened.read(_BLOCK_BYTES):
      num_bytes += len(block)
      crc = zlib.crc32(block, crc)
  return {"bytes": num_bytes, "crc32": crc}


def _describe(found: dict[str, int], expected: dict[str, int]) -> str:
  if found["bytes"] != expected.get("bytes"):
    return f"{found['bytes']} bytes, not {expected.get('bytes')}"
  return "other bytes than were saved"


def _read(path: pathlib.Path) -> dict[str, dict[str, int]]:
  try:
    sums = json.loads(path.read_text(encoding="utf-8"))["files"]
  except (ValueError, KeyError, TypeError) as error:
    raise DamageError(f"{path.name} cannot be read ({error})") from error
  if not isinstance(sums, dict) or not all(
    isinstance(value, dict) for value in sums.values()
  ):
    raise DamageError(f"{path.name} holds no checksums")
  return sums
