"""Decodes and scores the examples of a task with one set of parameters.

Layer 3; imports data.pipeline, decoding, training.step and text_metrics. Knows
no gin and writes no file.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from distill_jax.data import batch as batch_lib
from distill_jax.data import pipeline, task_kinds
from distill_jax.data.token_cache import Example, TaskInfo
from distill_jax.data.vocab import Vocabulary
from distill_jax.decoding.beam import beam_decode
from distill_jax.decoding.cache import start_decoding
from distill_jax.decoding.greedy import greedy_decode
from distill_jax.evaluation import text_metrics
from distill_jax.model.t5 import T5
from distill_jax.partitioning import sharding
from distill_jax.training.step import eval_step

PyTree = Any


class Evaluator:
  """Evaluates parameters of one model; compiles once for all its calls."""

  def __init__(
    self,
    model: T5,
    mesh: Mesh,
    vocabulary: Vocabulary,
    feature_lengths: Mapping[str, int],
    batch_rows: int,
    num_beams: int = 1,
  ):
    """Prepares the compiled functions.

    Args:
      model: a `model.t5.T5`.
      mesh: where the parameters lie.
      vocabulary: turns ids into text.
      feature_lengths: {'inputs': ..., 'targets': ...} tokens; predictions stop
        at the latter.
      batch_rows: rows a batch; made to divide among the devices.
      num_beams: 1 decodes greedily.
    """
    self._mesh, self._vocabulary = mesh, vocabulary
    self._feature_lengths = feature_lengths
    shards = sharding.count_batch_shards(mesh)
    self._batch_rows = -(-batch_rows // shards) * shards

    def decode(params, tokens, segment_ids):
      max_decode_length = feature_lengths["targets"]
      step_fn, cache = start_decoding(
        model, params, tokens, segment_ids, max_decode_length
      )
      arguments = {
        "batch_size": self._batch_rows,
        "max_decode_length": max_decode_length,
        "eos_id": vocabulary.eos_id,
      }
      if num_beams == 1:
        return greedy_decode(step_fn, cache, **arguments)
      tokens, _ = beam_decode(step_fn, cache, num_beams=num_beams, **arguments)
      return tokens[:, 0]

    # Whole on every host: each may read all predictions.
    everywhere = sharding.replicated(mesh)
    self._decode = jax.jit(decode, out_shardings=everywhere)
    self._score = jax.jit(
      lambda params, batch: eval_step(params, batch, model=model),
      out_shardings=everywhere,
    )

  def predict(
    self, params: PyTree, examples: Sequence[Example], info: TaskInfo
  ) -> list[str]:
    """Decodes a prediction for each example.

    Args:
      params: of the model.
      examples: of one task; only their inputs are read.
      info: the task.

    Returns:
      One text an example, in order.
    """
    predictions = []
    for batch, rows in self._batches(examples, info):
      device_batch = sharding.to_global(batch, self._mesh)
      tokens = self._decode(
        params,
        device_batch[batch_lib.ENCODER_INPUT_TOKENS],
        device_batch[batch_lib.ENCODER_SEGMENT_IDS],
      )
      predictions += [
        self._vocabulary.decode(ids.tolist())
        for ids in np.asarray(tokens)[: len(rows)]
      ]
    return predictions

  def score(
    self, params: PyTree, examples: Sequence[Example], info: TaskInfo
  ) -> dict[str, float]:
    """Computes the mean loss of the targets.

    Args:
      params: of the model.
      examples: of one task.
      info: the task.

    Returns:
      `loss` (nats a token), `perplexity` and `num_tokens`.
    """
    loss_sum = num_tokens = 0.0
    for batch, rows in self._batches(examples, info):
      sums, counts = self._score(params, sharding.to_global(batch, self._mesh))
      loss_sum += float(np.sum(np.asarray(sums)[: len(rows)], dtype=np.float64))
      num_tokens += float(np.sum(np.asarray(counts)[: len(rows)]))
    return {
      "loss": loss_sum / max(num_tokens, 1.0),
      "perplexity": text_metrics.perplexity(loss_sum, num_tokens),
      "num_tokens": num_tokens,
    }

  def evaluate(
    self, params: PyTree, examples: Sequence[Example], info: TaskInfo
  ) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Scores and decodes, and compares predictions with targets.

    Args:
      params: of the model.
      examples: of one task and split.
      info: the task.

    Returns:
      Metrics (numbers; with `classes` for a closed label set), and one row an
      example: `id`, `input`, `target`, `prediction`, and for labels `correct`.
      Both texts are decoded from ids, so both are normalized alike.
    """
    metrics: dict[str, Any] = self.score(params, examples, info)
    predictions = self.predict(params, examples, info)
    targets = [
      self._vocabulary.decode(example.targets.tolist()) for example in examples
    ]
    rows: list[dict[str, Any]] = [
      {
        "id": example.id,
        "input": example.inputs_text,
        "target": target,
        "prediction": prediction,
      }
      for example, target, prediction in zip(
        examples, targets, predictions, strict=True
      )
    ]
    if info.kind == "rationale":
      return metrics | text_metrics.rationale_metrics(
        predictions, targets
      ), rows
    if info.kind == "joint":
      targets = [task_kinds.extract_label(text) for text in targets]
      predictions = [task_kinds.extract_label(text) for text in predictions]
    metrics |= text_metrics.label_metrics(
      predictions, targets, info.metric, info.label_set
    )
    if info.label_set is not None:
      metrics["classes"] = text_metrics.classification_metrics(
        predictions, targets, info.label_set
      )
    for row, prediction, target in zip(rows, predictions, targets, strict=True):
      row["correct"] = text_metrics.is_correct(prediction, target, info.metric)
    return metrics, rows

  def _batches(self, examples, info):
    return pipeline.make_eval_batches(
      examples, info, self._feature_lengths, self._batch_rows
    )
