"""Tests of tasks/register.py and of every data set that registers with it."""

import dataclasses

import numpy as np
import official_release
import pytest

from distill_jax.data import (
  datasets,
  own_vocabulary,
  span_corruption,
  task_kinds,
  vocab,
)
from distill_jax.data import settings as settings_lib
from distill_jax.data.records import Record, read_records

pytestmark = pytest.mark.tf

seqio = pytest.importorskip("seqio")

import distill_jax.tasks  # noqa: E402
from distill_jax.tasks import register  # noqa: E402

_LENGTHS = {"inputs": 512, "targets": 256}
_SETTINGS = settings_lib.DataSettings(
  word_problems={
    "num_train_examples": 8,
    "num_validation_examples": 3,
    "num_test_examples": 3,
  }
)
_RECORD = Record(
  "1", "how many ?", "( 1 + 2 )", "1 + 2 = 3 .", "( 1 - 2 )", "PaLM", "ok"
)
# Kind -> inputs and training targets of `_RECORD`.
_TEXTS = {
  "label": ("predict: how many ?", "( 1 + 2 )"),
  "teacher_label": ("predict: how many ?", "( 1 - 2 )"),
  "rationale": ("explain: how many ?", "1 + 2 = 3 ."),
  "finetune": ("how many ?", "( 1 + 2 )"),
  "teacher_finetune": ("how many ?", "( 1 - 2 )"),
  "joint": ("predict: how many ?", "1 + 2 = 3 . answer: ( 1 + 2 )"),
  "joint_label_first": (
    "predict: how many ?",
    "( 1 + 2 ) rationale: 1 + 2 = 3 .",
  ),
}
_SPANS = "span_corruption"


@pytest.fixture(autouse=True)
def fixture_settings():
  settings_lib.use_settings(_SETTINGS)
  yield
  settings_lib.use_settings(None)


@pytest.fixture(name="records")
def fixture_records(monkeypatch):
  """Registers a data set "toy" of the records in the list, in each split."""
  monkeypatch.setattr(datasets, "_specs", dict(datasets._specs))
  records = [_RECORD]
  register.register_dataset(
    datasets.DatasetSpec("toy", lambda *_: records, "equation", lambda _: [])
  )
  yield records
  for kind in task_kinds.KINDS:
    seqio.TaskRegistry.remove(f"toy_{kind}")
  for mixture in task_kinds.MIXTURES:
    seqio.MixtureRegistry.remove(f"toy_{mixture}")


def _load(name, split="train", lengths=None):
  """Returns a task's rows as plain SeqIO makes them."""
  dataset = seqio.get_mixture_or_task(name).get_dataset(
    sequence_length=lengths, split=split, shuffle=False, num_epochs=1
  )
  return list(dataset.as_numpy_iterator())


def _texts(row):
  keys = ("inputs_pretokenized", "targets_pretokenized")
  return tuple(row[key].decode() for key in keys)


def test_every_name_of_the_table_is_registered():
  assert distill_jax.tasks is not None
  sets = (
    *("svamp", "cqa", "esnli", "anli1", "asdiv", "word_problems"),
    "animal_legs",
  )
  assert set(sets) <= set(datasets.names())
  tasks = {f"{name}_{kind}" for name in sets for kind in (*_TEXTS, _SPANS)}
  assert tasks <= set(seqio.TaskRegistry.names())
  mixtures = {
    f"{name}_{kind}" for name in sets for kind in ("distill", "teacher_distill")
  }
  assert mixtures <= set(seqio.MixtureRegistry.names())


def test_the_table_of_this_test_is_complete():
  assert {*_TEXTS, _SPANS} == set(task_kinds.KINDS)


