"""Files on a disk and in an object store."""

import threading

import pytest

from distill_jax.errors import UserError
from distill_jax.teacher.asking import journal
from distill_jax.teacher.asking.exchange import Request, Response

pytest.importorskip(
  "apache_beam", reason="apache_beam is not installed: pip install '.[beam]'"
)

import bucket

from distill_jax.teacher.apache_beam_job import files as beam_files

_REQUESTS = [Request("m", "completions", f"prompt {i}", {}) for i in range(4)]


@pytest.fixture(name="root", params=["disk", "store"])
def fixture_root(request, tmp_path, monkeypatch):
  """The address of a folder, on the disk or in the store, and the folder."""
  monkeypatch.setattr(bucket.BucketFileSystem, "root", tmp_path)
  monkeypatch.setattr(bucket.BucketFileSystem, "created", [])
  folder = tmp_path / "out"
  address = str(folder) if request.param == "disk" else "bucket://out"
  return address, folder


def _answer(own, request, text):
  own.append_request(request.key, request, "q")
  own.append_response(
    request.key, Response(text, "stop", 1, 1, "m", 0.1, num_attempts=1)
  )


def test_what_is_an_address():
  assert beam_files.is_local("/a/b") and beam_files.is_local("a b")
  assert not beam_files.is_local("gs://bucket/a")
  assert beam_files.join("bucket://a", "b/c") == "bucket://a/b/c"
  assert beam_files.join("/a", "b/c") == "/a/b/c"


def test_files_are_written_whole_or_not(root):
  address, folder = root
  path = beam_files.join(address, "deep/file.txt")
  beam_files.write_text(path, "one\nü")
  beam_files.write_text(path, "two\nü")
  with pytest.raises(RuntimeError):
    with beam_files.writing(path) as file:
      file.write_text("half")
      raise RuntimeError
  with beam_files.reading(path) as file:
    assert file.read_text(encoding="utf-8") == "two\nü"
  assert [p.name for p in folder.rglob("*") if p.is_file()] == ["file.txt"]
  assert beam_files.list_files(path) == [path]
  beam_files.delete([path])
  beam_files.delete([])
  assert beam_files.list_files(path) == []


def test_files_are_listed_in_order(root):
  address, folder = root
  for name in ("b-2.jsonl", "b-10.jsonl", "a-1.jsonl", "b-1.json"):
    beam_files.write_text(beam_files.join(address, name), "x")
  assert beam_files.list_files(beam_files.join(address, "b-*.jsonl")) == [
    beam_files.join(address, "b-10.jsonl"),
    beam_files.join(address, "b-2.jsonl"),
  ]
  assert beam_files.list_files(beam_files.join(address, "c*")) == []


def test_mistakes_name_the_file_and_not_its_copy(root):
  address, _ = root
  path = beam_files.join(address, "absent")
  with pytest.raises(UserError, match=f"{path}.* cannot be read") as error:
    with beam_files.reading(path) as file:
      journal.JournalReader(file)
      file.read_bytes() if "://" in path else None
      raise UserError(f"{file}:1: cannot be read")
  assert "copy" not in str(error.value)


def test_an_unknown_scheme():
  with pytest.raises(UserError, match="gopher://x/y cannot be read"):
    beam_files.list_files("gopher://x/y")
  with pytest.raises(UserError, match="gopher://x/y cannot be written"):
    beam_files.write_text("gopher://x/y", "")


