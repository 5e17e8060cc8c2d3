"""Tests of data/tf/seqio_feature_converter.py."""

import numpy as np
import pytest

from distill_jax.data import settings as settings_lib
from distill_jax.data import vocab
from distill_jax.data.feed import batch as batch_lib
from distill_jax.errors import UserError

pytestmark = pytest.mark.tf

tf = pytest.importorskip("tensorflow")
seqio = pytest.importorskip("seqio")

from distill_jax import tasks  # noqa: E402, F401  registers them
from distill_jax.data.tf import seqio_feature_converter  # noqa: E402

_LENGTHS = {"inputs": 64, "targets": 48}
_WORD_PROBLEMS = {
  "num_train_examples": 20,
  "num_validation_examples": 2,
  "num_test_examples": 2,
}


@pytest.fixture(autouse=True)
def fixture_settings():
  settings = settings_lib.DataSettings(word_problems=_WORD_PROBLEMS)
  settings_lib.use_settings(settings)
  yield settings
  settings_lib.use_settings(None)


def _read(converter_class, pack):
  dataset = seqio.get_dataset(
    "word_problems_distill",
    _LENGTHS,
    converter_class(pack=pack),
    dataset_split="train",
    shuffle=False,
  )
  return list(dataset.as_numpy_iterator())


def _convert(examples, lengths, **kwargs):
  """Converts [(inputs, targets)], lists of ids."""
  dataset = tf.data.Dataset.from_generator(
    lambda: ({"inputs": i, "targets": t} for i, t in examples),
    output_signature={
      "inputs": tf.TensorSpec([None], tf.int32),
      "targets": tf.TensorSpec([None], tf.int32),
    },
  )
  converter = seqio_feature_converter.DistillFeatureConverter(**kwargs)
  return list(converter(dataset, lengths).as_numpy_iterator())


@pytest.mark.parametrize("pack", [False, True])
def test_a_mixture_is_converted_as_by_seqio_with_task_ids_beside(pack):
  rows = _read(seqio_feature_converter.DistillFeatureConverter, pack)
  expected = _read(seqio.EncDecFeatureConverter, pack)
  assert len(rows) == len(expected) > 0
  for row, wanted in zip(rows, expected, strict=True):
    assert set(row) == {*wanted, "decoder_task_ids"}
    for key, value in wanted.items():
      np.testing.assert_array_equal(row[key], value, err_msg=key)
    assert row["decoder_task_ids"].dtype == np.int32


@pytest.mark.parametrize("pack", [False, True])
def test_each_segment_has_the_id_of_its_input(pack):
  vocabulary = vocab.load_vocabulary(None)
  counts = {1: 0, 2: 0}
  for row in _read(seqio_feature_converter.DistillFeatureConverter, pack):
    task_ids = row[batch_lib.DECODER_TASK_IDS]
    inputs = row[batch_lib.ENCODER_INPUT_TOKENS]
    targets = row[batch_lib.DECODER_TARGET_TOKENS]
    encoder_segments = row.get(batch_lib.ENCODER_SEGMENT_IDS, inputs > 0)
    decoder_segments = row.get(batch_lib.DECODER_SEGMENT_IDS, targets > 0)
    np.testing.assert_array_equal(task_ids > 0, targets > 0)
    for segment in range(1, int(decoder_segments.max()) + 1):
      (task_id,) = set(task_ids[decoder_segments == segment])
      text = vocabulary.decode(inputs[encoder_segments == segment])
      assert text.startswith({1: "predict: ", 2: "explain: "}[task_id])
      counts[task_id] += 1
  # A mixture ends where its first task does.
  assert min(counts.values()) > 5


def test_packed_by_hand():
  vocabulary = vocab.load_vocabulary(None)
  explain = [*vocabulary.encode("explain: 3"), 1]
  (row,) = _convert(
    [([*vocabulary.encode("2 + 3"), 1], [7, 8, 1]), (explain, [9, 1])],
    {"inputs": 40, "targets": 7},
    pack=True,
  )
  assert row["decoder_target_tokens"].tolist() == [7, 8, 1, 9, 1, 0, 0]
  assert row["decoder_task_ids"].tolist() == [1, 1, 1, 2, 2, 0, 0]
  assert row["decoder_segment_ids"].tolist() == [1, 1, 1, 2, 2, 0, 0]


@pytest.mark.parametrize("path", [None, "bytes"])
@pytest.mark.parametrize(
  "label_prefix,rationale_prefix",
  [("predict: ", "explain: "), ("", "why? "), ("[a]", "[ab]"), ("ab", "abc")],
)
def test_the_prefix_decides_whatever_follows(
  path, label_prefix, rationale_prefix
):
  settings = settings_lib.DataSettings(
    vocab_path=path,
    label_prefix=label_prefix,
    rationale_prefix=rationale_prefix,
  )
  settings_lib.use_settings(settings)
  vocabulary = vocab.load_vocabulary(path)
  find = seqio_feature_converter.make_task_id_fn(settings)
  for question in ("ava has 12 apples .", "x", "", "\U0001f600 5", "how?"):
    for prefix, task_id in ((label_prefix, 1), (rationale_prefix, 2)):
      ids = [*vocabulary.encode(prefix + question), vocab.EOS_ID]
      found = int(find(tf.constant(ids, tf.int32)))
      assert found == task_id, (prefix, question)


@pytest.mark.parametrize(
  "label_prefix,rationale_prefix",
  [("same: ", "same: "), ("predict: ", ""), ("abc", "ab")],
)
def test_prefixes_that_tell_nothing_apart(label_prefix, rationale_prefix):
  settings = settings_lib.DataSettings(
    label_prefix=label_prefix, rationale_prefix=rationale_prefix
  )
  with pytest.raises(UserError, match="RATIONALE_PREFIX is .* begins with too"):
    seqio_feature_converter.make_task_id_fn(settings)


def test_custom_packing_is_refused():
  with pytest.raises(UserError, match="use_custom_packing_ops is True"):
    seqio_feature_converter.DistillFeatureConverter(
      pack=True, use_custom_packing_ops=True
    )
