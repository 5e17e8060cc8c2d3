"""Questions in each format, and what is no question."""

import datetime
import fractions
import gzip
import json

import pytest

from distill_jax.answers import arithmetic
from distill_jax.data.records import Record
from distill_jax.errors import UserError
from distill_jax.teacher.filtering import voting
from distill_jax.teacher.prompting import questions

_DEEP = "[" * 900 + "]" * 900
_ROWS = [
  {"id": 1, "input": "Ann has 1, and\n2?", "label": 3, "difficulty": "easy"},
  {"id": 22, "input": "Wo? é 漢", "label": "x", "difficulty": "hard"},
]
_EXPECTED = [
  Record("1", "Ann has 1, and\n2?", "3", meta={"difficulty": "easy"}),
  Record("22", "Wo? é 漢", "x", meta={"difficulty": "hard"}),
]
_CSV = """\
id,input,label,difficulty
1,"Ann has 1, and
2?",3,easy
22,Wo? é 漢,x,hard
"""
_CONTENTS = {
  "q.jsonl": "".join(json.dumps(row) + "\n" for row in _ROWS),
  "q.json": json.dumps(_ROWS, indent=2),
  # By content, whatever it is called.
  "array.jsonl": "\ufeff \n" + json.dumps(_ROWS),
  "q.csv": _CSV,
  "bom.CSV": "\ufeff" + _CSV.replace("\n1", "\r\n1"),
  "q.tsv": _CSV.replace(",3,easy", "\t3\teasy")
  .replace(",x,hard", "\tx\thard")
  .replace("id,input,label,", "id\tinput\tlabel\t")
  .replace('1,"', '1\t"')
  .replace("22,", "22\t"),
}


def read(path, content=None):
  if content is not None:
    data = content.encode() if isinstance(content, str) else content
    path.write_bytes(data)
  return list(questions.read_questions(path))


@pytest.mark.parametrize("is_packed", [False, True], ids=["plain", "gzip"])
@pytest.mark.parametrize("name", _CONTENTS)
def test_formats(tmp_path, name, is_packed):
  data = _CONTENTS[name].encode()
  if is_packed:
    assert read(tmp_path / f"{name}.gz", gzip.compress(data)) == _EXPECTED
  else:
    assert read(tmp_path / name, data) == _EXPECTED


@pytest.mark.parametrize("is_packed", [False, True], ids=["plain", "gzip"])
def test_parquet(tmp_path, is_packed):
  pyarrow = pytest.importorskip("pyarrow")
  from pyarrow import parquet

  rows = [
    row
    | {"day": datetime.date(2024, 1, n + 1), "choices": ["a", "b"], "no": None}
    for n, row in enumerate([_ROWS[0] | {"label": "3"}, _ROWS[1]])
  ]
  path = tmp_path / "q"
  parquet.write_table(pyarrow.Table.from_pylist(rows), path)
  if is_packed:
    path.write_bytes(gzip.compress(path.read_bytes()))
  found = read(path)
  assert [(r.id, r.input, r.label) for r in found] == [
    (r.id, r.input, r.label) for r in _EXPECTED
  ]
  assert found[1].meta == {
    "difficulty": "hard",
    "day": "2024-01-02",
    "choices": ["a", "b"],
  }
  path.write_bytes(b"PAR1 and nothing else")
  with pytest.raises(UserError, match="no whole Parquet file"):
    read(path)


def test_parquet_without_pyarrow(tmp_path, monkeypatch):
  monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
  with pytest.raises(UserError, match=r"pip install 'distill_jax\[parquet\]'"):
    read(tmp_path / "q.parquet", b"PAR1")


def test_records_are_questions_too(tmp_path):
  line = '{"id": "a", "input": "b", "weight": 2, "meta": {"k": 1}, "x": [1]}\n'
  (found,) = read(tmp_path / "q.jsonl", line)
  assert found.weight == 2 and found.meta == {"k": 1, "x": [1]}
  (found,) = read(
    tmp_path / "q.csv", 'id,input,weight,meta\na,b,2,"{""k"": 1}"\n'
  )
  assert found.weight == 2 and found.meta == {"k": 1}


def test_large_ids_and_decimal_labels_keep_their_digits(tmp_path):
  line = '{"id": 90071992547409931, "input": "b", "label": 2.50}\n'
  (found,) = read(tmp_path / "q.jsonl", line)
  assert (found.id, found.label) == ("90071992547409931", "2.5")


