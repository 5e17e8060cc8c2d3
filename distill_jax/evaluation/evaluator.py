"""Decodes and scores the examples of a task with one set of parameters.

Knows no gin and writes no file.
"""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import jax
import numpy as np
from flax import linen as nn
from jax.sharding import Mesh

from distill_jax.answers import text_metrics
from distill_jax.data import task_kinds
from distill_jax.data.feed import batch as batch_lib
from distill_jax.data.feed import pipeline
from distill_jax.data.label_reader import LabelReader
from distill_jax.data.token_cache import Example, TaskInfo
from distill_jax.data.vocab import Vocabulary
from distill_jax.decoding import layout as layout_lib
from distill_jax.decoding.cache import start_decoding
from distill_jax.decoding.strategy import DecodingConfig, decode
from distill_jax.evaluation import length_buckets
from distill_jax.model import registry
from distill_jax.partitioning import sharding
from distill_jax.training import seeded_program
from distill_jax.training import state as state_lib
from distill_jax.training.step import eval_step

PyTree = Any
_ROW_IDS = "row_ids"
# Lengths found in the data are rounded up to so many tokens: tasks and splits
# share a program.
_LENGTH_STEP = 8
# Behind a label that was cut, so that none is right by what it does not say.
CUT_MARK = " \N{HORIZONTAL ELLIPSIS}"
# Floats of the logits in memory at once when targets are scored: 256 MiB.
_MAX_LOGITS = 2**26


class Decoded(NamedTuple):
  """One decoded text.

  Attributes:
    text: up to the end token, or all there is.
    finish_reason: "stop" where the model ended it, "length" where the limit
      did.
  """

  text: str
  finish_reason: Literal["stop", "length"]


