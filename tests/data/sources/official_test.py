"""Tests of data/sources/official.py.

On the real release and on small copies of it.
"""

import collections
import json

import numpy as np
import official_release
import pytest

from distill_jax.answers import arithmetic
from distill_jax.data.sources import official
from distill_jax.errors import UserError


def _write_rows(folder, file_split, rows):
  """Writes JSON lines as the release does: "/" and non-ASCII escaped."""
  folder.mkdir(exist_ok=True)
  lines = [json.dumps(row).replace("/", r"\/") + "\n" for row in rows]
  path = folder / f"{folder.name}_{file_split}.json"
  path.write_text("".join(lines), encoding="ascii")


def _write_outputs(folder, file_split, index, outputs):
  (folder / "llm").mkdir(parents=True, exist_ok=True)
  path = folder / "llm" / f"{file_split}_CoT_{index}.json"
  path.write_text(json.dumps(outputs))


_CQA_ROW = {
  "id": "6b81",
  "question": "Where is a café?",
  "choices": ["bank", "library", "mall", "park", "zoo"],
  "answer": "mall",
  "abstractive_explanation": "never read",
}


def test_cqa_record(tmp_path):
  _write_rows(tmp_path / "cqa", "train", [_CQA_ROW])
  _write_outputs(
    tmp_path / "cqa",
    "train",
    0,
    ["R. So the answer is either (c) mall or (d) park.\n\nQ: Who?"],
  )
  (record,) = official.read_split(tmp_path, "cqa", "train", "strict")
  assert vars(record) == {
    "id": "cqa-train-0",
    "input": "Where is a café?\nAnswer Choices:\n(a) bank\n(b) library\n"
    "(c) mall\n(d) park\n(e) zoo",
    "label": "mall",
    "rationale": "R.",
    "teacher_label": "mall or",
    "teacher": "PaLM 540B",
    "status": "ambiguous",
    "weight": 1.0,
    "meta": {"source_id": "6b81", "choices": _CQA_ROW["choices"]},
  }
  (record,) = official.read_split(tmp_path, "cqa", "train", "tolerant")
  assert (record.teacher_label, record.status) == ("mall", "ambiguous")


def test_nli_record_and_the_name_of_its_validation_file(tmp_path):
  row = {"uid": "4aae", "premise": "A.", "hypothesis": "B.", "label": 2}
  _write_rows(tmp_path / "anli1", "valid", [row | {"reason": "never read"}])
  _write_rows(tmp_path / "esnli", "valid", [row])
  (anli1,) = official.read_split(tmp_path, "anli1", "validation", "strict")
  (esnli,) = official.read_split(tmp_path, "esnli", "validation", "strict")
  assert (anli1.input, anli1.label) == ("A.</s>B.", "contradiction")
  assert anli1.id == "anli1-validation-0"
  assert (anli1.meta, esnli.meta) == ({"source_id": "4aae"}, {})
  # No outputs were published with these rows.
  assert (esnli.rationale, esnli.teacher_label) == (None, None)
  assert (esnli.teacher, esnli.status) == (None, None)


def test_asdiv_record(tmp_path):
  row = {
    "Body": "Seven apples.",
    "Question": "How many?",
    "Formula": "3+4=7",
    "Answer": "7 (apples)",
  }
  _write_rows(tmp_path / "asdiv", "train", [row])
  (record,) = official.read_split(tmp_path, "asdiv", "train", "strict")
  assert (record.input, record.label) == ("Seven apples.\nHow many?", "7")


def test_outputs_are_read_in_numeric_order_and_slashes_unescaped(tmp_path):
  num_files = 12
  rows = [
    {"input": f"problem {index}", "label": f"( {index}.0 / 1.0 )"}
    for index in range(num_files)
  ]
  _write_rows(tmp_path / "svamp", "train", rows)
  for index in range(num_files):
    _write_outputs(
      tmp_path / "svamp", "train", index, [f"R. The answer is ({index} / 1)."]
    )
  records = official.read_split(tmp_path, "svamp", "train", "strict")
  assert records[11].label == "( 11.0 / 1.0 )"
  assert [record.teacher_label for record in records] == [
    f"({index} / 1)" for index in range(num_files)
  ]
  names = [path.name for path in official.source_files(tmp_path, "svamp")]
  assert names == ["svamp_train.json"] + [
    f"train_CoT_{index}.json" for index in range(num_files)
  ]


