"""The journal: every request and every answer, a line of JSON each.

Owns who may write the file, and finding an answer in it again; `journal_lines`
says what a line holds, `ledger` what all of them cost, and every line passes
`redaction`. Knows no prompt, parser or transport.

The file only grows. A line is handed to the system at once, so a killed process
loses nothing that it had appended; `sync` brings it to the disk, so that a
machine that loses power does not either.
"""

import dataclasses
import datetime
import json
import os
import pathlib
import sys
from collections.abc import Iterator, Sequence
from typing import Any

from distill_jax.errors import UserError
from distill_jax.files import append_file
from distill_jax.teacher.asking.exchange import (
  ANSWERED,
  UNREADABLE,
  Request,
  Response,
  TeacherError,
)
from distill_jax.teacher.asking.journal_lines import (
  OPTIONAL_FIELDS,
  Failure,
  get_fields,
  parse_event,
)
from distill_jax.teacher.asking.ledger import Ledger
from distill_jax.teacher.reading import redaction

_RESPONSE_FIELDS = {field.name for field in dataclasses.fields(Response)}

# A reply that cannot be read is asked for once more, and no oftener: it is paid
# for each time.
MAX_UNREADABLE = 2


class JournalReader:
  """The answers in one journal.

  Memory holds a digest, a place and an address for each request, about 300
  bytes, and no text. A last line without its end, which a writer may be at, is
  left out.

  Attributes:
    ledger: what the lines cost.
  """

  def __init__(self, path: str | os.PathLike):
    """Reads the whole file once; one that is missing has no answers.

    Args:
      path: the journal.

    Raises:
      UserError: the file cannot be read, or a line of it is damaged. Names the
        line.
    """
    self.path = pathlib.Path(path)
    self.ledger = Ledger()
    # Key -> where its line begins.
    self._responses: dict[bytes, int] = {}
    # Key -> the server that answered, each address once in memory.
    self._addresses: dict[bytes, str] = {}
    self._final_failures: dict[bytes, int] = {}
    self._open_failures: dict[bytes, int] = {}
    # Responses without text: the last of each request.
    self._textless: dict[bytes, int] = {}
    self._num_unreadable: dict[bytes, int] = {}
    # Of requests without response.
    self._num_asked: dict[bytes, int] = {}
    self._file = None
    self._size = 0
    self._load()

  def has_response(self, key: str) -> bool:
    """Tells whether a request was answered with a text."""
    return bytes.fromhex(key) in self._responses

  def has_any_response(self) -> bool:
    """Tells whether any request was answered with a text."""
    return bool(self._responses)

  def has_final_failure(self, key: str) -> bool:
    """Tells whether a request failed for good and was never answered.

    An answer without text is such a failure, too.
    """
    digest = bytes.fromhex(key)
    return digest not in self._responses and (
      digest in self._final_failures or self._is_final_textless(digest)
    )

  def get_num_asked(self, key: str) -> int:
    """Returns how often a request without response was asked."""
    return self._num_asked.get(bytes.fromhex(key), 0)

  def list_keys(self) -> Iterator[str]:
    """Yields the keys of requests with a response or a final failure."""
    for digests in (self._responses, self._final_failures):
      yield from (digest.hex() for digest in digests)
    for digest in self._textless:
      if digest not in self._final_failures and self._is_final_textless(digest):
        yield digest.hex()

  def get_address(self, key: str) -> str | None:
    """Returns where an answer came from, None where that is not written."""
    return self._addresses.get(bytes.fromhex(key))

  def read_response(self, key: str) -> Response | None:
    """Returns the answer to a request, None where there is none.

    Where no answer has a text, one without that is final.

    Raises:
      UserError: the file has changed under the reader.
    """
    digest = bytes.fromhex(key)
    offset = self._responses.get(digest)
    if offset is None and self._is_final_textless(digest):
      offset = self._textless[digest]
    if offset is None:
      return None
    fields = self._read_fields(offset, key, "response")
    return Response(
      **{name: fields[name] for name in fields if name in _RESPONSE_FIELDS}
    )

  def read_failure(self, key: str) -> Failure | None:
    """Returns how a request last failed, final or not.

    Raises:
      UserError: the file has changed under the reader.
    """
    digest = bytes.fromhex(key)
    offset = self._final_failures.get(digest, self._open_failures.get(digest))
    if offset is None:
      return None
    return Failure(**self._read_fields(offset, key, "failure"))

  def close(self) -> None:
    """Closes the file."""
    if self._file is not None:
      self._file.close()
      self._file = None

  def __enter__(self):
    return self

  def __exit__(self, *_):
    self.close()

  def _load(self) -> None:
    try:
      with open(self.path, "rb") as file:
        for number, line in enumerate(file, start=1):
          if not line.endswith(b"\n"):
            break
          event = parse_event(line)
          if event is None:
            raise UserError(
              f"{self.path}:{number}: the line is damaged, and it may be an"
              " answer that was paid for. Mend it, or take the line out: what"
              " it answered is then asked again."
            )
          self._remember(event, self._size)
          self._size += len(line)
    except FileNotFoundError:
      pass
    except OSError as error:
      raise UserError(
        f"The journal {self.path} cannot be read: {error.strerror}."
      ) from error

  def _remember(self, event: dict[str, Any], offset: int) -> None:
    self.ledger.note(event)
    digest = bytes.fromhex(event["key"])
    status = event.get("status", ANSWERED)
    if event["event"] == "response" and digest not in self._responses:
      self._addresses.pop(digest, None)
      if event.get("address"):
        self._addresses[digest] = sys.intern(event["address"])
    if event["event"] == "response" and status == ANSWERED:
      self._responses.setdefault(digest, offset)
      for outdone in (
        self._num_asked,
        self._final_failures,
        self._open_failures,
        self._textless,
        self._num_unreadable,
      ):
        outdone.pop(digest, None)
    elif digest in self._responses:
      return
    elif event["event"] == "request":
      self._num_asked[digest] = self._num_asked.get(digest, 0) + 1
    elif event["event"] == "response":
      self._textless[digest] = offset
      is_unreadable = status == UNREADABLE
      num_unreadable = self._num_unreadable.get(digest, 0)
      self._num_unreadable[digest] = (
        num_unreadable + 1 if is_unreadable else MAX_UNREADABLE
      )
    elif event["is_final"]:
      self._final_failures[digest] = offset
    else:
      self._open_failures[digest] = offset

  def _is_final_textless(self, digest: bytes) -> bool:
    return self._num_unreadable.get(digest, 0) >= MAX_UNREADABLE

  def _read_fields(self, offset: int, key: str, name: str) -> dict[str, Any]:
    try:
      if self._file is None:
        self._file = open(self.path, "rb")
      self._file.seek(offset)
      event = parse_event(self._file.readline())
    except OSError as error:
      raise UserError(
        f"The journal {self.path} cannot be read: {error.strerror}."
      ) from error
    if event is None or event["key"] != key or event["event"] != name:
      raise UserError(
        f"The journal {self.path} was changed while it was read. Give the same"
        " command again."
      )
    return get_fields(event)


