"""Tests of scripts/write_questions.py."""

from script_import import import_script

from distill_jax.data import datasets, records
from distill_jax.data.settings import DataSettings

_main = import_script("write_questions").main


def test_questions_keep_the_gold_label_and_nothing_of_the_teacher(tmp_path):
  path = tmp_path / "new" / "questions.jsonl"
  assert not _main([f"--output={path}", "--dataset=word_problems", "--limit=7"])
  written = list(records.read_records(path))
  source = datasets.load_records("word_problems", "train", DataSettings())[:7]
  assert [(r.id, r.input, r.label) for r in written] == [
    (r.id, r.input, r.label) for r in source
  ]
  assert all(r.rationale for r in source)
  assert {(r.rationale, r.teacher_label, r.teacher) for r in written} == {
    (None, None, None)
  }


def test_an_existing_file_stays(tmp_path, capsys):
  path = tmp_path / "questions.jsonl"
  path.write_text("mine")
  assert _main([f"--output={path}", "--dataset=word_problems"]) == 2
  assert "exists" in capsys.readouterr().err
  assert path.read_text() == "mine"


def test_a_bad_limit_and_a_missing_source_are_said(tmp_path, capsys):
  output = f"--output={tmp_path / 'questions.jsonl'}"
  assert _main([output, "--dataset=word_problems", "--limit=0"]) == 2
  assert "--limit is 0" in capsys.readouterr().err
  assert _main([output, "--dataset=svamp", f"--data_dir={tmp_path}"]) == 2
  assert str(tmp_path) in capsys.readouterr().err
  assert not list(tmp_path.iterdir())
