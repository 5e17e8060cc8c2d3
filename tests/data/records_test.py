"""Tests of data/records.py: the round trip, and how bad lines are named."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distill_jax.data import records
from distill_jax.data.records import Record, read_records, write_records
from distill_jax.errors import UserError

_TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
_TEXT_OR_NONE = st.none() | _TEXT


@given(
  st.lists(
    st.builds(
      Record,
      id=_TEXT,
      input=_TEXT,
      label=_TEXT_OR_NONE,
      rationale=_TEXT_OR_NONE,
      teacher_label=_TEXT_OR_NONE,
      teacher=_TEXT_OR_NONE,
      status=st.none() | st.sampled_from(records.STATUSES),
      weight=st.floats(records.MIN_WEIGHT, records.MAX_WEIGHT),
      meta=st.dictionaries(_TEXT, st.integers() | st.lists(_TEXT, max_size=2)),
    ),
    unique_by=lambda record: record.id,
    max_size=4,
  )
)
def test_written_records_come_back(tmp_path_factory, written):
  path = tmp_path_factory.mktemp("records") / "records.jsonl"
  write_records(path, written)
  assert list(read_records(path)) == written
  assert [child.name for child in path.parent.iterdir()] == [path.name]


def test_a_line_separator_inside_a_text_ends_no_line(tmp_path):
  path = tmp_path / "records.jsonl"
  write_records(path, [Record("a", "one\u2028two\x85three\r\nfour")])
  assert len(path.read_bytes().splitlines()) == 1
  assert [record.id for record in read_records(path)] == ["a"]


def test_whoever_reads_the_old_file_goes_on_reading_it(tmp_path):
  path = tmp_path / "records.jsonl"
  write_records(path, [Record("old", "x")])
  with open(path) as old_file:
    write_records(path, [Record("new", "x")])
    assert '"old"' in old_file.read()
  assert [record.id for record in read_records(path)] == ["new"]


def test_failed_writing_leaves_the_old_file_and_nothing_else(tmp_path):
  path = tmp_path / "records.jsonl"
  write_records(path, [Record("old", "kept")])

  def fail_after_one():
    yield Record("new", "lost")
    raise RuntimeError("the teacher went away")

  with pytest.raises(RuntimeError, match="went away"):
    write_records(path, fail_after_one())
  assert [record.id for record in read_records(path)] == ["old"]
  assert list(tmp_path.iterdir()) == [path]


def test_blank_lines_are_skipped_and_counted(tmp_path):
  path = tmp_path / "records.jsonl"
  path.write_text('\ufeff{"id": "a", "input": "x"}\n\n  \n{"id": "b"}\n')
  with pytest.raises(UserError, match=r"records\.jsonl:4:input: missing"):
    list(read_records(path))


@pytest.mark.parametrize(
  "line, message",
  [
    ("{", r"f:7: not JSON"),
    ("[" * 100_000, r"f:7: not JSON"),
    ("[1]", r"f:7: a JSON list"),
    ('{"input": "x"}', r"f:7:id: missing"),
    ('{"id": "a", "input": null}', r"f:7:input: None is not text"),
    ('{"id": 3, "input": "x"}', r"f:7:id: 3 is not text"),
    (
      '{"id": "a", "input": "x", "label": 1}',
      r"f:7:label: 1 is not text or null",
    ),
    ('{"id": "a", "input": "x", "gold": "y"}', r"f:7:gold: unknown field"),
    (
      '{"id": "a", "input": "x", "status": "fine"}',
      r"f:7:status: 'fine' is none of ok, truncated",
    ),
    ('{"id": "a", "input": "x", "meta": []}', r"f:7:meta: \[\] is not an obj"),
    (
      '{"id": "a", "input": "x", "weight": -1}',
      r"f:7:weight: -1 is not a numb",
    ),
    ('{"id": "a", "input": "x", "weight": 0}', r"f:7:weight: 0 .*Leave out"),
    ('{"id": "a", "input": "x", "weight": NaN}', r"f:7:weight: nan is not"),
    ('{"id": "a", "input": "x", "weight": 1e999}', r"f:7:weight: inf is not"),
    (
      '{"id": "a", "input": "x", "weight": 1' + "0" * 400 + "}",
      r"f:7:weight: 10{39} is not",
    ),
    ('{"id": "a", "input": "x", "weight": "2"}', r"f:7:weight: '2' is not"),
    ('{"id": "a", "input": "x", "weight": true}', r"f:7:weight: True is not"),
    ('{"id": "a", "input": "x", "weight": null}', r"f:7:weight: None is not"),
    (r'{"id": "a", "input": "ab\ud800"}', r"f:7:input: half a .* character 2"),
    (r'{"id": "a", "input": "x", "meta": {"\ud800": 1}}', r"f:7:meta: half a"),
  ],
)
def test_bad_lines_are_named(line, message):
  with pytest.raises(UserError, match=message):
    records.parse_record(line, "f:7")


def test_only_id_and_input_are_needed():
  assert records.parse_record('{"id": "a", "input": "x"}', "f:1") == Record(
    "a", "x"
  )


def test_an_id_may_not_return(tmp_path):
  path = tmp_path / "records.jsonl"
  line = json.dumps({"id": "a", "input": "x"}) + "\n"
  path.write_text(line + line)
  with pytest.raises(UserError, match=r":2:id: 'a' is already .*:1"):
    list(read_records(path))


def test_what_is_not_utf8_is_named(tmp_path):
  path = tmp_path / "records.jsonl"
  path.write_bytes(b'{"id": "a", "input": "x"}\n{"id": "\xe9"}\n')
  with pytest.raises(UserError, match=r":2: not UTF-8 at byte 8"):
    list(read_records(path))


def test_a_file_that_is_not_there(tmp_path):
  with pytest.raises(UserError, match=r"none\.jsonl cannot be read: No such"):
    list(read_records(tmp_path / "none.jsonl"))
