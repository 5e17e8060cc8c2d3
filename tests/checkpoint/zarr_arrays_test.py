"""Tests of zarr_arrays.py: local folders, and a storage server for gs://."""

import http.server
import json
import pathlib
import threading
import urllib.parse

import numpy as np
import pytest
import stored_models
import tensorstore

from distill_jax.checkpoint import formats, orbax_params, t5x, zarr_arrays
from distill_jax.errors import UserError


@pytest.fixture(name="array")
def fixture_array():
  return np.random.default_rng(0).normal(size=(6, 5)).astype(np.float32)


def test_what_is_written_is_read(tmp_path, array):
  zarr_arrays.write_array(tmp_path, "target.a", array)
  zarr_arrays.write_array(tmp_path, "target.zeros", np.zeros((2, 3)))
  folder = zarr_arrays.ArrayFolder(str(tmp_path))
  assert folder.list_names() == ["target.a", "target.zeros"]
  tensor = folder.open("target.a")
  assert (tensor.shape, tensor.dtype) == ((6, 5), np.float32)
  np.testing.assert_array_equal(tensor.read(), array)
  index = (slice(1, 3), slice(None))
  np.testing.assert_array_equal(tensor.read(index), array[index])
  np.testing.assert_array_equal(
    folder.open("target.zeros").read(), np.zeros((2, 3))
  )


def test_large_arrays_are_cut_into_chunks(tmp_path, array, monkeypatch):
  monkeypatch.setattr(zarr_arrays, "_MAX_CHUNK_BYTES", 32)
  zarr_arrays.write_array(tmp_path, "a", array)
  assert len(list((tmp_path / "a").iterdir())) > 4
  folder = zarr_arrays.ArrayFolder(str(tmp_path))
  np.testing.assert_array_equal(folder.open("a").read(), array)


def test_a_lost_chunk_is_not_read_as_zeros(tmp_path, array):
  zarr_arrays.write_array(tmp_path, "a", array)
  (tmp_path / "a" / "0.0").unlink()
  tensor = zarr_arrays.ArrayFolder(str(tmp_path)).open("a")
  with pytest.raises(UserError, match="a cannot be read: it is missing"):
    tensor.read()


@pytest.mark.parametrize("content", ["", "{", '{"zarr_format": 2}'])
def test_a_damaged_array_is_named(tmp_path, array, content):
  zarr_arrays.write_array(tmp_path, "a", array)
  (tmp_path / "a" / ".zarray").write_text(content)
  with pytest.raises(UserError, match=f"{tmp_path}/a cannot be read"):
    zarr_arrays.ArrayFolder(str(tmp_path)).open("a")


def test_an_array_that_is_not_there(tmp_path):
  with pytest.raises(UserError, match="cannot be read"):
    zarr_arrays.ArrayFolder(str(tmp_path)).open("nothing")


def test_a_damaged_ocdbt_store_is_named(tmp_path):
  (tmp_path / "manifest.ocdbt").write_bytes(b"junk")
  with pytest.raises(UserError, match=f"{tmp_path} cannot be read"):
    zarr_arrays.ArrayFolder(str(tmp_path)).list_names()


def test_read_file(tmp_path):
  (tmp_path / "there").write_bytes(b"x")
  assert zarr_arrays.read_file(str(tmp_path), "there") == b"x"
  assert zarr_arrays.read_file(str(tmp_path), "not") is None


def test_normalize():
  assert zarr_arrays.normalize("gs://bucket/a/") == "gs://bucket/a"
  assert zarr_arrays.normalize("/a/b/") == "/a/b"
  with pytest.raises(UserError, match="s3://bucket/a: only local paths"):
    zarr_arrays.normalize("s3://bucket/a")


