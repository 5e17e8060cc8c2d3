"""The place in the data, and that the data is still what it was.

A token cache is verified byte by byte when it is opened. While a run goes on,
`DataGuard` compares size, time and inode of its files whenever the place in the
data is saved, and reads them again only if those changed. What is saved names
the bytes, so that a run resumed on other data is refused, whatever it is
called.
"""

import contextlib
import hashlib
import json
import logging
import pathlib
from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

from distill_jax.data.feed.shards import SHARDS
from distill_jax.data.token_cache import TokenCache
from distill_jax.errors import UserError
from distill_jax.hosts import distributed

_log = logging.getLogger(__name__)

_ITERATOR, _TOKEN_CACHE = "iterator", "token_cache_sha256"


@runtime_checkable
class Resumable(Protocol):
  """An iterator whose place can be saved, as Grain's."""

  def get_state(self) -> Any:
    """Returns the place, as JSON values."""
    ...

  def set_state(self, state: Any) -> None:
    """Goes to a place."""
    ...


class DataGuard:
  """Saves and restores an iterator's place in a token cache.

  Attributes:
    sha256: names the bytes of the cache.
  """

  def __init__(self, cache: TokenCache, batches: Resumable):
    """Takes note of the files.

    Args:
      cache: just opened.
      batches: an iterator over it.
    """
    self._path, self._batches = pathlib.Path(cache.path), batches
    self.sha256 = _hash_manifest(self._path)
    self._stats = self._read_stats()

  def get_state(self) -> dict[str, Any]:
    """Returns the place in the data, with the name of its bytes.

    Where several processes make shards of a batch, all call it, and process 0
    learns the place of every shard; so another number of them may go on.

    Raises:
      UserError: the files were changed since the run started.
    """
    self.check()
    place = self._batches.get_state()
    if SHARDS in place:
      places = distributed.collect("place in the data", place) or [place]
      shards = [item for each in places for item in each[SHARDS].items()]
      place = {SHARDS: dict(sorted(shards, key=lambda item: int(item[0])))}
    return {_ITERATOR: place, _TOKEN_CACHE: self.sha256}

  def set_state(self, state: Mapping[str, Any]) -> None:
    """Goes to a place in the data.

    Args:
      state: what `get_state` returned, in an earlier run of the same data.

    Raises:
      UserError: it was a place in other data.
    """
    if _ITERATOR not in state:  # Saved before the bytes were named.
      self._batches.set_state(state)
      return
    if state[_TOKEN_CACHE] != self.sha256:
      raise UserError(
        f"The token cache {self._path} holds other bytes than those the run was"
        " trained on so far, though it was made with the same settings. Copy"
        " the former one back, or start again in another MODEL_DIR."
      )
    self._batches.set_state(state[_ITERATOR])

  def check(self) -> None:
    """Compares the files with those the run started on.

    Raises:
      UserError: they differ, or some are gone.
    """
    stats = self._read_stats()
    if stats == self._stats:
      return
    try:
      TokenCache(self._path)  # Reads and verifies it all.
      sha256 = _hash_manifest(self._path)
    except UserError as error:
      raise UserError(
        f"The token cache was changed under the running job. {error} Nothing"
        " was saved since; the checkpoints so far are intact, and the same"
        " command goes on from the newest when the cache is back."
      ) from error
    if sha256 != self.sha256:
      raise UserError(
        f"The token cache {self._path} was replaced under the running job."
        " Nothing was saved since; the checkpoints so far are intact. Put the"
        " former one back and run the same command again, or start again in"
        " another MODEL_DIR."
      )
    _log.info("%s was touched, but its bytes are the same.", self._path)
    self._stats = stats

  def _read_stats(self) -> dict[str, tuple[int, ...]]:
    """Returns what changes with a file, of each file; {} for no folder."""
    stats = {}
    for file in sorted(self._path.glob("*")):
      with contextlib.suppress(OSError):  # Gone since it was listed.
        stat = file.stat()
        stats[file.name] = (stat.st_size, stat.st_mtime_ns, stat.st_ino)
    return stats


def _hash_manifest(path: pathlib.Path) -> str:
  """Hashes the hashes of a cache's files."""
  manifest = json.loads((path / "cache.json").read_text(encoding="utf-8"))
  canonical = json.dumps(manifest["files"], sort_keys=True).encode()
  return hashlib.sha256(canonical).hexdigest()