def test_counts_that_differ_are_named(tmp_path):
  _write_rows(tmp_path / "svamp", "train", [{"input": "x", "label": "1"}] * 3)
  _write_outputs(tmp_path / "svamp", "train", 0, ["a", "b"])
  with pytest.raises(UserError, match="svamp train: 3 rows but 2 teacher"):
    official.read_split(tmp_path, "svamp", "train", "strict")


def test_a_gap_in_the_output_files_is_named(tmp_path):
  for index in (0, 2):
    _write_outputs(tmp_path / "svamp", "train", index, ["a"])
  with pytest.raises(UserError, match=r"train_CoT_1\.json is missing"):
    official.read_teacher_outputs(tmp_path, "svamp", "train")


@pytest.mark.parametrize("content", ['{"a": "b"}', "[1]", "[", "\ufeff"])
def test_bad_output_files_are_named(tmp_path, content):
  _write_outputs(tmp_path / "svamp", "train", 0, [])
  path = tmp_path / "svamp/llm/train_CoT_0.json"
  path.write_text(content)
  with pytest.raises(UserError, match=r"train_CoT_0\.json"):
    official.read_teacher_outputs(tmp_path, "svamp", "train")


@pytest.mark.parametrize(
  "dataset, row, message",
  [
    ("svamp", {"input": "x"}, r"svamp_test\.json:1:label: missing"),
    ("svamp", {"input": 3, "label": "1"}, r":1:input: 3 is not text"),
    ("cqa", _CQA_ROW | {"choices": "a"}, r":choices: 'a' is not a list"),
    ("cqa", _CQA_ROW | {"answer": "sea"}, r":answer: 'sea' is none of"),
    (
      "esnli",
      {"premise": "A", "hypothesis": "B", "label": -1},
      r":label: -1 is not 0, 1 or 2",
    ),
    (
      "anli1",
      {"uid": "u", "premise": "A", "hypothesis": "B", "label": True},
      r":label: True is not 0, 1 or 2",
    ),
  ],
)
def test_bad_rows_are_named(tmp_path, dataset, row, message):
  _write_rows(tmp_path / dataset, "test", [row])
  with pytest.raises(UserError, match=message):
    official.read_split(tmp_path, dataset, "test", "strict")


def test_what_is_missing_is_named(tmp_path):
  with pytest.raises(UserError, match="DATA_DIR.*DISTILL_JAX_DATA_DIR"):
    official.read_split(None, "svamp", "train", "strict")
  with pytest.raises(UserError, match="svamp is no folder.*DATA_DIR"):
    official.read_split(tmp_path, "svamp", "train", "strict")
  (tmp_path / "svamp").mkdir()
  with pytest.raises(UserError, match=r"svamp_train\.json is missing.*DATA_D"):
    official.read_split(tmp_path, "svamp", "train", "strict")
  with pytest.raises(UserError, match="svamp has no 'validation' split"):
    official.read_split(tmp_path, "svamp", "validation", "strict")
  assert not official.has_rows(tmp_path, "svamp", "train")


