"""Records as a SeqIO data source, and the vocabulary as a SeqIO vocabulary.

The TensorFlow side of the data boundary; imports data.datasets, data.settings,
data.span_corruption, data.vocab. All ask for the settings only when a data set
is made, because SeqIO registers tasks at import, before any setting is known.
"""

import dataclasses
from typing import Any

import seqio
import tensorflow as tf

from distill_jax.data import datasets, span_corruption, vocab
from distill_jax.data import settings as settings_lib

# TensorFlow would take all memory of a GPU that training needs.
tf.config.set_visible_devices([], "GPU")

_TEXT_FIELDS = ("id", "input", "label", "rationale")


def make_record_source(
  spec: datasets.DatasetSpec,
  use_teacher_labels: bool = False,
) -> seqio.FunctionDataSource:
  """Returns a SeqIO source over the records of a data set.

  Args:
    spec: the data set.
    use_teacher_labels: `label` of the training split is the teacher's; the
      other splits keep gold labels, as in the authors' code.

  Returns:
    A source whose elements hold scalar strings `id`, `input`, `label`,
    `rationale`, a boolean `has_<field>` for each (absent text is ""), and
    `weight`, float32.
  """

  def dataset_fn(split: str, shuffle_files: bool = False, seed=None):
    settings = settings_lib.current_settings()
    records = datasets.load_records(spec.name, split, settings)
    if use_teacher_labels and split == "train":
      records = [
        dataclasses.replace(record, label=record.teacher_label)
        for record in records
      ]
    columns: Any = {}
    for field in _TEXT_FIELDS:
      values = [getattr(record, field) for record in records]
      columns[field] = tf.constant([value or "" for value in values])
      columns[f"has_{field}"] = tf.constant([v is not None for v in values])
    weights = [record.weight for record in records]
    columns["weight"] = tf.constant(weights, tf.float32)
    dataset = tf.data.Dataset.from_tensor_slices(columns)
    if shuffle_files:
      return dataset.shuffle(len(records), seed=seed)
    return dataset

  return seqio.FunctionDataSource(dataset_fn=dataset_fn, splits=spec.splits)


def make_span_source(spec: datasets.DatasetSpec) -> seqio.FunctionDataSource:
  """Returns a SeqIO source over the corrupted texts of a data set.

  Args:
    spec: the data set.

  Returns:
    A source whose elements are the rows of `span_corruption.make_rows`:
    training texts in SPAN_CORRUPTION_COPIES copies, others in one.
  """
  text, ids = tf.TensorSpec([], tf.string), tf.TensorSpec([None], tf.int32)

  def dataset_fn(split: str, shuffle_files: bool = False, seed=None):
    settings = settings_lib.current_settings()
    copies = settings.span_corruption_copies if split == "train" else 1
    records = datasets.load_records(spec.name, split, settings)
    vocabulary = vocab.load_vocabulary(settings.vocab_path)
    dataset = tf.data.Dataset.from_generator(
      lambda: span_corruption.make_rows(records, vocabulary, copies),
      output_signature={
        "id": text,
        "inputs": ids,
        "targets": ids,
        "inputs_pretokenized": text,
        "targets_pretokenized": text,
        "loss_weight": tf.TensorSpec([], tf.float32),
      },
    )
    if shuffle_files:
      num_texts = len(records) * len(span_corruption.FIELDS)
      return dataset.shuffle(num_texts * copies, seed=seed)
    return dataset

  return seqio.FunctionDataSource(dataset_fn=dataset_fn, splits=spec.splits)


class ConfiguredVocabulary(seqio.Vocabulary):
  """The vocabulary that the data settings name, looked up at each use."""

  def __init__(self):
    self._loaded: tuple[str | None, seqio.Vocabulary] | None = None
    super().__init__(extra_ids=0)

  def _current(self) -> seqio.Vocabulary:
    path = settings_lib.current_settings().vocab_path
    if self._loaded is None or self._loaded[0] != path:
      loaded = vocab.load_vocabulary(path)
      self._loaded = (
        path,
        seqio.ByteVocabulary()
        if loaded.path is None
        else seqio.SentencePieceVocabulary(loaded.path, extra_ids=0),
      )
    return self._loaded[1]

  @property
  def bos_id(self):
    return None

  @property
  def eos_id(self):
    return self._current().eos_id

  @property
  def unk_id(self):
    return self._current().unk_id

  @property
  def _base_vocab_size(self):
    return self._current().vocab_size

  def _encode(self, s):
    return self._current().encode(s)

  def _decode(self, ids):
    return self._current().decode(ids)

  def _encode_tf(self, s):
    return self._current().encode_tf(s)

  def _decode_tf(self, ids):
    return self._current().decode_tf(ids)

  def __eq__(self, other):
    return isinstance(other, ConfiguredVocabulary)

  def __hash__(self):
    return hash(ConfiguredVocabulary)