class Journal(JournalReader):
  """A journal open for writing, by this process alone."""

  def __init__(self, path: str | os.PathLike):
    """Locks, repairs and reads the journal; makes it where it is missing.

    A last line that a crash cut off is moved to a file beside the journal,
    `<name>.torn`, with a notice; one that only lacks its line break gets it.

    Args:
      path: the file; its folder is made if absent.

    Raises:
      UserError: another process has it, the file cannot be read or written, or
        a line of it is damaged.
    """
    path = pathlib.Path(path)
    self._lock = append_file.lock(
      path.with_suffix(".lock"), f"The journal {path}"
    )
    self._descriptor = -1
    # Each is written by one thread only.
    self._num_appended = self._num_synced = 0
    try:
      self._open(path)
      super().__init__(path)
    except BaseException:
      self.close()
      raise

  @property
  def num_unsynced(self) -> int:
    """Lines appended since `sync` last began."""
    return self._num_appended - self._num_synced

  def append_request(self, key: str, request: Request, question: str) -> None:
    """Writes down that a request is about to be sent.

    Args:
      key: the request's, which takes time to compute.
      request: it.
      question: id of the question it is sent for.

    Raises:
      UserError: the file cannot be written.
    """
    self._append(
      {
        "event": "request",
        "key": key,
        "model": request.model,
        "endpoint": request.endpoint,
        "prompt": request.prompt,
        "parameters": dict(request.parameters),
        "sample_index": request.sample_index,
        "question": question,
        "attempt": self.get_num_asked(key) + 1,
        "address": request.address,
        "prompt_name": request.prompt_name,
      }
    )

  def append_response(self, key: str, response: Response) -> None:
    """Writes down an answer.

    Args:
      key: of its request.
      response: it.

    Raises:
      UserError: the file cannot be written.
    """
    event = {"event": "response", "key": key, **vars(response)}
    event["address"] = self.ledger.get_open_address(key)
    self._append(event)

  def append_failure(self, key: str, error: TeacherError) -> None:
    """Writes down that there was no answer.

    Args:
      key: of the request.
      error: why.

    Raises:
      UserError: the file cannot be written.
    """
    self._append(
      {
        "event": "failure",
        "key": key,
        "kind": error.kind,
        "message": str(error),
        "is_final": error.is_final,
        "num_attempts": error.num_attempts,
      }
    )

  def sync(self) -> None:
    """Brings what was appended to the disk; may run in another thread.

    Raises:
      UserError: the disk refuses.
    """
    num_appended = self._num_appended
    self._make_safe()
    # There may be more by now.
    self._num_synced = num_appended

  def close(self) -> None:
    """Closes the file and lets others have it."""
    if hasattr(self, "_file"):  # Opening may have failed before.
      super().close()
    if self._descriptor >= 0:
      os.close(self._descriptor)
      self._descriptor = -1
    if self._lock >= 0:
      os.close(self._lock)
      self._lock = -1

  def _open(self, path: pathlib.Path) -> None:
    try:
      self._descriptor = os.open(
        path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666
      )
      append_file.repair_end(
        self._descriptor, path, lambda line: parse_event(line) is not None
      )
      # The file's name is safe only once its folder is.
      append_file.sync_folder(path.parent)
    except OSError as error:
      raise UserError(
        f"The journal {path} cannot be opened: {error.strerror}. Give another"
        " OUTPUT_PATH, or mend its permissions."
      ) from error

  def _make_safe(self) -> None:
    try:
      os.fsync(self._descriptor)
    except OSError as error:
      raise self._explain(error) from error

  def _append(self, event: dict[str, Any]) -> None:
    # Here, where all lines pass, and after every decoding.
    event = redaction.redact(event)
    now = datetime.datetime.now(datetime.UTC)
    event["time"] = now.isoformat(timespec="milliseconds")
    for name in OPTIONAL_FIELDS[event["event"]]:
      if event.get(name, "") is None:
        del event[name]
    # ASCII: half a surrogate pair could not be written otherwise.
    line = json.dumps(event).encode("ascii") + b"\n"
    try:
      append_file.write_all(self._descriptor, line)
    except OSError as error:
      raise self._explain(error) from error
    self._remember(event, self._size)
    self._size += len(line)
    self._num_appended += 1

  def _explain(self, error: OSError) -> UserError:
    return UserError(
      f"The journal {self.path} cannot be written: {error.strerror}. What is in"
      " it is safe. Make room, then give the same command again."
    )