@pytest.mark.parametrize("kind", _TEXTS)
def test_a_task_puts_in_and_out_what_the_table_says(records, kind):
  vocabulary = vocab.load_vocabulary(None)
  inputs, targets = _TEXTS[kind]
  task = seqio.get_mixture_or_task(f"toy_{kind}")
  seqio.test_utils.assert_dataset(
    task.get_dataset(_LENGTHS, "train", shuffle=False),
    {
      "id": "1",
      "inputs": [*vocabulary.encode(inputs), 1],
      "targets": [*vocabulary.encode(targets), 1],
      "inputs_pretokenized": inputs,
      "targets_pretokenized": targets,
      "loss_weight": 1.0,
    },
    expected_dtypes={"inputs": np.int32, "targets": np.int32},
  )


def test_span_corruption_is_of_inputs_and_rationales(records):
  settings = settings_lib.DataSettings(span_corruption_copies=3)
  settings_lib.use_settings(settings)
  task = seqio.get_mixture_or_task("toy_span_corruption")
  vocabulary = vocab.load_vocabulary(None)
  for split, num_copies in (("train", 3), ("validation", 1)):
    rows = _load("toy_span_corruption", split)
    expected = list(span_corruption.make_rows(records, vocabulary, num_copies))
    assert len(rows) == len(expected) == 2 * num_copies
    for row, made in zip(rows, expected, strict=True):
      assert row["id"].decode() == made["id"]
      assert row["inputs"].tolist() == [*made["inputs"].tolist(), 1]
      assert row["targets"].tolist() == [*made["targets"].tolist(), 1]
      assert _texts(row) == (
        made["inputs_pretokenized"],
        made["targets_pretokenized"],
      )
  shuffled = task.get_dataset(_LENGTHS, "train", shuffle=True, seed=1)
  ids = [row["id"] for row in shuffled.as_numpy_iterator()]
  assert sorted(ids) == sorted(row["id"] for row in _load(task.name))


@pytest.mark.parametrize(
  "name", ["toy_label", "toy_distill", "toy_span_corruption"]
)
@pytest.mark.parametrize("pack", [False, True])
def test_seqio_alone_leaves_weights_out(records, name, pack):
  """What T5X would train on has SeqIO's keys, and weights of 0 and 1."""
  records[:] = [dataclasses.replace(_RECORD, weight=2.5)]
  dataset = seqio.get_mixture_or_task(name).get_dataset(
    _LENGTHS, "train", shuffle=False, num_epochs=1
  )
  converter = seqio.EncDecFeatureConverter(pack=pack)
  for row in converter(dataset, _LENGTHS).as_numpy_iterator():
    assert set(row) == set(converter.MODEL_FEATURES) | (
      set(converter.PACKING_FEATURE_DTYPES) if pack else set()
    )
    weights = row["decoder_loss_weights"]
    np.testing.assert_array_equal(weights, row["decoder_target_tokens"] > 0)


@pytest.mark.parametrize(
  "kind, split", [("teacher_label", "validation"), ("teacher_finetune", "test")]
)
def test_the_teacher_labels_only_what_is_trained_on(records, kind, split):
  ((_, targets),) = map(_texts, _load(f"toy_{kind}", split))
  assert targets == "( 1 + 2 )"


def test_rows_without_the_target_are_left_out(records):
  records[:] = [
    Record("0", "neither"),
    Record("1", "label", label="3"),
    Record("2", "rationale", rationale="so"),
    Record("3", "teacher", teacher_label="4"),
    Record("4", "both", label="3", rationale="so"),
    Record("5", "empty", label="", rationale=""),
  ]
  for kind, ids in {
    "label": "1 4 5",
    "teacher_label": "3",
    "rationale": "2 4 5",
    "joint": "4 5",
  }.items():
    found = [row["id"].decode() for row in _load(f"toy_{kind}")]
    assert " ".join(found) == ids, kind


def test_a_literal_eos_is_one_id_in_the_middle(records):
  records[0] = Record("1", "a cat .</s>an animal .", "entailment")
  vocabulary = vocab.load_vocabulary(None)
  (row,) = _load("toy_label")
  premise = vocabulary.encode("predict: a cat .")
  hypothesis = vocabulary.encode("an animal .")
  assert row["inputs"].tolist() == [*premise, 1, *hypothesis, 1]
  assert (
    vocabulary.encode_inputs("predict: a cat .</s>an animal .")
    == (row["inputs"].tolist()[:-1])
  )


