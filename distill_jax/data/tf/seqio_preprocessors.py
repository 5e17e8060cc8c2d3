"""SeqIO preprocessors: record -> prefixed text -> tokens.

The TensorFlow side of the data boundary; imports data.settings,
data.task_kinds. `tasks/` composes them.
"""

from collections.abc import Mapping
from typing import Any

import tensorflow as tf

from distill_jax.data import settings as settings_lib
from distill_jax.data import task_kinds

# Stands between premise and hypothesis in the official NLI inputs.
_EOS_TEXT = "</s>"


def make_inputs_and_targets(
  dataset: tf.data.Dataset, kind: task_kinds.TaskKind
) -> tf.data.Dataset:
  """Prefixes the input and builds the target of one kind of task.

  Rows without the field that the target needs are left out.

  Args:
    dataset: elements of `seqio_source.make_record_source`.
    kind: which prefix and which fields.

  Returns:
    Elements of scalar strings `id`, `inputs`, `targets`, and `loss_weight`,
    float32.
  """
  settings = settings_lib.current_settings()
  prefix = settings_lib.get_prefix(kind, settings)
  marker = task_kinds.JOINT_MARKERS.get(kind.target, "")

  def has_target(record):
    return tf.reduce_all([record[f"has_{field}"] for field in kind.target])

  def to_text(record):
    return {
      "id": record["id"],
      "inputs": prefix + record["input"],
      "targets": tf.strings.join(
        [record[field] for field in kind.target], separator=marker
      ),
      "loss_weight": record["weight"],
    }

  return dataset.filter(has_target).map(to_text)


def tokenize(
  dataset: tf.data.Dataset, output_features: Mapping[str, Any]
) -> tf.data.Dataset:
  """Tokenizes; a literal "</s>" in the inputs becomes the single id of EOS.

  That is what Hugging Face's T5 tokenizer does with the official NLI inputs,
  premise + "</s>" + hypothesis.

  Args:
    dataset: elements with scalar strings `inputs` and `targets`.
    output_features: their SeqIO features.

  Returns:
    The elements with `inputs` and `targets` as [length] int32 ids without a
    final EOS, and the text as `inputs_pretokenized`, `targets_pretokenized`.
  """
  inputs_vocabulary = output_features["inputs"].vocabulary
  targets_vocabulary = output_features["targets"].vocabulary

  def encode_piece(text):
    ids = tf.cast(inputs_vocabulary.encode_tf(text), tf.int32)
    return tf.concat([ids, [inputs_vocabulary.eos_id]], axis=0)

  def encode_inputs(text):
    # Piece by piece: SeqIO's byte vocabulary pads when given several.
    pieces = tf.map_fn(
      encode_piece,
      tf.strings.split(text, _EOS_TEXT),
      fn_output_signature=tf.RaggedTensorSpec([None], tf.int32),
    )
    return pieces.flat_values[:-1]

  def encode(example):
    return {
      **example,
      "inputs": encode_inputs(example["inputs"]),
      "targets": tf.cast(
        targets_vocabulary.encode_tf(example["targets"]), tf.int32
      ),
      "inputs_pretokenized": example["inputs"],
      "targets_pretokenized": example["targets"],
    }

  return dataset.map(encode)