class Answers:
  """The answers of several journals, taken for one."""

  def __init__(self, readers: Sequence[JournalReader]):
    """Keeps the readers.

    Args:
      readers: in the order in which they are asked. Whoever opened them closes
        them.
    """
    self._readers = readers

  @property
  def ledgers(self) -> list[Ledger]:
    """What each journal's lines cost."""
    return [reader.ledger for reader in self._readers]

  def get_address(self, key: str) -> str | None:
    """Returns where an answer came from; see `JournalReader`."""
    for reader in self._readers:
      if reader.has_response(key):
        return reader.get_address(key)
    addresses = (reader.get_address(key) for reader in self._readers)
    return next(filter(None, addresses), None)

  def has_response(self, key: str) -> bool:
    """Tells whether a request was answered."""
    return any(reader.has_response(key) for reader in self._readers)

  def has_any_response(self) -> bool:
    """Tells whether any request was answered."""
    return any(reader.has_any_response() for reader in self._readers)

  def has_final_failure(self, key: str) -> bool:
    """Tells whether a request failed for good and was never answered."""
    return not self.has_response(key) and any(
      reader.has_final_failure(key) for reader in self._readers
    )

  def read_response(self, key: str) -> Response | None:
    """Returns the answer to a request; see `JournalReader`."""
    textless = None
    for reader in self._readers:
      response = reader.read_response(key)
      if response is not None and response.is_answered:
        return response
      textless = textless or response
    return textless

  def read_failure(self, key: str) -> Failure | None:
    """Returns how a request failed, for good where it did."""
    failures = [reader.read_failure(key) for reader in self._readers]
    found = [failure for failure in failures if failure is not None]
    return max(found, key=lambda failure: failure.is_final, default=None)
