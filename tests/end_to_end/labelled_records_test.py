"""From a teacher's answers to a student: label, prepare, train, eval."""

import json

import fault_server
import pytest
import tiny_run
import toy_template

from distill_jax.data import datasets, records, task_kinds, token_cache
from distill_jax.data.feed.pipeline import FeedConfig
from distill_jax.data.settings import DataSettings
from distill_jax.errors import UserError
from distill_jax.objective.objective import Objective
from distill_jax.optim import factory, schedules
from distill_jax.runs import eval as eval_mode
from distill_jax.runs import label, prepare, train
from distill_jax.teacher.filtering.filters import FilterConfig
from distill_jax.teacher.transports.config import TeacherConfig

pytestmark = pytest.mark.tf

seqio = pytest.importorskip("seqio")
pytest.importorskip("openai")

from distill_jax.tasks import register  # noqa: E402

_NAME = "judged"
_SETTINGS = DataSettings(vocab_path="bytes")
# Input -> what the teacher says of it; the last is refused for good.
_ANSWERS = {
  "Fire ||| It is hot.": "Fire burns. So the answer is yes.",
  "Ice ||| It is cold.": "Ice chills. So the answer is yes.",
  "Coal ||| It is dark.": "Coal is black. So the answer is yes.",
  "Snow ||| It is dark.": "Snow is white. So the answer is no.",
  "Fog ||| It is dry.": "Who knows",
  "Mud ||| It is wet.": None,
}
# Of these the gold label is known.
_GOLD = ["yes", "yes", None, "no", "no", "yes"]


def _answer(received):
  for text, said in _ANSWERS.items():
    if received.prompt == toy_template.format_question(text):
      if said is None:
        return fault_server.status(400)
      return fault_server.answer(said)(received)
  raise AssertionError(received.prompt)


@pytest.fixture(name="folder")
def fixture_folder(tmp_path, monkeypatch):
  """Where each split is labelled to; its data set is registered."""
  monkeypatch.setattr(datasets, "_specs", dict(datasets._specs))
  register.register_dataset(
    datasets.jsonl_dataset(
      _NAME,
      str(tmp_path / "{split}" / "records.jsonl"),
      metric="exact_match",
      label_set=("yes", "no"),
    )
  )
  yield tmp_path
  for mixture in task_kinds.MIXTURES:
    seqio.MixtureRegistry.remove(f"{_NAME}_{mixture}")
  for kind in task_kinds.KINDS:
    seqio.TaskRegistry.remove(f"{_NAME}_{kind}")


def _label(folder, base_url, **fields):
  """Asks the teacher about the training questions; returns the records."""
  questions = [
    {"id": f"q{i}", "input": text} | ({"label": gold} if gold else {})
    for i, (text, gold) in enumerate(zip(_ANSWERS, _GOLD, strict=True))
  ]
  path = folder / "questions.jsonl"
  path.write_text("".join(json.dumps(line) + "\n" for line in questions))
  settings = label.LabelRun(
    input_path=str(path),
    output_path=str(folder / "train"),
    teacher_model="m",
    prompt=toy_template.write(folder, toy_template.TEXT),
    client=TeacherConfig(base_url),
    filters=FilterConfig(**fields),
  )
  assert label.run(settings) == 0
  for split in ("validation", "test"):
    (folder / split).mkdir()
    records.write_records(
      folder / split / "records.jsonl",
      [records.Record(f"{split}-0", "Ash ||| It is grey.", "yes")],
    )
  return list(records.read_records(folder / "train" / "records.jsonl"))


def _make_train_run(folder, **changes):
  rate = schedules.constant(1e-2)
  settings = {
    "model_config": tiny_run.CONFIG,
    "mixture_or_task_name": f"{_NAME}_distill",
    "model_dir": str(folder / "run"),
    "train_steps": 2,
    "data": _SETTINGS,
    # An epoch is a batch.
    "feed": FeedConfig(
      {"inputs": 64, "targets": 32}, 8, max_examples_per_batch=6
    ),
    "objective": Objective(),
    "learning_rate": rate,
    "optimizer": factory.adamw(rate),
    "mesh": tiny_run.MESH,
    "log_period": 1,
    "cache_dir": str(folder / "caches"),
  }
  return train.TrainRun(**(settings | changes))


def test_a_student_learns_from_what_the_teacher_said(folder, capsys):
  with fault_server.FaultServer(answer=_answer) as server:
    labelled = _label(
      folder, server.base_url, class_balance="weights", balance_by="label"
    )
  statuses = ["ok", "ok", "ok", "ok", "no_marker", None]
  assert [record.status for record in labelled] == statuses
  # Three are "yes" and two are "no"; of one it is not known.
  weights = [5 / 6, 5 / 6, 1, 5 / 4, 5 / 4, 5 / 6]
  assert [record.weight for record in labelled] == pytest.approx(weights)

  cache = prepare.run(
    prepare.PrepareRun(
      f"{_NAME}_distill", _SETTINGS, cache_dir=str(folder / "caches")
    )
  )
  assert "ok 4, no_marker 1" in capsys.readouterr().out
  tasks = [f"{_NAME}_{kind}" for kind in ("label", "rationale")]
  examples = {task: list(cache.open_split(task, "train")) for task in tasks}
  for task, ids in zip(tasks, ([0, 1, 3, 4, 5], [0, 1, 2, 3]), strict=True):
    assert [example.id for example in examples[task]] == [f"q{i}" for i in ids]
    assert [example.weight for example in examples[task]] == pytest.approx(
      [weights[i] for i in ids]
    )

  train.run(_make_train_run(folder))
  lines = (folder / "run" / "metrics.jsonl").read_text().splitlines()
  steps = [line for line in map(json.loads, lines) if line["split"] == "train"]
  assert len(steps) == 2
  for name, task in zip(("label", "rationale"), tasks, strict=True):
    total = sum(len(row.targets) * row.weight for row in examples[task])
    for step in steps:
      assert step[f"{name}_tokens"] == pytest.approx(total)

  results = eval_mode.run(
    eval_mode.EvalRun(
      data=_SETTINGS,
      model_dir=str(folder / "run"),
      mesh=tiny_run.MESH,
      batch_rows=4,
      cache_dir=str(folder / "caches"),
    )
  )
  assert results[f"{_NAME}_label/test"]["num_examples"] == 1


def test_too_few_readable_answers_are_no_training_set(folder):
  with fault_server.FaultServer(answer=_answer) as server:
    _label(folder, server.base_url)
  settings = _make_train_run(
    folder, mixture_or_task_name=f"{_NAME}_teacher_label"
  )
  with pytest.raises(UserError, match=r"20\.0% of its 5 training rows are not"):
    train.run(settings)
  # What was read is in the cache all the same.
  (path,) = token_cache.list_caches(folder / "caches", f"{_NAME}_teacher_label")
  cache = token_cache.TokenCache(path)
  assert cache.tasks[f"{_NAME}_teacher_label"].splits["train"] == 4