def test_a_shards_journal_goes_on(root):
  address, folder = root
  with beam_files.open_shard_journal(address, 1, 3) as (own, answers):
    _answer(own, _REQUESTS[0], "first")
    assert answers.read_response(_REQUESTS[0].key).text == "first"
  with pytest.raises(RuntimeError):
    with beam_files.open_shard_journal(address, 1, 3) as (own, answers):
      assert answers.has_response(_REQUESTS[0].key)
      _answer(own, _REQUESTS[1], "second")
      raise RuntimeError
  with beam_files.open_shard_journal(address, 1, 3) as (_, answers):
    assert answers.read_response(_REQUESTS[0].key).text == "first"
    assert answers.read_response(_REQUESTS[1].key).text == "second"
  with beam_files.open_shard_journal(address, 2, 3) as (own, answers):
    assert not answers.has_response(_REQUESTS[0].key)
    _answer(own, _REQUESTS[2], "third")
  listed = beam_files.list_journals(address)
  found = set()
  for path in listed:
    with (
      beam_files.reading(path) as file,
      journal.JournalReader(file) as reader,
    ):
      found |= set(reader.list_keys())
  assert found == {request.key for request in _REQUESTS[:3]}
  assert all(folder.name in path for path in listed)


def test_the_folders_own_journal_comes_first(root):
  address, _ = root
  for name in (
    "shard-0-of-2/journal.jsonl",
    "journal.jsonl",
    "shard-1-of-2/journal-abc.jsonl",
    "records-00000-of-00002.jsonl",
    "shard-1-of-2/records.jsonl",
  ):
    beam_files.write_text(beam_files.join(address, name), "")
  assert beam_files.list_journals(address) == [
    beam_files.join(address, name)
    for name in (
      "journal.jsonl",
      "shard-0-of-2/journal.jsonl",
      "shard-1-of-2/journal-abc.jsonl",
    )
  ]


def test_a_store_that_failed_once_gets_all_later(tmp_path, monkeypatch):
  monkeypatch.setattr(bucket.BucketFileSystem, "root", tmp_path)
  upload = beam_files._upload
  failures = [UserError("the store is away")]

  def fail_once(file, path):
    if failures:
      raise failures.pop()
    upload(file, path)

  monkeypatch.setattr(beam_files, "_upload", fail_once)
  with beam_files.open_shard_journal("bucket://out", 0, 1) as (own, _):
    _answer(own, _REQUESTS[0], "x")
    with pytest.raises(UserError, match="away"):
      own.sync()
    assert own.num_unsynced
  (path,) = (tmp_path / "out" / "shard-0-of-1").iterdir()
  with journal.JournalReader(path) as reader:
    assert reader.has_response(_REQUESTS[0].key)


def test_an_older_upload_does_not_take_a_newer_ones_place(
  tmp_path, monkeypatch
):
  monkeypatch.setattr(bucket.BucketFileSystem, "root", tmp_path)
  upload = beam_files._upload
  is_under_way, may_end = threading.Event(), threading.Event()
  contents = []

  def upload_slowly(file, path):
    content = file.read_bytes()
    if not contents:
      is_under_way.set()
      may_end.wait(10)
    contents.append(content)
    upload(file, path)

  monkeypatch.setattr(beam_files, "_upload", upload_slowly)
  with beam_files.open_shard_journal("bucket://out", 0, 1) as (own, _):
    _answer(own, _REQUESTS[0], "x")
    older = threading.Thread(target=own.sync)
    older.start()
    assert is_under_way.wait(10)
    _answer(own, _REQUESTS[1], "y")
    newer = threading.Thread(target=own.sync)
    newer.start()
    newer.join(0.2)
    may_end.set()
    older.join()
    newer.join()
  assert [content.count(b"\n") for content in contents] == sorted(
    content.count(b"\n") for content in contents
  )


def test_a_store_gets_what_is_synced(tmp_path, monkeypatch):
  monkeypatch.setattr(bucket.BucketFileSystem, "root", tmp_path)
  monkeypatch.setattr(bucket.BucketFileSystem, "created", [])
  with beam_files.open_shard_journal("bucket://out", 0, 1) as (own, _):
    for number, request in enumerate(_REQUESTS):
      _answer(own, request, "x")
      own.sync()
      (path,) = (tmp_path / "out" / "shard-0-of-1").iterdir()
      # Whoever reads it now has all that came until now.
      with journal.JournalReader(path) as reader:
        assert len(list(reader.list_keys())) == number + 1
  assert len(set(bucket.BucketFileSystem.created)) == 1