def test_prefixes_are_those_of_the_settings(records):
  settings_lib.use_settings(
    settings_lib.DataSettings(
      label_prefix="[label] ", rationale_prefix="[rationale] "
    )
  )
  prefixes = {
    kind: _texts(_load(f"toy_{kind}")[0])[0].removesuffix("how many ?")
    for kind in ("label", "rationale", "finetune", "joint")
  }
  assert prefixes == {
    "label": "[label] ",
    "rationale": "[rationale] ",
    "finetune": "",
    "joint": "[label] ",
  }


def test_vocabulary_is_that_of_the_settings(records):
  settings_lib.use_settings(settings_lib.DataSettings(vocab_path="bytes"))
  (row,) = _load("toy_finetune")
  assert row["inputs"].tolist() == [*(b + 3 for b in b"how many ?"), 1]


def test_a_long_example_is_trimmed_and_keeps_its_eos(records):
  (whole,) = _load("toy_label")
  (row,) = _load("toy_label", lengths={"inputs": 4, "targets": 3})
  assert row["inputs"].tolist() == [*whole["inputs"][:3], 1]
  assert row["targets"].tolist() == [*whole["targets"][:2], 1]


def test_metrics_compare_by_value_and_read_labels_out_of_joint_targets(records):
  def accuracy(kind, target, prediction):
    (metric_fn,) = seqio.get_mixture_or_task(f"toy_{kind}").metric_fns
    return metric_fn([target], [prediction])["label_accuracy"]

  assert accuracy("label", "( 1 + 2 )", "3.0") == 1
  assert accuracy("label", "( 1 + 2 )", "4") == 0
  assert accuracy("joint", "a answer: 3", "so 1 + 2 = 4 . answer: 3") == 1
  assert accuracy("joint", "a answer: 3", "so 1 + 2 = 3 . answer: 4") == 0
  assert accuracy("joint_label_first", "3 rationale: a", "3 rationale: b") == 1
  assert accuracy("joint_label_first", "3 rationale: a", "4 rationale: a") == 0
  (metric_fn,) = seqio.get_mixture_or_task("toy_rationale").metric_fns
  assert "label_accuracy" not in metric_fn(["so"], ["so"])


def test_upstream_feature_converter_packs_a_mixture():
  """What T5X does with a mixture."""
  dataset = seqio.get_dataset(
    "word_problems_distill",
    {"inputs": 128, "targets": 96},
    dataset_split="train",
    shuffle=True,
    seed=0,
    num_epochs=1,
    feature_converter=seqio.EncDecFeatureConverter(pack=True),
  )
  found = []
  rows = list(dataset.as_numpy_iterator())
  for row in rows:
    assert row["encoder_input_tokens"].shape == (128,)
    assert row["decoder_target_tokens"].shape == (96,)
    num_segments = row["encoder_segment_ids"].max()
    found += [
      tuple(
        row[tokens][row[segments] == segment].tolist()
        for tokens, segments in (
          ("encoder_input_tokens", "encoder_segment_ids"),
          ("decoder_target_tokens", "decoder_segment_ids"),
        )
      )
      for segment in range(1, num_segments + 1)
    ]
  assert len(found) > len(rows)
  counts = []
  for kind in ("label", "rationale"):
    pairs = [
      (row["inputs"].tolist(), row["targets"].tolist())
      for row in _load(f"word_problems_{kind}")
    ]
    counts.append(sum(pair in pairs for pair in found))
  assert sum(counts) == len(found)
  # SeqIO ends a mixture when the first of its tasks ends.
  assert max(counts) == 8 and min(counts) > 3


