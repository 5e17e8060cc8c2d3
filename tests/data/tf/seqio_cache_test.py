"""Tests of data/tf/seqio_cache.py: any SeqIO task becomes cache entries."""

import dataclasses
import logging

import pytest

from distill_jax.data import datasets, task_kinds, vocab
from distill_jax.data import settings as settings_lib
from distill_jax.data.records import Record
from distill_jax.errors import UserError

pytestmark = pytest.mark.tf

seqio = pytest.importorskip("seqio")
tf = pytest.importorskip("tensorflow")

from distill_jax.data.tf import seqio_cache  # noqa: E402
from distill_jax.tasks import register  # noqa: E402

_SETTINGS = settings_lib.DataSettings(
  word_problems={
    "num_train_examples": 20,
    "num_validation_examples": 2,
    "num_test_examples": 2,
    "teacher_error_rate": 0.5,
  }
)


@pytest.fixture(autouse=True)
def fixture_settings(monkeypatch):
  monkeypatch.setattr(datasets, "_specs", dict(datasets._specs))
  settings_lib.use_settings(_SETTINGS)
  yield
  settings_lib.use_settings(None)
  for registry in (seqio.MixtureRegistry, seqio.TaskRegistry):
    for name in list(registry.names()):
      if name.startswith("toy_"):
        registry.remove(name)


def _add_task(
  name, vocabulary=None, feature_names=("inputs", "targets"), **columns
):
  """Adds a task as users of SeqIO write them; it knows nothing of records."""
  if vocabulary is None:
    path = vocab.load_vocabulary(None).path
    vocabulary = seqio.SentencePieceVocabulary(path)  # 100 extra ids.
  rows = {key: [f"{key} 1", f"{key} 2"] for key in feature_names} | columns
  seqio.TaskRegistry.add(
    name,
    source=seqio.FunctionDataSource(
      lambda split, shuffle_files, seed=None: (
        tf.data.Dataset.from_tensor_slices(rows)
      ),
      splits=["train", "dev"],
    ),
    preprocessors=[
      seqio.preprocessors.tokenize,
      seqio.preprocessors.append_eos,
    ],
    output_features={key: seqio.Feature(vocabulary) for key in feature_names},
  )


def test_a_mixture_is_described_by_its_tasks():
  tasks = seqio_cache.describe_tasks("word_problems_teacher_distill", _SETTINGS)
  label = tasks["word_problems_teacher_label"]
  rationale = tasks["word_problems_rationale"]
  assert (label.kind, rationale.kind) == ("label", "rationale")
  assert (label.inputs_prefix, rationale.inputs_prefix) == (
    "predict: ",
    "explain: ",
  )
  assert (label.uses_teacher_labels, rationale.uses_teacher_labels) == (
    True,
    False,
  )
  counts = label.teacher_counts["train"]
  assert counts["ok"] == 20
  assert 0 < counts["labels_wrong"] < 20
  assert counts["labels_right"] == 20 - counts["labels_wrong"]
  assert set(label.teacher_counts) == {"train", "validation", "test"}
  assert {info.metric for info in tasks.values()} == {"equation"}
  assert {info.rate for info in tasks.values()} == {1.0}


def test_a_data_set_with_a_closed_label_set():
  spec = datasets.DatasetSpec(
    "toy",
    lambda *_: [Record("0", "a", "yes", status="truncated")],
    "exact_match",
    lambda _: [],
    label_set=("yes", "no"),
  )
  register.register_dataset(spec)
  settings = dataclasses.replace(_SETTINGS, label_prefix="[label] ")
  (info,) = seqio_cache.describe_tasks("toy_joint", settings).values()
  assert (info.label_set, info.metric, info.kind, info.inputs_prefix) == (
    ("yes", "no"),
    "exact_match",
    "joint",
    "[label] ",
  )
  assert info.teacher_counts["train"] == {
    "truncated": 1,
    "labels_right": 0,
    "labels_wrong": 0,
  }


@pytest.mark.parametrize(
  "kind, label, is_refused",
  [
    ("joint", "the answer: no", True),
    ("joint", "the rationale: no", False),
    ("joint_label_first", "the rationale: no", True),
    ("joint_label_first", "the answer: no", False),
    ("label", "the answer: no", False),
  ],
)
def test_a_label_that_holds_the_marker_of_its_joint_task(
  kind, label, is_refused
):
  spec = datasets.DatasetSpec(
    "toy",
    lambda *_: [Record("0", "a", label, "rationale: answer: b")],
    "exact_match",
    lambda _: [],
  )
  register.register_dataset(spec)
  name = f"toy_{kind}"
  if is_refused:
    with pytest.raises(UserError, match=f"{name}: the label '{label}' of '0'"):
      seqio_cache.describe_tasks(name, _SETTINGS)
    return
  (info,) = seqio_cache.describe_tasks(name, _SETTINGS).values()
  assert info.target == task_kinds.KINDS[kind].target


