"""Tests of student/opening.py: paths that lead to a student, and others."""

import pytest
from tiny_run import fixture_model_dir as fixture_model_dir

import distill_jax
from distill_jax.errors import UserError
from distill_jax.runs import convert


@pytest.fixture(name="student", scope="module")
def fixture_student(model_dir):
  return distill_jax.load_student(model_dir)


def test_a_checkpoint_of_no_run(student, model_dir, tmp_path):
  folder = tmp_path / "hf"
  convert.convert(str(model_dir), str(folder), destination_format="hf")
  foreign = distill_jax.load_student(folder)
  assert foreign.tasks == []
  texts = ["one", "two"]
  # Nothing tells a prefix, so there is none.
  assert foreign.predict(texts, prefix="predict: ", max_decode_length=12) == (
    student.predict(texts)
  )
  assert foreign.predict(texts) == foreign.predict(texts, prefix="")
  with pytest.raises(UserError, match="explain needs a student that"):
    foreign.explain(texts)
  named = distill_jax.load_student(folder, task="word_problems_distill")
  assert [row.text for row in named.predict(texts, max_decode_length=12)] == [
    row.text for row in student.predict(texts)
  ]
  assert len(named.explain(texts)) == 2


@pytest.mark.parametrize(
  "path, changes, told",
  [
    (None, {}, "path of a student is None"),
    ("", {}, "path of a student is ''"),
    (None, {"checkpoint": "worst"}, "path of a student is None"),
    ("absent", {}, "absent"),
    ("run", {"checkpoint": "worst"}, "CHECKPOINTS is 'worst'"),
    ("run", {"checkpoint": 77}, "keeps the checkpoints of the steps"),
    ("run", {"checkpoint": [1, 2]}, "keeps the checkpoints|one checkpoint"),
    ("run", {"task": "svamp_labels"}, "Did you mean 'svamp_label'"),
    ("run", {"batch_rows": 0}, "batch_rows is 0"),
  ],
)
def test_a_student_that_cannot_be_loaded(model_dir, path, changes, told):
  path = model_dir if path == "run" else path
  with pytest.raises(UserError, match=told):
    distill_jax.load_student(path, **changes)
