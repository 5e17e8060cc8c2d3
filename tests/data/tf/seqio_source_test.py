"""Tests of data/tf/seqio_source.py."""

import pytest

from distill_jax.data import datasets, vocab
from distill_jax.data import settings as settings_lib
from distill_jax.data.records import Record

pytestmark = pytest.mark.tf

tf = pytest.importorskip("tensorflow")
pytest.importorskip("seqio")

from distill_jax.data.tf import seqio_source  # noqa: E402

_RECORDS = [
  Record("0", "a", "yes", "since", "no", "PaLM", "ok"),
  Record("1", "Ω\n", None, "", None),
  Record("2", "", "", None, "yes", weight=0.75),
]


@pytest.fixture(name="spec")
def fixture_spec(monkeypatch):
  monkeypatch.setattr(datasets, "_specs", dict(datasets._specs))
  spec = datasets.DatasetSpec(
    "toy",
    lambda split, settings: _RECORDS * (2 if settings.data_dir else 1),
    "exact_match",
    lambda _: [],
  )
  datasets.register_dataset(spec)
  yield spec
  settings_lib.use_settings(None)


def _load(source, split="train", **kwargs):
  dataset = source.get_dataset(split, **{"shuffle": False} | kwargs)
  return list(dataset.as_numpy_iterator())


def _column(rows, field):
  return [row[field].decode() if row[f"has_{field}"] else None for row in rows]


def test_records_come_through_in_order(spec):
  settings_lib.use_settings(settings_lib.DataSettings())
  rows = _load(seqio_source.make_record_source(spec))
  for field in ("id", "input", "label", "rationale"):
    assert _column(rows, field) == [getattr(r, field) for r in _RECORDS]
  # Absent text is "", which is not the same as empty text.
  assert [row["label"] for row in rows] == [b"yes", b"", b""]
  assert [row["weight"] for row in rows] == [1, 1, 0.75]
  assert rows[0]["weight"].dtype == "float32"


@pytest.mark.parametrize(
  "split, labels",
  [
    ("train", ["no", None, "yes"]),
    ("validation", ["yes", None, ""]),
    ("test", ["yes", None, ""]),
  ],
)
def test_the_teacher_labels_the_training_split(spec, split, labels):
  settings_lib.use_settings(settings_lib.DataSettings())
  source = seqio_source.make_record_source(spec, use_teacher_labels=True)
  assert _column(_load(source, split), "label") == labels


def test_settings_are_asked_for_when_data_is_read(spec):
  source = seqio_source.make_record_source(spec)
  settings_lib.use_settings(settings_lib.DataSettings())
  assert len(_load(source)) == 3
  settings_lib.use_settings(settings_lib.DataSettings(data_dir="/more"))
  assert len(_load(source)) == 6


def test_shuffling_keeps_every_record(spec):
  settings_lib.use_settings(settings_lib.DataSettings(data_dir="/more"))
  source = seqio_source.make_record_source(spec)
  rows = _load(source, shuffle=True, seed=0)
  assert sorted(_column(rows, "id")) == ["0", "0", "1", "1", "2", "2"]


_TEXTS = ("predict: ava has 12 apples .", "Ω 東京\n", "")


@pytest.mark.parametrize("path", [None, "bytes"])
def test_the_vocabulary_is_the_one_without_tensorflow(path):
  settings_lib.use_settings(settings_lib.DataSettings(vocab_path=path))
  ours, theirs = (
    vocab.load_vocabulary(path),
    seqio_source.ConfiguredVocabulary(),
  )
  for text in _TEXTS:
    ids = ours.encode(text)
    assert theirs.encode(text) == ids
    assert theirs.encode_tf(text).numpy().tolist() == ids
    assert theirs.decode([*ids, 1, 5]) == ours.decode(ids)
    decoded = theirs.decode_tf(tf.constant(ids, tf.int32))
    assert decoded.numpy().decode() == ours.decode(ids)
  assert theirs.eos_id == 1
  assert theirs.unk_id == 2
  assert theirs.bos_id is None
  assert theirs.pad_id == 0
  settings_lib.use_settings(None)


def test_the_vocabulary_changes_with_the_settings():
  vocabulary = seqio_source.ConfiguredVocabulary()
  ids = []
  for path in (None, "bytes", None):
    settings_lib.use_settings(settings_lib.DataSettings(vocab_path=path))
    ids.append(vocabulary.encode("12"))
  assert ids[0] == ids[2] != ids[1]
  settings_lib.use_settings(None)


def test_tasks_of_one_mixture_agree_on_their_vocabulary():
  pair = [seqio_source.ConfiguredVocabulary() for _ in range(2)]
  assert pair[0] == pair[1]
  assert len(set(pair)) == 1
  assert pair[0] != vocab.load_vocabulary(None)


def test_a_seed_fixes_the_order(spec):
  settings_lib.use_settings(settings_lib.DataSettings(data_dir="twice"))
  source = seqio_source.make_record_source(spec)

  def load(seed):
    return _column(_load(source, shuffle=True, seed=seed), "id")

  assert load(3) == load(3)
  assert len({tuple(load(seed)) for seed in range(5)}) > 1
