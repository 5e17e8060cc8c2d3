"""The file that knows which batches were submitted, and of which requests.

Written in one step each time, so that a run killed at any moment leaves the
last whole one.
"""

import dataclasses
import json
import os
import pathlib

from distill_jax.errors import UserError
from distill_jax.teacher.transports import batch_replies, client

_VERSION = 1


@dataclasses.dataclass
class Batch:
  """A batch as the file has it.

  Attributes:
    input_file_id: the provider's name of the uploaded requests.
    endpoint: "chat" or "completions".
    keys: of its requests.
    id: None: it was about to be created, and may have been.
  """

  input_file_id: str
  endpoint: str
  keys: list[str]
  id: str | None = None


class BatchState:
  """What was submitted, in memory and in its file.

  Attributes:
    path: of the file.
    batches: in the order they were submitted.
  """

  def __init__(self, path: pathlib.Path, base_url: str):
    """Reads the file where there is one.

    Args:
      path: of the file; its folder exists.
      base_url: the server the batches are at.

    Raises:
      UserError: the file is something else, or of another server.
    """
    self.path = path
    self._base_url = base_url
    self.batches: list[Batch] = []
    try:
      content = path.read_bytes()
    except FileNotFoundError:
      return
    except OSError as error:
      raise UserError(f"BATCH_STATE_PATH cannot be read: {error}.") from error
    try:
      stored = json.loads(content)
      stored_url = stored["base_url"]
      is_known = stored["version"] == _VERSION
      self.batches = [Batch(**batch) for batch in stored["batches"]]
    except (ValueError, KeyError, TypeError, RecursionError):
      is_known, stored_url = False, None
    if not is_known or not all(map(_is_whole, self.batches)):
      raise UserError(
        f"{path} is no record of batches that this version wrote. Move it away"
        " (the batches it may know are then submitted again), or name another"
        " with BATCH_STATE_PATH."
      )
    if stored_url != base_url:
      raise UserError(
        f"{path} records batches of another server than {base_url}. Name"
        " another with BATCH_STATE_PATH, or the server they are at with"
        " TEACHER_BASE_URL."
      )

  def add(self, batch: Batch) -> None:
    """Takes a batch in, and writes."""
    self.batches.append(batch)
    self.write()

  def remove_empty(self) -> None:
    """Drops batches without keys, and writes."""
    self.batches = [batch for batch in self.batches if batch.keys]
    self.write()

  def write(self) -> None:
    """Replaces the file.

    Raises:
      UserError: it cannot be written.
    """
    content = json.dumps(
      {
        "version": _VERSION,
        "base_url": self._base_url,
        "batches": [dataclasses.asdict(batch) for batch in self.batches],
      }
    )
    temporary = self.path.with_name(f"{self.path.name}.partial")
    try:
      with open(temporary, "w", encoding="utf-8") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
      temporary.replace(self.path)
    except OSError as error:
      raise UserError(
        f"BATCH_STATE_PATH cannot be written: {error}. Without it a restart"
        " would pay for its batches again."
      ) from error


def _is_whole(batch: Batch) -> bool:
  return (
    batch_replies.is_plain_id(batch.input_file_id)
    and (batch.id is None or batch_replies.is_plain_id(batch.id))
    and batch.endpoint in client.PATHS
    and isinstance(batch.keys, list)
    and all(isinstance(key, str) for key in batch.keys)
  )
