"""A real LLM labels; needs the server of scripts/local_teacher.sh."""

import collections
import json
import os

import pytest

from distill_jax.data import records
from distill_jax.runs import label
from distill_jax.teacher.transports.config import TeacherConfig

_URL = os.environ.get("LOCAL_TEACHER_URL")
pytestmark = [
  pytest.mark.local_teacher,
  pytest.mark.skipif(
    not _URL,
    reason="needs scripts/local_teacher.sh running and its address, such as"
    " http://127.0.0.1:8091/v1, in LOCAL_TEACHER_URL",
  ),
]
_QUESTIONS = [
  "A shelf holds 12 books. Mia takes 5 of them\nHow many books are left?",
  "Tom has 3 boxes with 8 pens each\nHow many pens has he?",
  "A train has 6 cars with 40 seats each\nHow many seats has it?",
  "Ida had 31 stamps and got 9 more\nHow many stamps has she now?",
]


def test_each_question_is_answered_once(tmp_path, monkeypatch):
  lines = [
    json.dumps({"id": f"q{i}", "input": text})
    for i, text in enumerate(_QUESTIONS)
  ]
  (tmp_path / "questions.jsonl").write_text("\n".join(lines))
  settings = label.LabelRun(
    input_path=str(tmp_path / "questions.jsonl"),
    output_path=str(tmp_path / "out"),
    teacher_model="smollm2",
    prompt="svamp",
    client=TeacherConfig(base_url=str(_URL), max_concurrency=2),
    endpoint="completions",
    max_tokens=48,
  )
  assert label.run(settings) == 0
  path = tmp_path / "out" / "journal.jsonl"
  events = collections.Counter(
    json.loads(line)["event"] for line in path.read_text().splitlines()
  )
  assert events == {"request": 4, "response": 4}
  made = list(records.read_records(tmp_path / "out" / "records.jsonl"))
  assert [record.id for record in made] == ["q0", "q1", "q2", "q3"]
  # What a model says is not the same twice; that it says something is.
  assert all(record.teacher == "smollm2" for record in made)

  def refuse(config):
    raise AssertionError("A request was sent again.")

  monkeypatch.setattr(label, "TeacherClient", refuse)
  assert label.run(settings) == 0
