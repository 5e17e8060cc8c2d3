"""An object store for tests of what Beam does with one: bucket://name/object.

Objects are files in a folder of this machine. As in a real store there are no
folders and no appending, and an object appears when it is closed. Beam finds
the class below by its scheme, once this module is imported.
"""

import os
import pathlib

from apache_beam.io import filesystem, localfilesystem

_SCHEME = "bucket://"


class BucketFileSystem(localfilesystem.LocalFileSystem):
  """The store.

  Attributes:
    root: where the objects are; a test sets it.
    created: names of the objects written so far, in order.
  """

  root = pathlib.Path()
  created: list[str] = []

  @classmethod
  def scheme(cls):
    return "bucket"

  def join(self, basepath, *paths):
    return "/".join([basepath.rstrip("/"), *paths])

  def split(self, path):
    return tuple(path.rsplit("/", 1))

  def has_dirs(self):
    return False

  def exists(self, path):
    return super().exists(_locate(path))

  def metadata(self, path):
    size = os.path.getsize(_locate(path))
    return filesystem.FileMetadata(path, size)

  def _list(self, dir_or_prefix):
    for path in sorted(self.root.rglob("*")):
      name = _SCHEME + path.relative_to(self.root).as_posix()
      if path.is_file() and name.startswith(dir_or_prefix):
        yield filesystem.FileMetadata(name, path.stat().st_size)

  def open(self, path, *args, **kwargs):
    return super().open(_locate(path), *args, **kwargs)

  def create(self, path, *args, **kwargs):
    self.created.append(path)
    return _Object(_locate(path))

  def delete(self, paths):
    super().delete([_locate(path) for path in paths])


class _Object:
  """What is written appears where it belongs at the end."""

  def __init__(self, path):
    self._path = path
    self._written = []

  def write(self, content):
    self._written.append(bytes(content))

  def __enter__(self):
    return self

  def __exit__(self, *error):
    if error[0] is None:
      os.makedirs(os.path.dirname(self._path), exist_ok=True)
      pathlib.Path(self._path).write_bytes(b"".join(self._written))


def _locate(path):
  return str(BucketFileSystem.root / path.removeprefix(_SCHEME))