def test_empty_questions_are_all_named(tmp_path):
  texts = ["x", "", " \n\t", "\u200b\ufeff", "y"]
  lines = [
    json.dumps({"id": f"{i}", "input": t}) + "\n" for i, t in enumerate(texts)
  ]
  with pytest.raises(UserError) as caught:
    read(tmp_path / "q.jsonl", "".join(lines))
  path = tmp_path / "q.jsonl"
  assert (
    f"3 questions have an empty input: {path}:2, {path}:3, {path}:4."
    in str(caught.value)
  )
  with pytest.raises(UserError, match=r"q.csv:3\. Each"):
    read(tmp_path / "q.csv", "id,input\na,x\nb,\n")
  with pytest.raises(UserError, match="and 15 more"):
    read(
      tmp_path / "q.csv", "id,input\n" + "".join(f"{i},\n" for i in range(25))
    )


@pytest.mark.parametrize(
  "name, content, told",
  [
    (
      "q.jsonl",
      '{"id": 1, "input": "x"}\n{"id": "1", "input": "y"}',
      "already",
    ),
    ("q.jsonl", '{"id": true, "input": "x"}', ":1:id: True is not text"),
    ("q.jsonl", '{"id": "a", "input": 5}', ":1:input: 5 is not text"),
    ("q.jsonl", '{"id": "a"}', ":1:input: missing"),
    *(
      (
        "q.jsonl",
        f'{{"id": "a", "input": "x", "{field}": 1}}',
        f":1:{field}: a column",
      )
      for field in voting.META_FIELDS
    ),
    *(
      (
        "q.jsonl",
        f'{{"id": "a", "input": "x", "{field}": {_DEEP}}}',
        f":1:{field}: more than 64 lists",
      )
      for field in ("k", "meta", "label")
    ),
    (
      "q.jsonl",
      '{"id": "a", "input": "x", "k": 1, "meta": {"k": 2}}',
      ":1:k: a column, and in meta",
    ),
    ("q.json", '[{"id": "a", "input": "x"}, 5]', "item 2: a JSON int"),
    ("q.json", '[{"id": "a"', "not JSON"),
    ("q.csv", "id,input\na,x,y\n", ":2: 3 cells, and the header has 2"),
    ("q.csv", "id,input,id\na,x,y\n", ":1: the header is"),
    ("q.csv", 'id,input\na,"x\n', ":2: cannot be read"),
    ("q.csv", b"id,input\na,\xff\n", ":2: not UTF-8 at byte 2"),
    ("q.csv", "id,input,weight\na,x,heavy\n", ":2:weight: not JSON"),
    ("q.csv", "id,text\na,x\n", ":2:input: missing"),
    ("q.gz", b"\x1f\x8b broken", "no whole gzip file"),
    (
      "q.gz",
      gzip.compress(b'{"id": 1}\n' * 99, mtime=0)[:-9],
      "no whole gzip file|miss",
    ),
  ],
)
def test_what_is_no_question(tmp_path, name, content, told):
  with pytest.raises(UserError, match=told):
    read(tmp_path / name, content)


@pytest.mark.parametrize(
  "number, text",
  [
    ("1e22", "10000000000000000000000"),
    ("1E-7", "0.0000001"),
    ("3.0", "3.0"),
    ("-2", "-2"),
  ],
)
def test_a_label_has_no_exponent(tmp_path, number, text):
  line = f'{{"id": "a", "input": "x", "label": {number}}}'
  (record,) = read(tmp_path / "q.jsonl", line)
  assert record.label == text
  assert arithmetic.evaluate_equation(text) == fractions.Fraction(number)


@pytest.mark.parametrize("field", ["meta", "weight"])
def test_null_is_none(tmp_path, field):
  line = f'{{"id": "a", "input": "x", "{field}": null, "k": 1}}'
  (record,) = read(tmp_path / "q.jsonl", line)
  assert (record.meta, record.weight) == ({"k": 1}, 1.0)


def test_a_file_that_is_not_there(tmp_path):
  with pytest.raises(UserError, match="absent.jsonl cannot be read: No such"):
    read(tmp_path / "absent.jsonl")


def test_a_copy_by_another_name_has_the_same_digest(tmp_path):
  for name, content in (
    ("a.csv", _CSV.encode()),
    ("b", _CSV.encode()),
    ("c.gz", gzip.compress(_CSV.encode())),
    ("d.csv", _CSV.encode() + b"\n"),
  ):
    (tmp_path / name).write_bytes(content)
  digests = [
    questions.compute_digest(tmp_path / name)
    for name in ("a.csv", "b", "c.gz", "d.csv")
  ]
  assert len(set(digests[:3])) == 1 and digests[3] != digests[0]