class Evaluator:
  """Evaluates parameters of one model.

  Examples go together with others of like length, see `length_buckets`: each
  method compiles a few shapes, and later calls find them compiled. Results come
  in the order of the examples and do not depend on it.
  """

  def __init__(
    self,
    model: nn.Module,
    mesh: Mesh,
    vocabulary: Vocabulary,
    feature_lengths: Mapping[str, int],
    batch_rows: int,
    decoding: DecodingConfig | None = None,
    decode_layout: str = layout_lib.AUTO,
    num_row_buckets: int = length_buckets.NUM_BUCKETS,
  ):
    """Prepares the compiled functions.

    Args:
      model: a family's, see `model.registry`.
      mesh: where the parameters lie.
      vocabulary: turns ids into text.
      feature_lengths: {'inputs': ..., 'targets': ...} tokens of a row.
      batch_rows: rows a batch; made to divide among the devices.
      decoding: how tokens are chosen; None: greedily.
      decode_layout: where the decoder's parameters lie meanwhile, one of
        `decoding.layout.LAYOUTS`.
      num_row_buckets: numbers of rows that a batch which is not full may have,
        at most; see `length_buckets`.

    Raises:
      UserError: they cannot be laid out so.
    """
    self._mesh, self._vocabulary = mesh, vocabulary
    self._feature_lengths = feature_lengths
    self._layout = registry.find(model.config).layout
    shards = sharding.count_batch_shards(mesh)
    self._batch_rows = -(-batch_rows // shards) * shards
    self._row_step, self._num_row_buckets = shards, num_row_buckets
    config = decoding or DecodingConfig()
    self._may_cut = (
      config.max_decode_length is None and config.strategy != "beam"
    )
    self._max_decode_length = (
      config.max_decode_length or feature_lengths["targets"]
    )
    chunk_tokens = max(1, _MAX_LOGITS // model.config.vocab_size)
    layout = layout_lib.make_layout(
      decode_layout,
      model,
      mesh,
      layout_lib.find_memory(mesh),
      state_lib.abstract_params,
    )
    self._decoder_params = layout_lib.DecoderParams(layout)

    self._decode = _jit_decoding(
      model, layout.model, mesh, config, vocabulary.eos_id
    )
    self._score = _jit_scoring(model, mesh, chunk_tokens)

  def release_copies(self) -> None:
    """Frees what decoding keeps of the last parameters, laid out for it."""
    self._decoder_params.release()

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
    samples = self.predict_samples(params, examples, info)
    return [texts[0].text for texts in samples]

  def predict_samples(
    self,
    params: PyTree,
    examples: Sequence[Example],
    info: TaskInfo,
    first_row: int = 0,
    max_decode_length: int | None = None,
  ) -> list[list[Decoded]]:
    """Decodes `num_samples` predictions for each example.

    Args:
      params: of the model.
      examples: of one task; only their inputs are read.
      info: the task.
      first_row: number of the first example among all that are predicted, in
        however many calls; samples are drawn by it.
      max_decode_length: tokens at most, where these are less than those of the
        configuration: a text that has not ended by then gets `CUT_MARK`.

    Returns:
      For each example its texts, in order.
    """
    length = min(
      self._max_decode_length, max_decode_length or self._max_decode_length
    )
    mark = CUT_MARK if length < self._max_decode_length else ""
    predictions: list[list[Decoded]] = [[] for _ in examples]
    # A row of one target token: where the first one decoded will stand.
    end = np.asarray([self._vocabulary.eos_id], np.int32)
    inputs = [dataclasses.replace(example, targets=end) for example in examples]
    for batch, rows, indices in self._batches(inputs, info):
      row_ids = np.asarray(rows, np.int32) + first_row
      device_batch = sharding.to_global(batch | {_ROW_IDS: row_ids}, self._mesh)
      tokens = self._decode(
        params,
        self._decoder_params.get(params),
        self._layout.select_inputs(device_batch),
        device_batch[_ROW_IDS],
        length,
      )  # [batch, samples, length]
      for index, samples in zip(
        indices, jax.device_get(tokens).tolist(), strict=False
      ):
        predictions[index] = [self._read_decoded(ids, mark) for ids in samples]
    return predictions

  def _read_decoded(self, ids: list[int], mark: str) -> Decoded:
    text = self._vocabulary.decode(ids)
    if self._vocabulary.eos_id in ids:
      return Decoded(text, "stop")
    return Decoded(text + mark, "length")

  def compute_log_likelihoods(
    self,
    params: PyTree,
    examples: Sequence[Example],
    info: TaskInfo,
    target_length: int | None = None,
  ) -> tuple[np.ndarray, np.ndarray]:
    """Scores each example's target, given its input.

    Args:
      params: of the model.
      examples: of one task.
      info: the task.
      target_length: tokens of a row, longer targets are trimmed; None: as in
        training.

    Returns:
      Natural log of the target's probability, the sum over its tokens with
      EOS, and the number of those tokens: [num_examples] float64 and int64.
    """
    limit = target_length or self._feature_lengths["targets"]
    longest = max((len(example.targets) for example in examples), default=1)
    length = length_buckets.round_up_length(min(longest, limit), limit)
    log_likelihoods = np.zeros(len(examples))
    counts = np.zeros(len(examples), np.int64)
    for batch, _, indices in self._batches(examples, info, length):
      batch_sums, batch_counts = self._score(
        params, sharding.to_global(batch, self._mesh)
      )  # [batch] each
      log_likelihoods[indices] = -jax.device_get(batch_sums)[: len(indices)]
      counts[indices] = jax.device_get(batch_counts)[: len(indices)]
    return log_likelihoods, counts

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
    log_likelihoods, counts = self.compute_log_likelihoods(
      params, examples, info
    )
    loss_sum = -float(np.sum(log_likelihoods))
    num_tokens = float(np.sum(counts))
    return {
      "loss": loss_sum / max(num_tokens, 1.0),
      "perplexity": text_metrics.perplexity(loss_sum, num_tokens),
      "num_tokens": num_tokens,
    }

  def rank_choices(
    self,
    params: PyTree,
    examples: Sequence[Example],
    info: TaskInfo,
    choices: Sequence[Sequence[str]],
  ) -> list[list[float]]:
    """Scores every answer that each example chooses from.

    Each choice is a row of its own, all of them batched together and as long
    as the longest, so none is trimmed.

    Args:
      params: of the model.
      examples: of one task; only their inputs are read.
      info: the task.
      choices: the answers of each example.

    Returns:
      Log-likelihood of each choice as a target, EOS included: the sum over its
      tokens, not divided by their number.
    """
    rows = [
      dataclasses.replace(example, targets=self._encode_target(choice))
      for example, answers in zip(examples, choices, strict=True)
      for choice in answers
    ]
    longest = max((len(row.targets) for row in rows), default=1)
    scores, _ = self.compute_log_likelihoods(
      params, rows, info, _round_up(longest)
    )
    remaining = iter(scores.tolist())
    return [[next(remaining) for _ in answers] for answers in choices]

  def evaluate(
    self,
    params: PyTree,
    examples: Sequence[Example],
    info: TaskInfo,
    choices: Sequence[Sequence[str]] | None = None,
  ) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Scores and predicts, and compares predictions with targets.

    Args:
      params: of the model.
      examples: of one task and split.
      info: the task.
      choices: the answers each example chooses from, for label tasks: the
        prediction is then the likeliest of them, of equals the first ("rank
        classification"). None: predictions are decoded.

    Returns:
      Metrics (numbers and names of tokenizers; with `classes` for a closed
      label set), and one row an example: `id`, `input`, `target`, `prediction`,
      for labels `correct` (None where the gold label is no answer of the task),
      for decoded ones `finish_reason`, see `Decoded`, and for ranked ones
      `choices` and `choice_log_likelihoods`, see `rank_choices`. Targets and
      choices are the data set's own text; they are compared with what was
      decoded as `LabelReader` reads them. A label longer than any of the
      task's, but for a few tokens, is cut and ends in `CUT_MARK`: it is wrong,
      and no equation. The spans of "span_corruption" are scored and not
      decoded: their `prediction` is None.
    """
    metrics: dict[str, Any] = self.score(params, examples, info)
    if info.kind == "span_corruption":
      # The loss is all that is asked of spans.
      return metrics, [
        {
          "id": example.id,
          "input": example.inputs_text,
          "target": example.targets_text,
          "prediction": None,
        }
        for example in examples
      ]
    ranked: list[dict[str, Any]] = [{} for _ in examples]
    if choices is None:
      samples = self.predict_samples(
        params,
        examples,
        info,
        max_decode_length=self._find_longest_label(info),
      )
      predictions = [texts[0].text for texts in samples]
      ranked = [{"finish_reason": texts[0].finish_reason} for texts in samples]
    else:
      predictions = []
      scores = self.rank_choices(params, examples, info, choices)
      for row, answers, row_scores in zip(ranked, choices, scores, strict=True):
        row |= {
          "choices": list(answers),
          "choice_log_likelihoods": row_scores,
        }
        predictions.append(answers[int(np.argmax(row_scores))])
    targets = [
      self._vocabulary.restore_text(example.targets, example.targets_text)
      for example in examples
    ]
    rows: list[dict[str, Any]] = [
      {
        "id": example.id,
        "input": example.inputs_text,
        "target": target,
        "prediction": prediction,
        **ranking,
      }
      for example, target, prediction, ranking in zip(
        examples, targets, predictions, ranked, strict=True
      )
    ]
    if info.kind == "rationale":
      # What was decoded is normalized.
      normalized = [self._vocabulary.normalize(target) for target in targets]
      return metrics | text_metrics.rationale_metrics(
        predictions, normalized
      ), rows
    labels = LabelReader(info.metric, info.label_set, self._vocabulary)
    gold = [
      labels.read(task_kinds.extract_label(target, info.target))
      for target in targets
    ]
    if choices is None:
      predicted = [
        labels.read_prediction(task_kinds.extract_label(text, info.target))
        for text in predictions
      ]
    else:
      predicted = [
        labels.read_choice(text, answers)
        for text, answers in zip(predictions, choices, strict=True)
      ]
    metrics |= text_metrics.label_metrics(predicted, gold)
    known = [index for index, key in enumerate(gold) if key is not None]
    if info.label_set is not None and known:
      metrics["classes"] = text_metrics.classification_metrics(
        [predicted[index] for index in known],
        [gold[index] for index in known],
        info.label_set,
      )
    verdicts = text_metrics.judge_labels(predicted, gold)
    for row, verdict in zip(rows, verdicts, strict=True):
      row["correct"] = verdict
    return metrics, rows

  def _encode_target(self, text: str) -> np.ndarray:
    ids = [*self._vocabulary.encode(text), self._vocabulary.eos_id]
    return np.asarray(ids, np.int32)

  def _find_longest_label(self, info: TaskInfo) -> int | None:
    """Returns how long a label can be, at least; None where any may be right.

    What is cut from a greedy decoding or a sample changes no token before it;
    in a beam search it would.
    """
    longest = info.find_longest("targets")
    if info.kind != "label" or not longest or not self._may_cut:
      return None
    return _round_up(longest)

  def _batches(
    self, examples: Sequence[Example], info: TaskInfo, target_length: int = 1
  ) -> Iterator[tuple[batch_lib.Batch, list[int], list[int]]]:
    """Yields batches with the numbers of their examples, by rows and in all.

    Rows that are left over repeat the last example, so that decoding ends when
    the examples do.
    """
    longest = self._feature_lengths["inputs"]
    batches = length_buckets.plan_batches(
      [min(len(example.inputs), longest) for example in examples],
      longest,
      self._batch_rows,
      self._row_step,
      self._num_row_buckets,
    )
    for indices, num_rows, length in batches:
      rows = indices + indices[-1:] * (num_rows - len(indices))
      ((batch, _),) = pipeline.make_eval_batches(
        [examples[index] for index in rows],
        info,
        {"inputs": length, "targets": target_length},
        num_rows,
        self._layout,
      )
      yield batch, rows, indices


@seeded_program.keep_compiled
def _jit_decoding(
  model: nn.Module,
  decoder: nn.Module,
  mesh: Mesh,
  config: DecodingConfig,
  eos_id: int,
) -> Any:
  """Returns decoding, one function for all evaluators that do the same."""

  def run_decoding(params, decoder_params, inputs, row_ids, max_decode_length):
    step_fn, cache = start_decoding(
      model,
      params,
      inputs,
      max_decode_length,
      decoder,
      decoder_params,
    )
    return decode(
      config,
      step_fn,
      cache,
      row_ids,
      max_decode_length=max_decode_length,
      eos_id=eos_id,
    )

  # Whole on every host: each may read all predictions.
  return jax.jit(
    run_decoding, static_argnums=4, out_shardings=sharding.replicated(mesh)
  )


@seeded_program.keep_compiled
def _jit_scoring(model: nn.Module, mesh: Mesh, chunk_tokens: int) -> Any:
  """Returns the jitted scoring of targets, replicated over the mesh."""

  def score_targets(params, batch):
    return eval_step(params, batch, model=model, loss_chunk_tokens=chunk_tokens)

  return jax.jit(score_targets, out_shardings=sharding.replicated(mesh))


def _round_up(length: int) -> int:
  return -(-length // _LENGTH_STEP) * _LENGTH_STEP
