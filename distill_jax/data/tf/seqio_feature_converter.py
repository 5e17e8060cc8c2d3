"""SeqIO examples -> batches that say which loss each token counts in.

The TensorFlow side of the data boundary. For trainers that read SeqIO directly,
as T5X does; our own reads the token cache, which knows each example's task.

A mixture hands a feature converter nothing but `inputs` and `targets`, and
SeqIO refuses pass-through features when packing. So the kind of an example is
read off its input, which begins with the settings' prefix, before packing.
"""

from collections.abc import Mapping
from typing import Any

import seqio
import tensorflow as tf

from distill_jax.data import settings as settings_lib
from distill_jax.data.feed import batch as batch_lib
from distill_jax.data.tf import seqio_source
from distill_jax.errors import UserError

_TASK_IDS = "task_ids"


class DistillFeatureConverter(seqio.EncDecFeatureConverter):
  """SeqIO's converter for encoder-decoders, with `decoder_task_ids` beside.

  An input that begins with the rationale prefix makes a rationale row, every
  other a label row; a joint target counts as label, as everywhere. A question
  of a task without prefix must not begin so itself. Packing by TensorFlow is
  supported, by tensor2tensor's custom operations is not.
  """

  MODEL_FEATURES = {
    **seqio.EncDecFeatureConverter.MODEL_FEATURES,
    batch_lib.DECODER_TASK_IDS: seqio.FeatureConverter.FeatureSpec(
      dtype=tf.int32
    ),
  }

  def __init__(self, **kwargs):
    """Makes the converter.

    Args:
      **kwargs: those of `seqio.FeatureConverter`.

    Raises:
      UserError: custom packing operations were asked for.
    """
    if kwargs.get("use_custom_packing_ops"):
      raise UserError(
        "use_custom_packing_ops is True; tensor2tensor's operations pack"
        " inputs and targets only, and the task ids would be lost. Leave it"
        " False."
      )
    super().__init__(**kwargs)

  def _convert_features(
    self, ds: tf.data.Dataset, task_feature_lengths: Mapping[str, int]
  ) -> tf.data.Dataset:
    """Adds task ids to each example, then packs or pads, then converts."""
    find_task_id = make_task_id_fn(settings_lib.current_settings())

    def add_task_ids(example):
      task_id = find_task_id(example["inputs"])
      task_ids = tf.ones_like(example["targets"]) * task_id
      return {**example, _TASK_IDS: task_ids}

    lengths = {
      **task_feature_lengths,
      _TASK_IDS: task_feature_lengths["targets"],
    }
    return self._pack_or_pad(ds.map(add_task_ids), lengths).map(
      self._convert_example, num_parallel_calls=tf.data.AUTOTUNE
    )

  def _convert_example(self, features: Mapping[str, Any]) -> dict[str, Any]:
    return {
      **super()._convert_example(features),
      batch_lib.DECODER_TASK_IDS: features[_TASK_IDS],
    }

  def get_model_feature_lengths(
    self, task_feature_lengths: Mapping[str, int]
  ) -> dict[str, int]:
    """Returns the length of each model feature, in tokens.

    Args:
      task_feature_lengths: {'inputs': ..., 'targets': ...}.
    """
    return {
      **super().get_model_feature_lengths(task_feature_lengths),
      batch_lib.DECODER_TASK_IDS: task_feature_lengths["targets"],
    }


def make_task_id_fn(settings: settings_lib.DataSettings):
  """Returns a function that tells label inputs from rationale inputs.

  Texts are compared, not ids: the vocabulary may merge the end of a prefix with
  what follows it.

  Args:
    settings: prefixes and vocabulary.

  Returns:
    [length] int32 ids of an input -> `LABEL_TASK_ID` or `RATIONALE_TASK_ID`,
    int32 scalar, in TensorFlow.

  Raises:
    UserError: the prefixes do not tell the two apart.
  """
  vocabulary = seqio_source.ConfiguredVocabulary()
  label, rationale = (
    _normalize(vocabulary, prefix)
    for prefix in (settings.label_prefix, settings.rationale_prefix)
  )
  if label.startswith(rationale):
    raise UserError(
      f"RATIONALE_PREFIX is {settings.rationale_prefix!r}, which every input"
      f" after LABEL_PREFIX {settings.label_prefix!r} begins with too. Here a"
      " rationale row is known by its prefix: give one that label rows do not"
      " begin with, e.g. 'explain: '."
    )
  # Each id stands for at least a byte, but for sentencepiece's first space.
  num_ids = len(rationale.encode()) + 1

  def find_task_id(ids):
    text = vocabulary.decode_tf(ids[:num_ids])
    start = tf.strings.substr(text, 0, len(rationale.encode()))
    return tf.where(
      tf.equal(start, rationale),
      tf.constant(batch_lib.RATIONALE_TASK_ID),
      tf.constant(batch_lib.LABEL_TASK_ID),
    )

  return find_task_id


def _normalize(vocabulary: seqio.Vocabulary, prefix: str) -> str:
  """Returns the prefix as it comes back out of the vocabulary."""
  return vocabulary.decode(vocabulary.encode(prefix)).strip()
