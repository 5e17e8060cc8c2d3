"""Zarr arrays of a checkpoint folder, local or gs://, through TensorStore.

T5X's older checkpoints are a folder of zarr arrays, and Orbax keeps the same
arrays in one OCDBT store; TensorStore reads both, from a disk or from Google
Cloud Storage, with its own drivers.
"""

import contextlib
import pathlib
import urllib.parse
from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorstore

from distill_jax.checkpoint.stored_model import Index, LazyTensor
from distill_jax.errors import UserError

_GCS = "gs://"
_OCDBT_MANIFEST = "manifest.ocdbt"
_ARRAY_MARK = "/.zarray"
_MAX_CHUNK_BYTES = 2**26
# Without a network, credentials alone would be sought for ever.
_MAX_SECONDS = 60
_MAX_DATA_SECONDS = 1800
_REMOTE_CONTEXT = {
  "gcs_request_retries": {
    "max_retries": 5,
    "initial_delay": "1s",
    "max_delay": "10s",
  }
}


def normalize(path: str | pathlib.Path) -> str:
  """Returns an absolute path without a final slash, or a gs:// URL.

  Args:
    path: what a user gave.

  Raises:
    UserError: a URL of another kind, or no path at all.
  """
  text = str(path)
  if text.startswith(_GCS):
    return text.rstrip("/")
  if "://" in text:
    raise UserError(
      f"{text}: only local paths and gs://bucket/folder can be read."
    )
  path = pathlib.Path(text).expanduser()
  try:
    # TensorStore takes no "..", and a link's folder is not the name's.
    return str(path.resolve() if ".." in path.parts else path.absolute())
  except (OSError, ValueError) as error:
    raise UserError(f"{text!r} cannot be read: {error}") from error


def read_file(folder: str, name: str) -> bytes | None:
  """Reads a file; None where there is none.

  Args:
    folder: as `normalize` returns it.
    name: of a file in it.

  Raises:
    UserError: it cannot be read.
  """
  with _explain_unreadable(f"{folder}/{name}"):
    found = _open_store(folder).read(name).result(timeout=_MAX_SECONDS)
  return bytes(found.value) if found.state == "value" else None


class ArrayFolder:
  """The zarr arrays of a folder, or of the OCDBT store in it."""

  def __init__(self, folder: str):
    """Opens the folder; nothing is read yet but OCDBT's manifest.

    Args:
      folder: as `normalize` returns it.

    Raises:
      UserError: it cannot be read.
    """
    self._folder = folder
    is_ocdbt = read_file(folder, _OCDBT_MANIFEST) is not None
    with _explain_unreadable(folder):
      base = _open_store(folder)
      self._store = base
      if is_ocdbt:
        self._store = tensorstore.KvStore.open(
          {"driver": "ocdbt", "base": base.spec().to_json()},
          context=_make_context(folder),
        ).result(timeout=_MAX_SECONDS)

  def list_names(self) -> list[str]:
    """Returns the names of all arrays, sorted.

    Raises:
      UserError: the folder cannot be read.
    """
    with _explain_unreadable(self._folder):
      keys = self._store.list().result(timeout=_MAX_SECONDS)
    names = [key.decode("utf-8", "replace") for key in keys]
    return sorted(
      name.removesuffix(_ARRAY_MARK)
      for name in names
      if name.endswith(_ARRAY_MARK)
    )

  def open(self, name: str) -> LazyTensor:
    """Opens one array.

    Args:
      name: of the array.

    Raises:
      UserError: it cannot be read.
    """
    where = f"{self._folder}/{name}"
    with _explain_unreadable(where):
      array = tensorstore.open(
        # A lost chunk would otherwise read as zeros.
        {"driver": "zarr", "fill_missing_data_reads": False},
        kvstore=self._store / f"{name}/",
        open=True,
        read=True,
      ).result(timeout=_MAX_SECONDS)

    def read(index: Index) -> np.ndarray:
      with _explain_unreadable(where):
        return np.asarray(array[index].read().result(timeout=_MAX_DATA_SECONDS))

    dtype = array.dtype.numpy_dtype
    return LazyTensor(name, tuple(array.shape), dtype, read)


def write_array(
  folder: pathlib.Path, name: str, value: np.ndarray
) -> dict[str, Any]:
  """Writes one array as T5X's older checkpoints hold it: zarr 2, gzip.

  Args:
    folder: a local folder.
    name: of the array; becomes a folder in it.
    value: the array.

  Returns:
    Zarr's metadata of the array.
  """
  spec = {
    "driver": "zarr",
    "kvstore": {"driver": "file", "path": f"{folder}/{name}/"},
    "metadata": {
      "compressor": {"id": "gzip"},
      "shape": value.shape,
      "chunks": _choose_chunks(value),
    },
    # Zeros are data too: a reader must tell them from a lost chunk.
    "store_data_equal_to_fill_value": True,
  }
  array = tensorstore.open(
    spec, create=True, dtype=tensorstore.dtype(value.dtype)
  ).result()
  array.write(value).result()
  return array.spec().to_json()["metadata"]


def _choose_chunks(value: np.ndarray) -> list[int]:
  """Halves the longest dimension until a chunk is small enough to stream."""
  chunks = list(value.shape)
  while np.prod(chunks, dtype=np.int64) * value.itemsize > _MAX_CHUNK_BYTES:
    longest = int(np.argmax(chunks))
    chunks[longest] = -(-chunks[longest] // 2)
  return chunks


def _open_store(folder: str) -> tensorstore.KvStore:
  if folder.startswith(_GCS):
    url = urllib.parse.urlsplit(folder)
    key = url.path.strip("/")
    spec = {
      "driver": "gcs",
      "bucket": url.netloc,
      "path": f"{key}/" if key else "",
    }
  else:
    spec = {"driver": "file", "path": f"{folder}/"}
  return tensorstore.KvStore.open(spec, context=_make_context(folder)).result(
    timeout=_MAX_SECONDS
  )


def _make_context(folder: str) -> tensorstore.Context:
  remote = folder.startswith(_GCS)
  return tensorstore.Context(_REMOTE_CONTEXT if remote else {})


@contextlib.contextmanager
def _explain_unreadable(path: str) -> Iterator[None]:
  """Turns TensorStore's errors into ours."""
  try:
    yield
  except (OSError, ValueError, KeyError, TypeError) as error:
    raise UserError(
      f"{path} cannot be read: it is missing, damaged, or access is denied."
      f" What was found: {str(error)[:300] or 'no answer in time'}"
    ) from error