class _Storage(http.server.BaseHTTPRequestHandler):
  """Serves a folder as a bucket, by Google Cloud Storage's JSON API."""

  root: pathlib.Path

  def do_GET(self):
    url = urllib.parse.urlsplit(self.path)
    query = dict(urllib.parse.parse_qsl(url.query))
    _, _, rest = url.path.partition("/storage/v1/b/bucket/o")
    name = urllib.parse.unquote(rest.lstrip("/"))
    if not name:
      self._list(query.get("prefix", ""))
      return
    path = self.root / name
    if not path.is_file():
      self._send(404, b"{}")
      return
    content = path.read_bytes()
    if self.headers["Range"]:
      first, last = self.headers["Range"].removeprefix("bytes=").split("-")
      total = len(content)
      end = min(int(last) + 1, total) if last else total
      content = content[int(first) : end]
      self._send(206, content, f"bytes {first}-{end - 1}/{total}")
      return
    self._send(200, content)

  def _list(self, prefix):
    names = sorted(
      path.relative_to(self.root).as_posix()
      for path in self.root.rglob("*")
      if path.is_file()
    )
    items = [{"name": name} for name in names if name.startswith(prefix)]
    self._send(200, json.dumps({"items": items}).encode())

  def _send(self, status, content, content_range=None):
    self.send_response(status)
    if content_range:
      self.send_header("Content-Range", content_range)
    self.send_header("Content-Length", str(len(content)))
    self.send_header("x-goog-generation", "1")
    self.end_headers()
    self.wfile.write(content)

  def log_message(self, *arguments):
    del arguments


@pytest.fixture(name="bucket")
def fixture_bucket(tmp_path, monkeypatch):
  handler = type("Handler", (_Storage,), {"root": tmp_path})
  server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
  threading.Thread(target=server.serve_forever, daemon=True).start()
  address = f"http://127.0.0.1:{server.server_port}"
  monkeypatch.setenv("TENSORSTORE_GCS_HTTP_URL", address)
  # Otherwise credentials are sought on the network first.
  monkeypatch.setenv("GOOGLE_AUTH_TOKEN_FOR_TESTING", "none")
  yield tmp_path
  server.shutdown()
  server.server_close()


@pytest.mark.parametrize("is_ocdbt", [False, True])
def test_a_bucket_is_read_like_a_folder(bucket, array, is_ocdbt):
  folder = bucket / "run" / "state"
  if is_ocdbt:
    tensorstore.open(
      {
        "driver": "zarr",
        "kvstore": {
          "driver": "ocdbt",
          "base": {"driver": "file", "path": f"{folder}/"},
          "path": "a/",
        },
      },
      create=True,
      dtype=array.dtype,
      shape=array.shape,
    ).result().write(array).result()
  else:
    zarr_arrays.write_array(folder, "a", array)
  opened = zarr_arrays.ArrayFolder("gs://bucket/run/state")
  assert opened.list_names() == ["a"]
  np.testing.assert_array_equal(opened.open("a").read(), array)


def test_a_checkpoint_in_a_bucket_opens(bucket):
  tensors = stored_models.make_tensors(stored_models.GATED)
  dtype = np.dtype(np.float32)
  for folder in ("theirs", "ours"):
    (bucket / folder).mkdir()
  t5x.write_t5x(bucket / "theirs", tensors, dtype)
  orbax_params.write_orbax(bucket / "ours", stored_models.GATED, tensors, dtype)
  for path, file_format in (
    ("theirs/checkpoint_0", "t5x"),
    ("theirs/checkpoint_0/checkpoint", "t5x"),
    ("ours", "orbax"),
  ):
    stored = formats.open_checkpoint(f"gs://bucket/{path}")
    assert stored.file_format == file_format
    stored_models.assert_same_tensors(stored.tensors, tensors)
  with pytest.raises(UserError, match="no T5X or Orbax checkpoint at gs://"):
    formats.open_checkpoint("gs://bucket/nothing")


def test_a_bucket_that_does_not_answer(monkeypatch):
  # Nobody listens on port 1.
  monkeypatch.setenv("TENSORSTORE_GCS_HTTP_URL", "http://127.0.0.1:1")
  monkeypatch.setenv("GOOGLE_AUTH_TOKEN_FOR_TESTING", "none")
  monkeypatch.setattr(zarr_arrays, "_MAX_SECONDS", 0.2)
  with pytest.raises(UserError, match=r"gs://bucket/.* cannot be read"):
    formats.open_checkpoint("gs://bucket/t5")