def test_rates_are_those_of_the_mixture():
  for name in ("toy_a", "toy_b"):
    _add_task(name)
  seqio.MixtureRegistry.add("toy_mix", [("toy_a", 3), ("toy_b", 0.5)])
  tasks = seqio_cache.describe_tasks("toy_mix", _SETTINGS)
  assert {name: info.rate for name, info in tasks.items()} == {
    "toy_a": 3.0,
    "toy_b": 0.5,
  }


def test_a_task_of_the_users_own():
  _add_task("toy_task")
  tasks = seqio_cache.describe_tasks("toy_task", _SETTINGS)
  assert (tasks["toy_task"].kind, tasks["toy_task"].metric) == (
    "label",
    "exact_match",
  )
  rows = list(seqio_cache.tokenize(tasks))
  # "dev" is none of the splits that training and evaluation ask for.
  assert [row[:2] for row in rows] == [("toy_task", "train")] * 2
  vocabulary = vocab.load_vocabulary(None)
  for number, (_, _, example) in enumerate(rows, start=1):
    assert example.id == f"train-{number - 1}"
    assert example.inputs_text == f"inputs {number}"
    for key in ("inputs", "targets"):
      ids = getattr(example, key)
      assert ids.dtype == "int32"
      assert ids.tolist() == [*vocabulary.encode(f"{key} {number}"), 1]


def test_weights_come_with_their_examples():
  weights = [2.0, 0.25]
  spec = datasets.DatasetSpec(
    "toy",
    lambda *_: [
      Record(f"{i}", "a", "b", "c", "b", "t", "ok", weight)
      for i, weight in enumerate(weights)
    ],
    "exact_match",
    lambda _: [],
  )
  register.register_dataset(spec)
  for name in ("toy_teacher_distill", "toy_joint"):
    tasks = seqio_cache.describe_tasks(name, _SETTINGS)
    rows = [row for row in seqio_cache.tokenize(tasks) if row[1] == "train"]
    assert [row[2].weight for row in rows] == weights * len(tasks)


def test_records_that_a_target_cannot_be_made_of_are_counted(
  caplog, monkeypatch
):
  monkeypatch.setattr(logging.getLogger("distill_jax"), "propagate", True)
  spec = datasets.DatasetSpec(
    "halved",
    lambda split, _: [
      Record(str(i), f"q{i}", "yes", "so" if split == "train" else None)
      for i in range(4)
    ],
    "exact_match",
    lambda _: [],
  )
  register.register_dataset(spec)
  for name in ("halved_label", "halved_rationale"):
    list(seqio_cache.tokenize([name]))
  assert caplog.text == ""
  rows = list(seqio_cache.tokenize(["halved_joint"]))
  assert {row[1] for row in rows} == {"train"}
  for split in ("validation", "test"):
    assert (
      f"halved_joint leaves out 4 of the 4 records of {split}: they lack a"
      " rationale or a label." in caplog.text
    )


def test_a_weight_of_the_users_own_task():
  _add_task("toy_weighed", loss_weight=[0.5, 2])
  _add_task("toy_unweighed", weight=["5 kg", "7 kg"])
  _add_task("toy_wrong", loss_weight=[1, -2])

  def weigh(name):
    rows = seqio_cache.tokenize(seqio_cache.describe_tasks(name, _SETTINGS))
    return [example.weight for _, _, example in rows]

  assert weigh("toy_weighed") == [0.5, 2]
  assert weigh("toy_unweighed") == [1, 1]
  with pytest.raises(UserError, match="toy_wrong train: .*'train-1' .* -2; it"):
    weigh("toy_wrong")


def test_every_split_is_tokenized_whole_and_in_order():
  tasks = seqio_cache.describe_tasks("word_problems_distill", _SETTINGS)
  rows = list(seqio_cache.tokenize(tasks))
  wanted = [
    (f"word_problems_{kind}", split, record.id)
    for kind in ("label", "rationale")  # By name, as SeqIO lists them.
    for split in ("train", "validation", "test")
    for record in datasets.load_records("word_problems", split, _SETTINGS)
  ]
  assert [(*row[:2], row[2].id) for row in rows] == wanted
  # Nothing is trimmed: rows of training decide how long an example may be.
  assert all(row[2].inputs[-1] == row[2].targets[-1] == 1 for row in rows)


def test_mistakes_are_named():
  with pytest.raises(UserError, match="Did you mean 'word_problems_distill'"):
    seqio_cache.describe_tasks("word_problem_distill", _SETTINGS)
  _add_task("toy_lm", feature_names=("targets",))
  with pytest.raises(UserError, match=r"toy_lm has the features \['targets'\]"):
    seqio_cache.describe_tasks("toy_lm", _SETTINGS)


def test_a_task_with_another_vocabulary_is_refused():
  _add_task("toy_bytes", seqio.ByteVocabulary())
  with pytest.raises(UserError, match="VOCAB_PATH, which is None"):
    seqio_cache.describe_tasks("toy_bytes", _SETTINGS)
  settings = dataclasses.replace(_SETTINGS, vocab_path="bytes")
  assert "toy_bytes" in seqio_cache.describe_tasks("toy_bytes", settings)
  _add_task("toy_pieces")
  with pytest.raises(UserError, match="VOCAB_PATH, which is 'bytes'"):
    seqio_cache.describe_tasks("toy_pieces", settings)