class TestRelease:
  """Figures of ../shared/reference, counted there with the authors' code."""

  pytestmark = official_release.NEEDED

  @pytest.mark.parametrize(
    "dataset, split, mode, num_records, num_right, statuses",
    [
      (
        "svamp",
        "train",
        "strict",
        800,
        586,
        {"ambiguous": 16, "not_evaluable": 20, "truncated": 12, "no_marker": 2},
      ),
      (
        "svamp",
        "test",
        "strict",
        200,
        148,
        {"ambiguous": 10, "not_evaluable": 5, "no_marker": 2},
      ),
      (
        "cqa",
        "train",
        "strict",
        9741,
        7234,
        {"ambiguous": 285, "outside_label_set": 164},
      ),
      (
        "cqa",
        "test",
        "strict",
        1221,
        943,
        {"ambiguous": 26, "outside_label_set": 21},
      ),
      (
        "anli1",
        "validation",
        "strict",
        1000,
        668,
        {"no_marker": 8, "truncated": 1},
      ),
      ("anli1", "test", "strict", 1000, 656, {"no_marker": 10}),
      (
        "esnli",
        "validation",
        "strict",
        9842,
        7201,
        {"no_marker": 1, "truncated": 3},
      ),
      ("esnli", "test", "strict", 9824, 7171, {"truncated": 1}),
      (
        "svamp",
        "train",
        "tolerant",
        800,
        594,
        {"not_evaluable": 19, "truncated": 12, "no_marker": 2},
      ),
      (
        "svamp",
        "test",
        "tolerant",
        200,
        155,
        {"not_evaluable": 5, "no_marker": 2},
      ),
      (
        "cqa",
        "train",
        "tolerant",
        9741,
        7483,
        {"ambiguous": 285, "outside_label_set": 3},
      ),
      ("cqa", "test", "tolerant", 1221, 968, {"ambiguous": 26}),
      ("anli1", "validation", "tolerant", 1000, 675, {"truncated": 1}),
      ("anli1", "test", "tolerant", 1000, 664, {}),
      ("esnli", "test", "tolerant", 9824, 7171, {}),
    ],
  )
  def test_counts_and_teacher_accuracy(
    self, dataset, split, mode, num_records, num_right, statuses
  ):
    records = official.read_split(official_release.FOLDER, dataset, split, mode)
    assert len(records) == num_records
    assert len({record.id for record in records}) == num_records
    is_right = (
      arithmetic.equations_equal
      if dataset == "svamp"
      else lambda label, teacher_label: label == teacher_label
    )
    assert num_right == sum(
      is_right(record.label, record.teacher_label or "") for record in records
    )
    counts = collections.Counter(record.status for record in records)
    num_ok = num_records - sum(statuses.values())
    assert counts == {"ok": num_ok, **statuses}

  @pytest.mark.parametrize(
    "dataset, split, num_outputs, num_blank",
    [
      ("svamp", "train", 800, 13),
      ("svamp", "test", 200, 2),
      ("cqa", "train", 9741, 3),
      ("cqa", "test", 1221, 0),
      ("anli1", "train", 16946, 123),
      ("anli1", "validation", 1000, 9),
      ("anli1", "test", 1000, 10),
      ("esnli", "train", 11000, 186),
      ("esnli", "validation", 9842, 4),
      ("esnli", "test", 9824, 0),
    ],
  )
  def test_blank_labels(self, dataset, split, num_outputs, num_blank):
    outputs = official.read_teacher_outputs(
      official_release.FOLDER, dataset, split
    )
    assert len(outputs) == num_outputs
    row = official.Row("", "", {"choices": list("abcde")})
    records = official.combine(
      dataset, split, [row] * num_outputs, outputs, "strict"
    )
    assert num_blank == sum(
      not record.teacher_label.strip() for record in records
    )

  def test_svamp_is_the_permuted_source(self):
    source = json.loads(
      (official_release.FOLDER / "svamp/SVAMP.json").read_bytes()
    )
    order = np.random.RandomState(0).permutation(len(source))
    expected = [
      (
        f"{source[index]['Body']}\n{source[index]['Question']}",
        source[index]["Equation"],
      )
      for index in order
    ]
    records = [
      record
      for split in ("train", "test")
      for record in official.read_split(
        official_release.FOLDER, "svamp", split, "strict"
      )
    ]
    assert [(record.input, record.label) for record in records] == expected

  def test_nli_train_rows_are_not_there(self):
    assert not official.has_rows(official_release.FOLDER, "anli1", "train")
    with pytest.raises(UserError, match=r"anli1_train\.json is missing"):
      official.read_split(official_release.FOLDER, "anli1", "train", "strict")

  def test_every_file_of_the_manifest_is_a_source(self):
    manifest = (
      (official_release.FOLDER / "MANIFEST.sha256").read_text().splitlines()
    )
    names = {line.split(maxsplit=1)[1].lstrip("*./") for line in manifest}
    sources = {
      str(path.relative_to(official_release.FOLDER))
      for dataset in ("svamp", "cqa", "anli1", "esnli")
      for path in official.source_files(official_release.FOLDER, dataset)
    }
    assert sources == {name for name in names if name.count("/")} - {
      "svamp/SVAMP.json"
    }
