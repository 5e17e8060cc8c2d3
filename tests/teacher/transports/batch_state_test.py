"""The file of what was submitted."""

import json

import pytest

from distill_jax.errors import UserError
from distill_jax.teacher.transports.batch_state import Batch, BatchState

URL = "http://127.0.0.1:8000/v1"


@pytest.fixture
def path(tmp_path):
  return tmp_path / "batches.json"


def test_what_was_written_is_read(path):
  state = BatchState(path, URL)
  assert state.batches == [] and not path.exists()
  first = Batch("file-1", "chat", ["a", "b"], "batch_1")
  state.add(first)
  state.add(Batch("file-2", "completions", ["c"]))
  assert BatchState(path, URL).batches == state.batches
  first.keys.clear()
  state.remove_empty()
  assert BatchState(path, URL).batches == [
    Batch("file-2", "completions", ["c"])
  ]
  assert [file.name for file in path.parent.iterdir()] == [path.name]


GOOD = {
  "version": 1,
  "base_url": URL,
  "batches": [
    {"input_file_id": "f", "endpoint": "chat", "keys": ["a"], "id": "b"}
  ],
}


@pytest.mark.parametrize(
  "content",
  [
    "",
    "[]",
    "null",
    "[" * 100_000,
    "\xff",
    json.dumps(GOOD)[:-5],
    json.dumps(GOOD | {"version": 2}),
    json.dumps(GOOD | {"batches": 3}),
    json.dumps(GOOD | {"batches": [{}]}),
    *(
      json.dumps(GOOD | {"batches": [GOOD["batches"][0] | change]})
      for change in (
        {"id": "../../v1/files"},
        {"id": "b?x=1"},
        {"id": 7},
        {"input_file_id": ""},
        {"endpoint": "/etc"},
        {"keys": "abc"},
        {"keys": [1]},
        {"more": 1},
      )
    ),
  ],
  ids=lambda content: content[:20] + content[-60:],
)
def test_a_file_of_something_else_is_not_touched(path, content):
  path.write_bytes(content.encode("latin-1"))
  with pytest.raises(UserError, match="no record of batches") as caught:
    BatchState(path, URL)
  assert str(path) in str(caught.value)
  assert path.read_bytes() == content.encode("latin-1")


def test_batches_of_another_server_are_not_mixed_in(path):
  path.write_text(json.dumps(GOOD))
  assert len(BatchState(path, URL).batches) == 1
  with pytest.raises(UserError, match="another server than http://else/v1"):
    BatchState(path, "http://else/v1")


def test_a_folder_that_is_not_there(tmp_path):
  state = BatchState(tmp_path / "none" / "batches.json", URL)
  with pytest.raises(UserError, match="BATCH_STATE_PATH cannot be written"):
    state.add(Batch("f", "chat", ["a"]))
  with pytest.raises(UserError, match="BATCH_STATE_PATH cannot be read"):
    BatchState(tmp_path, URL)