def _assert_equals_records(name, kind, split, settings):
  """Compares a task with the records, by way of the vocabulary without TF."""
  vocabulary = vocab.load_vocabulary(settings.vocab_path)
  records = datasets.load_records(name, split, settings)
  field = {"label": "label", "rationale": "rationale"}[kind]
  prefix = {"label": "predict: ", "rationale": "explain: "}[kind]
  records = [r for r in records if getattr(r, field) is not None]
  rows = _load(f"{name}_{kind}", split)
  assert [row["id"].decode() for row in rows] == [r.id for r in records]
  for row, record in zip(rows, records, strict=True):
    assert row["inputs"].tolist() == [
      *vocabulary.encode_inputs(prefix + record.input),
      1,
    ]
    assert row["targets"].tolist() == [
      *vocabulary.encode(getattr(record, field)),
      1,
    ]
  return rows


@pytest.mark.parametrize("name", ["word_problems", "animal_legs"])
@pytest.mark.parametrize("kind", ["label", "rationale"])
def test_generated_data(name, kind):
  settings = own_vocabulary.fill_in(name, _SETTINGS)
  settings_lib.use_settings(settings)
  assert len(_assert_equals_records(name, kind, "train", settings))


@pytest.mark.shared
@pytest.mark.skipif(
  not official_release.FOLDER.is_dir(), reason="no official data here"
)
@pytest.mark.parametrize(
  "name, split, num_rows",
  [
    ("svamp", "train", 720),
    ("svamp", "validation", 80),
    ("svamp", "test", 200),
    ("cqa", "test", 1221),
    ("anli1", "test", 1000),
  ],
)
def test_official_data(name, split, num_rows):
  settings = settings_lib.DataSettings(data_dir=str(official_release.FOLDER))
  settings_lib.use_settings(settings)
  rows = _assert_equals_records(name, "label", split, settings)
  assert len(rows) == num_rows
  if name == "anli1":
    assert all(row["inputs"].tolist().count(1) == 2 for row in rows)


def test_what_a_teacher_did_not_answer(records, tmp_path):
  """Records as labelling writes them: what is not there is null."""
  path = tmp_path / "records.jsonl"
  path.write_text(
    '{"id": "1", "input": "how many ?", "label": "( 1 + 2 )",'
    ' "rationale": null, "teacher_label": null, "teacher": null,'
    ' "status": null, "meta": {"failures": ["too_large"]}}\n'
    '{"id": "2", "input": "and now ?", "label": null, "rationale": "So .",'
    ' "teacher_label": "( 2 )", "teacher": "m", "status": "ok"}\n'
  )
  records[:] = read_records(path)
  ids = {
    kind: [row["id"].decode() for row in _load(f"toy_{kind}")]
    for kind in task_kinds.KINDS
  }
  assert ids == {
    "label": ["1"],
    "teacher_label": ["2"],
    "rationale": ["2"],
    "finetune": ["1"],
    "teacher_finetune": ["2"],
    "joint": [],
    "joint_label_first": [],
    "span_corruption": [
      f"{text}/{copy}"
      for text in ("1/input", "2/input", "2/rationale")
      for copy in range(10)
    ],
  }


def test_metrics_read_labels_as_the_vocabulary_writes_them(records):
  (metric_fn,) = seqio.get_mixture_or_task("toy_joint").metric_fns
  assert metric_fn(["x answer: 8.8 - 5.2"], ["answer: 3.6"])["num_correct"] == 1
  (metric_fn,) = seqio.get_mixture_or_task("toy_rationale").metric_fns
  metrics = metric_fn(["因为它有十二个½"], ["因为它有十二个1⁄2"])
  assert metrics["rouge_l"] == 100
  assert all(isinstance(value, int | float) for value in metrics.values())


def test_tasks_are_ensured_once():
  spec = datasets.DatasetSpec(
    "ensured", lambda *_: [_RECORD], "equation", lambda _: []
  )
  datasets.register_dataset(spec)
  try:
    register.ensure_tasks("ensured")
    task = seqio.TaskRegistry.get("ensured_label")
    register.ensure_tasks("ensured")
    assert seqio.TaskRegistry.get("ensured_label") is task
    assert "ensured_distill" in seqio.MixtureRegistry.names()
  finally:
    del datasets._specs["ensured"]
    for registry in (seqio.MixtureRegistry, seqio.TaskRegistry):
      for name in [*registry.names()]:
        if name.startswith("ensured_"):
          registry.remove(name)
