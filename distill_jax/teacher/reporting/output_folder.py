"""The folder that labelling writes to: its files, its shards and its locks.

Knows where things are and who may write them, and not what is in them.

  journal.jsonl    what was asked and answered; the only file that cost money
  journal.lock     held while a process writes here
  records.jsonl    made of the journal, and so are the next three
  summary.json
  evaluation.json  of `--evaluate`
  config.gin       the settings of the first records; those of later ones that
                   differ are in config-2.gin, config-3.gin, ...
  batches.json     what the provider's batch API works on
  shard-i-of-n/    the same files, of the questions of one shard
"""

import contextlib
import itertools
import json
import os
import pathlib
import re
from collections.abc import Iterator, Mapping
from typing import Any

from distill_jax.errors import UserError
from distill_jax.files import append_file, atomic
from distill_jax.teacher.asking import journal

_JOURNAL, _SUMMARY = "journal.jsonl", "summary.json"
_INPUT_DIGEST = "input_sha256"
_SHARD = re.compile(r"([0-9]{1,6})/([0-9]{1,6})")


def parse_shard(shard: str) -> tuple[int, int]:
  """Returns (i, n) of "i/n".

  Raises:
    UserError: it is something else.
  """
  match = _SHARD.fullmatch(shard)
  if match is None or not int(match[1]) < int(match[2]):
    raise UserError(
      f"--shard is {shard!r}; it is i/n with i from 0 to n - 1, such as 0/4."
    )
  return int(match[1]), int(match[2])


def check_identity(
  records_path: str | os.PathLike,
  summary: Mapping[str, Any],
  identity: Mapping[str, Any],
) -> None:
  """Refuses to replace records that were made with other settings.

  Args:
    records_path: where they are.
    summary: of these records; `settings` in it is their identity.
    identity: what decides the new records, as JSON gives it back.

  Raises:
    UserError: the two differ.
  """
  found = summary.get("settings")
  found = found if isinstance(found, dict) else {}
  names = [name for name in {**identity, **found} if name != _INPUT_DIGEST]
  if _INPUT_DIGEST in found and identity.get(_INPUT_DIGEST) == found.get(
    _INPUT_DIGEST
  ):
    # The same questions, wherever their file is now.
    names.remove("input_path")
  differing = ", ".join(
    name for name in names if found.get(name) != identity.get(name)
  )
  if not differing:
    return
  raise UserError(
    f"{records_path} was made with other settings ({differing}). Give another"
    " OUTPUT_PATH, or --overwrite to replace the records; the journal beside"
    " them is kept in any case, and what it answers is not asked again."
  )


def name_config(found: Mapping[str, str], text: str) -> str:
  """Returns where settings are kept, so that no file claims others' answers.

  Args:
    found: the files there are, name -> text.
    text: the settings.

  Returns:
    The name of the file that holds this text, or of one that is not there yet.
  """
  for number in itertools.count(1):
    name = "config.gin" if number == 1 else f"config-{number}.gin"
    if found.get(name, text) == text:
      return name
  raise AssertionError("unreachable")


