"""Places, locks between shards and the whole, and records of other settings."""

import json

import pytest

from distill_jax.errors import UserError
from distill_jax.teacher.asking.exchange import Request, Response
from distill_jax.teacher.reporting import output_folder
from distill_jax.teacher.reporting.output_folder import OutputFolder

_REQUESTS = [Request("m", "completions", f"{i}?", {}) for i in range(3)]


def _answer(folder, request):
  with folder.open_journals() as (own, _):
    own.append_response(
      request.key, Response("yes", None, None, None, None, 0.0, 1)
    )


@pytest.mark.parametrize("shard, parsed", [("0/1", (0, 1)), ("3/16", (3, 16))])
def test_shards(shard, parsed):
  assert output_folder.parse_shard(shard) == parsed


@pytest.mark.parametrize(
  "shard", ["", "1", "2/2", "-1/2", "1/0", "a/b", "1/2/3", "../1/2", " 0/2"]
)
def test_what_is_no_shard(shard):
  with pytest.raises(UserError, match="i/n with i from 0 to n - 1"):
    output_folder.parse_shard(shard)


def test_places(tmp_path):
  whole, shard = OutputFolder(tmp_path), OutputFolder(tmp_path, (1, 4))
  assert whole.records_path == tmp_path / "records.jsonl"
  assert shard.records_path == tmp_path / "shard-1-of-4" / "records.jsonl"
  assert shard.batches_path.parent == shard.path
  assert whole.list_journals() == []


def test_files_in_the_way(tmp_path):
  (tmp_path / "file").write_text("")
  with pytest.raises(UserError, match="OUTPUT_PATH .*file is a file"):
    OutputFolder(tmp_path / "file")
  (tmp_path / "shard-0-of-2").write_text("")
  with pytest.raises(UserError, match="shard-0-of-2 is a file"):
    OutputFolder(tmp_path, (0, 2))


def test_everyone_reads_all_journals_and_writes_one(tmp_path):
  folders = [
    OutputFolder(tmp_path),
    OutputFolder(tmp_path, (0, 2)),
    OutputFolder(tmp_path, (1, 2)),
  ]
  for folder, request in zip(folders, _REQUESTS, strict=True):
    _answer(folder, request)
  for folder in folders:
    assert folder.list_journals()[0] == folder.path / "journal.jsonl"
    assert len(folder.list_journals()) == 3
    with folder.open_journals() as (own, answers):
      assert own.path == folder.path / "journal.jsonl"
      assert all(answers.has_response(request.key) for request in _REQUESTS)
    assert len(own.path.read_text().splitlines()) == 1
  with folders[0].read_journals() as answers:
    assert all(answers.has_response(request.key) for request in _REQUESTS)


def test_reading_makes_nothing(tmp_path):
  with OutputFolder(tmp_path / "none").read_journals() as answers:
    assert not answers.has_response(_REQUESTS[0].key)
  assert list(tmp_path.iterdir()) == []


def test_shards_run_side_by_side_and_the_whole_alone(tmp_path):
  whole = OutputFolder(tmp_path)
  shards = [OutputFolder(tmp_path, (i, 2)) for i in range(2)]
  with shards[0].open_journals(), shards[1].open_journals():
    with pytest.raises(UserError, match="in use by process"):
      with whole.open_journals():
        pass
    with pytest.raises(UserError, match="in use by process"):
      with OutputFolder(tmp_path, (0, 2)).open_journals():
        pass
  with whole.open_journals():
    with pytest.raises(UserError, match=f"OUTPUT_PATH {tmp_path} is in use"):
      with shards[0].open_journals():
        pass
  with shards[0].open_journals():
    pass


def test_records_of_other_settings_are_kept(tmp_path):
  folder = OutputFolder(tmp_path)
  folder.check_replaceable({"prompt": "a"})
  folder.records_path.write_text("")
  with pytest.raises(UserError, match="other settings .prompt.*--overwrite"):
    folder.check_replaceable({"prompt": "a"})
  folder.write_summary({"settings": {"prompt": "a", "seed": 0}})
  folder.check_replaceable({"prompt": "a", "seed": 0})
  with pytest.raises(UserError, match=r"other settings \(seed\)"):
    folder.check_replaceable({"prompt": "a", "seed": 1})


@pytest.mark.parametrize("content", ["", "[]", "{", "[" * 100_000, "\udcff"])
def test_a_summary_that_cannot_be_read(tmp_path, content):
  path = tmp_path / "summary.json"
  path.write_text(content, encoding="utf-8", errors="surrogateescape")
  assert OutputFolder(tmp_path).read_summary() == {}


def test_writing(tmp_path):
  folder = OutputFolder(tmp_path)
  folder.write_summary({"a": 1})
  folder.write_summary({"a": 2})
  assert json.loads((tmp_path / "summary.json").read_text()) == {"a": 2}
  assert folder.read_summary() == {"a": 2}
  assert [path.name for path in tmp_path.iterdir()] == ["summary.json"]
  with pytest.raises(UserError, match="cannot be written: No such file"):
    OutputFolder(tmp_path / "none").write_text("config.gin", "")


def test_no_settings_are_replaced_by_later_ones(tmp_path):
  folder = OutputFolder(tmp_path)
  assert folder.write_config("a") == "config.gin"
  assert folder.write_config("b") == "config-2.gin"
  assert folder.write_config("a") == "config.gin"
  assert folder.write_config("c") == "config-3.gin"
  assert folder.write_config("b") == "config-2.gin"
  found = {path.name: path.read_text() for path in tmp_path.iterdir()}
  assert found == {"config.gin": "a", "config-2.gin": "b", "config-3.gin": "c"}


_OLD = {"input_path": "/a", "seed": 0}
_NEW = _OLD | {"input_sha256": "1"}


@pytest.mark.parametrize(
  ("found", "identity", "differing"),
  [
    (_NEW, _NEW, None),
    (_NEW, _NEW | {"input_path": "/b"}, None),
    # More questions in the same file.
    (_NEW, _NEW | {"input_sha256": "2"}, None),
    (_NEW, _NEW | {"input_path": "/b", "input_sha256": "2"}, "input_path"),
    (_OLD, _NEW, None),
    (_OLD, _NEW | {"input_path": "/b"}, "input_path"),
    (_NEW, _NEW | {"seed": 1}, "seed"),
    # A setting that is at its default now, and was not.
    (_NEW | {"send_stop": False}, _NEW, "send_stop"),
    (_NEW, _NEW | {"send_stop": False}, "send_stop"),
  ],
)
def test_what_makes_another_run(found, identity, differing):
  if differing is None:
    output_folder.check_identity("r", {"settings": found}, identity)
    return
  with pytest.raises(UserError, match=rf"other settings \({differing}\)"):
    output_folder.check_identity("r", {"settings": found}, identity)
