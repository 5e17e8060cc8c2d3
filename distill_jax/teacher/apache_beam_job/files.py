"""Files that Beam's workers share, on a disk or in an object store.

A path without a scheme is a folder that every worker sees, and is used in
place; anything else is copied to and fro.
"""

import contextlib
import pathlib
import tempfile
import threading
import uuid
from collections.abc import Iterator

# Not installed where pyright runs.
from apache_beam.io import filesystems  # pyright: ignore[reportMissingImports]

from distill_jax.errors import UserError
from distill_jax.files import atomic
from distill_jax.teacher.asking import journal

_JOURNAL = "journal.jsonl"
# Relative to the output folder: of this pipeline, and of --run_mode=label.
_JOURNAL_PATTERNS = (
  _JOURNAL,
  f"shard-*-of-*/{_JOURNAL}",
  "shard-*-of-*/journal-*.jsonl",
)
_Files = filesystems.FileSystems


def is_local(path: str) -> bool:
  """Tells whether a path is on a disk, as opposed to an address."""
  return _Files.get_scheme(path) is None


def join(folder: str, name: str) -> str:
  """Returns the path of a file in a folder; `name` may have slashes."""
  return _Files.join(folder, *name.split("/"))


def list_files(pattern: str) -> list[str]:
  """Returns the files that a pattern with * and ? matches, sorted.

  Raises:
    UserError: they cannot be listed.
  """
  with _explaining(pattern, "read"):
    (matched,) = _Files.match([pattern])
    return sorted(metadata.path for metadata in matched.metadata_list)


def list_journals(folder: str) -> list[str]:
  """Returns all journals in an output folder, the folder's own first.

  Raises:
    UserError: they cannot be listed.
  """
  return [
    path
    for pattern in _JOURNAL_PATTERNS
    for path in list_files(join(folder, pattern))
  ]


@contextlib.contextmanager
def reading(path: str) -> Iterator[pathlib.Path]:
  """Yields a file of this machine with the content of another.

  Raises:
    UserError: the file cannot be read. One that is raised inside names the
      file, not its copy.
  """
  if is_local(path):
    yield pathlib.Path(path)
    return
  with tempfile.TemporaryDirectory() as folder:
    copy = pathlib.Path(folder) / "copy"
    with _explaining(path, "read"):
      _copy(path, str(copy))
    try:
      yield copy
    except UserError as error:
      raise UserError(str(error).replace(str(copy), path)) from error


@contextlib.contextmanager
def writing(path: str) -> Iterator[pathlib.Path]:
  """Yields a file of this machine to be written, which then takes a place.

  It appears there whole or not at all, and replaces what is there.

  Raises:
    UserError: it cannot be written.
  """
  if is_local(path):
    with _explaining(path, "written"):
      pathlib.Path(path).parent.mkdir(parents=True, exist_ok=True)
      with atomic.writing(path) as unfinished:
        yield unfinished
    return
  with tempfile.TemporaryDirectory() as folder:
    copy = pathlib.Path(folder) / "copy"
    yield copy
    _upload(copy, path)


def write_text(path: str, text: str) -> None:
  """Writes a file; see `writing`.

  Raises:
    UserError: it cannot be written.
  """
  with writing(path) as file:
    file.write_text(text, encoding="utf-8")


def delete(paths: list[str]) -> None:
  """Deletes files, if there are any.

  Raises:
    UserError: they cannot be.
  """
  if paths:
    with _explaining(", ".join(paths), "deleted"):
      _Files.delete(paths)


@contextlib.contextmanager
def open_shard_journal(
  folder: str, shard: int, num_shards: int
) -> Iterator[tuple[journal.Journal, journal.Answers]]:
  """Opens the journal of one shard, with all that was ever written to it.

  On a disk it is one file under a lock. An object store cannot append: there
  every call writes a file of its own, which a longer one replaces whenever the
  journal is synced.

  Args:
    folder: the output folder.
    shard: from 0.
    num_shards: how many there are.

  Yields:
    The journal, and the answers in it and in its predecessors.

  Raises:
    UserError: another process has it, or it cannot be read or written.
  """
  place = join(folder, f"shard-{shard}-of-{num_shards}")
  if is_local(folder):
    with journal.Journal(join(place, _JOURNAL)) as own:
      yield own, journal.Answers([own])
    return
  with contextlib.ExitStack() as stack:
    readers = []
    for path in list_files(join(place, "journal*.jsonl")):
      copy = stack.enter_context(reading(path))
      readers.append(stack.enter_context(journal.JournalReader(copy)))
    scratch = stack.enter_context(tempfile.TemporaryDirectory())
    own = stack.enter_context(
      _UploadedJournal(
        pathlib.Path(scratch) / _JOURNAL,
        join(place, f"journal-{uuid.uuid4().hex}.jsonl"),
      )
    )
    try:
      yield own, journal.Answers([own, *readers])
    finally:
      # Also where it ends early: the file here goes.
      if own.num_unsynced:
        own.sync()


class _UploadedJournal(journal.Journal):
  """A journal whose safe place is not the disk that it is written on."""

  def __init__(self, path: pathlib.Path, uploaded_path: str):
    super().__init__(path)
    self._uploaded_path = uploaded_path
    self._upload_lock = threading.Lock()

  def sync(self) -> None:
    # One at a time: of two, the older could be the last to take the place.
    with self._upload_lock:
      super().sync()

  def _make_safe(self) -> None:
    super()._make_safe()
    # A last line that is just being written is left out by its readers.
    _upload(self.path, self._uploaded_path)


def _upload(file: pathlib.Path, path: str) -> None:
  with _explaining(path, "written"):
    # Not a copy between file systems, which Beam has not; an object appears
    # when it is closed.
    _copy(str(file), path)


def _copy(source: str, target: str) -> None:
  with (
    _Files.open(
      source, compression_type=filesystems.CompressionTypes.UNCOMPRESSED
    ) as reader,
    _Files.create(
      target, compression_type=filesystems.CompressionTypes.UNCOMPRESSED
    ) as writer,
  ):
    while block := reader.read(1 << 20):
      writer.write(block)


@contextlib.contextmanager
def _explaining(path: str, done: str) -> Iterator[None]:
  """Makes a UserError of what file systems raise."""
  try:
    yield
  # ValueError: Beam has no file system for the scheme, or lacks its library.
  except (OSError, ValueError, filesystems.BeamIOError) as error:
    raise UserError(f"{path} cannot be {done}: {error}") from error
