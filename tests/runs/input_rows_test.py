"""Tests of runs/input_rows.py: what is an input line, and what is a bad one."""

import pytest

from distill_jax.errors import UserError
from distill_jax.runs import input_rows


@pytest.fixture(name="read")
def fixture_read(tmp_path):
  """Returns what reads a file of this content; paths are left out."""

  def read(content, needed=("input",), added=("found",), skips=False):
    path = tmp_path / "in"
    path.write_bytes(content)
    rows, problems = input_rows.read_rows(str(path), needed, added, skips)
    return (
      [(row.where.removeprefix(f"{path}:"), row.fields) for row in rows],
      [problem.replace(str(path), "in") for problem in problems],
    )

  return read


def test_the_first_line_tells_jsonl_from_text(read):
  assert read(b'\n{"input": "a"}\n')[0] == [("2", {"input": "a"})]
  assert read(b'a\n\n{"x": "b"}')[0] == [
    ("1", {"input": "a"}),
    ("3", {"input": '{"x": "b"}'}),
  ]


def test_jsonl_behind_a_line_of_text_is_not_taken_for_text(read):
  content = b'header\n{"input": "a"}\n{"input": "b"}'
  with pytest.raises(UserError, match="in:2 is a JSON object .* 1 is none"):
    read(content)
  rows, problems = read(content, skips=True)
  assert rows == [("2", {"input": "a"}), ("3", {"input": "b"})]
  assert len(problems) == 1 and problems[0].startswith(
    "in:1: not a JSON object"
  )


@pytest.mark.parametrize(
  "content", [b'[{"input": "a"}]', b'[\n {"input": 1}\n]']
)
def test_an_array_is_not_taken_for_text(read, content):
  for skips in (False, True):
    with pytest.raises(UserError, match="is a JSON array|is a JSON object"):
      read(content, skips=skips)


@pytest.mark.parametrize("skips", [False, True])
@pytest.mark.parametrize("content", [b"", b"\n\n", b"\xef\xbb\xbf\r\n \t\n"])
def test_an_empty_file_has_no_rows_and_no_bad_lines(read, content, skips):
  assert read(content, skips=skips) == ([], [])
  assert read(content, needed=("input", "target")) == ([], [])


def test_text_has_no_fields_but_its_lines(read):
  with pytest.raises(UserError, match="plain text.*'input' and 'target'"):
    read(b"a", needed=("input", "target"))


def test_bad_lines_are_told_with_their_numbers(read):
  content = b'{"input": "a"}\n\xff\n\n{"input": 1}\n{"found": 1, "input": "b"}'
  rows, problems = read(content, skips=True)
  assert rows == [("1", {"input": "a"})]
  starts = ("INPUT_PATH in:2 is", "in:4: the field", "in:5: there is a field")
  assert len(problems) == 3
  for problem, start in zip(problems, starts, strict=True):
    assert problem.startswith(start)
  with pytest.raises(UserError, match="in:2 is not UTF-8"):
    read(content)


def test_a_first_line_that_is_bad_tells_the_kind_too(read):
  rows, problems = read(b'{"input":\n{"input": "a"}', skips=True)
  assert rows == [("2", {"input": "a"})]
  assert len(problems) == 1


def test_only_a_few_bad_lines_are_shown(caplog):
  rows = [input_rows.Row("in:1", {})]
  input_rows.report_skipped("in", rows, [])
  assert caplog.text == ""
  input_rows.report_skipped("in", rows, [f"line {i}." for i in range(9)])
  assert "9 bad lines are skipped" in caplog.text
  assert "line 4." in caplog.text and "line 5." not in caplog.text
  assert "and 4 more" in caplog.text
  with pytest.raises(
    UserError, match="in has nothing but bad lines, 2 of them"
  ):
    input_rows.report_skipped("in", [], ["one", "two"])