class OutputFolder:
  """Where one run writes.

  Attributes:
    path: the run's folder: a shard's own, or else OUTPUT_PATH.
    records_path: in it.
    batches_path: in it.
  """

  def __init__(
    self, root: str | os.PathLike, shard: tuple[int, int] | None = None
  ):
    """Makes nothing yet.

    Args:
      root: OUTPUT_PATH.
      shard: (i, n), or None for all questions.

    Raises:
      UserError: there is a file in the folder's place.
    """
    self._root = pathlib.Path(root).expanduser().absolute()
    self._is_shard = shard is not None
    self.path = self._root
    if shard is not None:
      self.path = self._root / f"shard-{shard[0]}-of-{shard[1]}"
    for folder in (self._root, self.path):
      if folder.exists() and not folder.is_dir():
        raise UserError(f"OUTPUT_PATH {folder} is a file. Give a folder.")
    self.records_path = self.path / "records.jsonl"
    self.batches_path = self.path / "batches.json"

  def list_journals(self) -> list[pathlib.Path]:
    """Returns the journals there are, this run's own first."""
    own = self.path / _JOURNAL
    found = [
      self._root / _JOURNAL,
      *sorted(self._root.glob(f"shard-*-of-*/{_JOURNAL}")),
    ]
    others = [path for path in found if path != own]
    return [path for path in (own, *others) if path.is_file()]

  @contextlib.contextmanager
  def open_journals(
    self,
  ) -> Iterator[tuple[journal.Journal, journal.Answers]]:
    """Opens this run's journal for writing and all others for reading.

    Shards may run side by side. A run over all questions, which asks what the
    shards did not, runs alone.

    Yields:
      The journal and the answers of all of them.

    Raises:
      UserError: another process writes here, or a journal cannot be opened.
    """
    with contextlib.ExitStack() as stack:
      if self._is_shard:
        shared = append_file.lock(
          (self._root / _JOURNAL).with_suffix(".lock"),
          f"OUTPUT_PATH {self._root}",
          is_shared=True,
        )
        stack.callback(os.close, shared)
      own = stack.enter_context(journal.Journal(self.path / _JOURNAL))
      others = [
        stack.enter_context(journal.JournalReader(path))
        for path in self.list_journals()
        if path != own.path
      ]
      yield own, journal.Answers([own, *others])

  @contextlib.contextmanager
  def read_journals(self) -> Iterator[journal.Answers]:
    """Opens all journals for reading, locks none and changes nothing.

    Yields:
      The answers of all of them.

    Raises:
      UserError: a journal cannot be read.
    """
    with contextlib.ExitStack() as stack:
      readers = [
        stack.enter_context(journal.JournalReader(path))
        for path in self.list_journals()
      ]
      yield journal.Answers(readers)

  def check_replaceable(self, identity: Mapping[str, Any]) -> None:
    """Refuses to replace records that were made with other settings.

    Args:
      identity: what decides the records, as JSON gives it back.

    Raises:
      UserError: there are records, and `settings` in their summary differ; or
        records in shards, of the pipeline.
    """
    sharded = sorted(self.path.glob("records-*-of-*.jsonl"))
    if sharded:
      raise UserError(
        f"{sharded[0]} was written by the Beam pipeline, and would stand beside"
        " the records of this run. Give another OUTPUT_PATH, or --overwrite to"
        " leave it there."
      )
    if not self.records_path.exists():
      return
    check_identity(self.records_path, self.read_summary(), identity)

  def read_summary(self) -> dict[str, Any]:
    """Returns the summary; empty where there is none that can be read."""
    try:
      found = json.loads((self.path / _SUMMARY).read_bytes())
    except (OSError, ValueError, RecursionError):
      return {}
    return found if isinstance(found, dict) else {}

  def count_outcomes(self) -> int:
    """Returns how many questions' outcomes the records there hold."""
    found = self.read_summary()
    num_questions, num_open = found.get("num_questions"), found.get("num_open")
    if not self.records_path.exists():
      return 0
    if not isinstance(num_questions, int) or not isinstance(num_open, int):
      return 0
    return num_questions - num_open

  def write_summary(self, summary: Mapping[str, Any]) -> None:
    """Writes the summary; see `write_text`."""
    self.write_text(_SUMMARY, json.dumps(summary, indent=2) + "\n")

  def write_config(self, text: str) -> str:
    """Writes settings beside those that are there; see `name_config`.

    Args:
      text: the settings.

    Returns:
      The name of the file that holds them.

    Raises:
      UserError: it cannot be read or written.
    """
    try:
      found = {
        path.name: path.read_text(encoding="utf-8")
        for path in self.path.glob("config*.gin")
      }
    except (OSError, UnicodeDecodeError) as error:
      raise UserError(f"{self.path}: config.gin: {error}.") from error
    name = name_config(found, text)
    if name not in found:
      self.write_text(name, text)
    return name

  def write_text(self, name: str, text: str) -> None:
    """Writes a file that appears whole or not at all.

    Args:
      name: of the file.
      text: what it is to hold.

    Raises:
      UserError: it cannot be written.
    """
    path = self.path / name
    try:
      atomic.write_text(path, text)
    except OSError as error:
      raise UserError(f"{path} cannot be written: {error.strerror}.") from error
