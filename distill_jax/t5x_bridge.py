"""The paper's objective in upstream T5X: a model, a trainer, its data settings.

Nothing else in the project imports it: T5X is in no package index, so it is no
dependency. gin/t5x/finetune_distill.gin binds what is here:

  python -m t5x.main --run_mode=train --gin_file=gin/t5x/t5_1_1_tiny.gin
    --gin_file=gin/t5x/finetune_distill.gin ...
"""

import functools
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array

from distill_jax.data import settings as settings_lib
from distill_jax.data.feed import batch as batch_lib
from distill_jax.data.tf import seqio_feature_converter, seqio_source
from distill_jax.errors import UserError
from distill_jax.objective import objective as objective_lib

try:
  # Not installed where pyright runs.
  from t5x import decoding, models, trainer  # pyright: ignore[reportMissingImports]
  from t5x import metrics as t5x_metrics  # pyright: ignore[reportMissingImports]
except ImportError as error:
  raise ImportError(
    "distill_jax.t5x_bridge runs inside T5X, which cannot be imported:"
    f" {error}. T5X is in no package index: install it from"
    " https://github.com/google-research/t5x together with its airio and"
    " jestimator, and pip install 'distill_jax[t5x]' for the rest. To train"
    " without T5X, use distill-jax."
  ) from error

_COUNT_SUFFIX = "_token_count"


class DistillModel(models.EncoderDecoderModel):
  """T5X's encoder-decoder with the objective of `distill`.

  Where T5X sums a loss over tokens, this takes the mean over the tokens of each
  term. A batch's label and rationale rows need not be of the same examples:
  T5X draws them by mixture rate.
  """

  FEATURE_CONVERTER_CLS = seqio_feature_converter.DistillFeatureConverter

  def __init__(
    self,
    module: Any,
    input_vocabulary: Any,
    output_vocabulary: Any,
    optimizer_def: Any,
    objective: objective_lib.Objective | None = None,
    label_smoothing: float = 0.0,
    loss_normalizing_factor: float | str | None = None,
    decode_fn: Any = decoding.beam_search,
    default_decoder_params: models.DecoderParams | None = None,
  ):
    """Makes the model.

    Args:
      module: a T5X network, e.g. `t5x.examples.t5.network.Transformer`.
      input_vocabulary: a SeqIO vocabulary; see `configure_data`.
      output_vocabulary: as above.
      optimizer_def: T5X's optimizer.
      objective: terms of the loss; None: the paper's.
      label_smoothing: 0; the paper's objective has none.
      loss_normalizing_factor: None; each term is divided by its own tokens.
      decode_fn: for predictions.
      default_decoder_params: as above.

    Raises:
      UserError: one of the two settings that T5X's loss has and this has not;
        or the network has fewer rows than the vocabulary ids.
    """
    if label_smoothing or loss_normalizing_factor is not None:
      raise UserError(
        f"LABEL_SMOOTHING is {label_smoothing} and LOSS_NORMALIZING_FACTOR is"
        f" {loss_normalizing_factor}; the objective of distilling step by step"
        " has neither: each term is a mean over its own tokens. Leave them 0.0"
        " and None."
      )
    vocab_size = getattr(getattr(module, "config", None), "vocab_size", None)
    if vocab_size is not None and vocab_size < input_vocabulary.vocab_size:
      raise UserError(
        f"The network has vocab_size {vocab_size}, the vocabulary"
        f" {input_vocabulary.vocab_size} ids. Bind VOCAB_PATH to the network's"
        " own vocabulary, or network.T5Config.vocab_size to that many or more."
      )
    self.objective = objective or objective_lib.Objective()
    if any(callable(term.weight) for term in self.objective.terms):
      raise UserError(
        "OBJECTIVE_TERMS has a weight that is a schedule, and T5X tells its"
        " model no step. Give a number."
      )
    super().__init__(
      module=module,
      input_vocabulary=input_vocabulary,
      output_vocabulary=output_vocabulary,
      optimizer_def=optimizer_def,
      decode_fn=decode_fn,
      z_loss=0.0,
      default_decoder_params=default_decoder_params,
    )

  def loss_fn(
    self,
    params: Any,
    batch: Mapping[str, Array],
    dropout_rng: Array | None,
  ) -> tuple[Array, dict[str, Any]]:
    """Computes the loss of a batch, or of a micro-batch.

    Args:
      params: the network's parameters.
      batch: keys of `data.feed.batch`, [batch, length]; segment ids and
        positions only where it is packed. With the counts of
        `add_token_counts` it is a part of a larger batch, whose parts' losses
        sum to its loss.
      dropout_rng: key; None: no dropout.

    Returns:
      The loss, float32 scalar, and T5X's metrics. Of these `loss`, `z_loss` and
      `cross_ent_loss` are terms of this objective, `label_loss` and
      `rationale_loss` its mean cross-entropies; those per token are T5X's.
    """
    logits = self._compute_logits(params, batch, dropout_rng)
    logits = logits.astype(jnp.float32)  # [batch, length, vocab]
    weights = batch[batch_lib.DECODER_LOSS_WEIGHTS].astype(jnp.float32)
    batch = {**batch, batch_lib.DECODER_LOSS_WEIGHTS: weights}
    objective = self.objective
    own_counts = objective_lib.count_tokens(batch, objective)
    counts = {
      name: batch[name + _COUNT_SUFFIX][0]
      if name + _COUNT_SUFFIX in batch
      else count
      for name, count in own_counts.items()
    }
    # T5X gives no step: a weight that changes with it is refused above.
    term_weights = objective.find_weights(0)
    scored = (logits, _keep, batch)
    loss, parts = objective_lib.compute_loss(
      *scored, counts, objective, term_weights
    )
    # T5X's metrics per token divide sums over all tokens, whatever their task.
    cross_entropies, _ = objective_lib.score_targets(*scored)
    z_loss = parts.get("z_loss", jnp.zeros(()))
    z_loss_sum = z_loss * jnp.maximum(counts.get("z", jnp.zeros(())), 1)
    metrics = self._compute_metrics(
      logits=logits,
      targets=batch[batch_lib.DECODER_TARGET_TOKENS],
      mask=weights,
      loss=jnp.sum(cross_entropies) + z_loss_sum,
      z_loss=z_loss_sum,
      segment_ids=_find_segments(batch),
    )
    terms = {
      **parts,
      "cross_ent_loss": loss - z_loss,
    }
    for term in objective.terms:
      name = term.name
      terms |= term.name_count(own_counts[name], term_weights[name])
    metrics |= {
      name: t5x_metrics.AveragePerStep(total=value)
      for name, value in terms.items()
    }
    return loss, metrics


class DistillTrainer(trainer.Trainer):
  """T5X's trainer, exact for micro-batches of unequal numbers of tokens.

  T5X sums what the model returns for each micro-batch. That is right for its
  own loss, a sum; a mean over a micro-batch's tokens would count the tokens of
  short ones more. So each micro-batch is told the tokens of the whole batch.
  """

  @functools.cached_property
  def _partitioned_train_step(self):
    data_spec = self._partitioner.data_partition_spec

    def train_step(train_state, batch):
      return trainer.train_with_lr(
        train_state,
        add_token_counts(batch, self._model.objective),
        learning_rate=self._learning_rate_fn(train_state.step),
        dropout_rng=self._get_step_rng(train_state.step),
        model=self._model,
        num_microbatches=self._num_microbatches,
        weight_metrics_computer=self._weight_metrics_computer,
        data_partition_spec=data_spec,
      )

    return self._partitioner.partition(
      train_step,
      in_axis_resources=(self._train_state_axes, data_spec),
      out_axis_resources=(self._train_state_axes, None),
      donate_argnums=(0,),
    )


def _keep(logits: Array) -> Array:
  return logits


def add_token_counts(
  batch: Mapping[str, Array], objective: objective_lib.Objective
) -> dict[str, Array]:
  """Writes each term's number of tokens into every row of a batch.

  Args:
    batch: `decoder_loss_weights` and `decoder_task_ids`, [batch, length].
    objective: whose terms.

  Returns:
    The batch, and `<term>_token_count`, [batch] float32: rows can then be cut
    off with them.
  """
  weights = batch[batch_lib.DECODER_LOSS_WEIGHTS].astype(jnp.float32)
  counts = objective_lib.count_tokens(
    {**batch, batch_lib.DECODER_LOSS_WEIGHTS: weights}, objective
  )
  return {
    **batch,
    **{
      name + _COUNT_SUFFIX: jnp.full(len(weights), count)
      for name, count in counts.items()
    },
  }


def configure_data(
  settings: settings_lib.DataSettings,
) -> seqio_source.ConfiguredVocabulary:
  """Makes `settings` what every task reads; returns the tasks' vocabulary.

  T5X has no hook before it reads data, but it makes the model first, and the
  model needs the vocabulary. So gin binds VOCABULARY to this.

  Args:
    settings: data folder, vocabulary, prefixes and the rest.

  Returns:
    A SeqIO vocabulary, equal to that of the tasks.
  """
  settings_lib.use_settings(settings)
  return seqio_source.ConfiguredVocabulary()


def _find_segments(batch):
  """Segment ids of each side; without packing, 1 where there is a token."""
  sides = (
    ("encoder", batch_lib.ENCODER_SEGMENT_IDS, batch_lib.ENCODER_INPUT_TOKENS),
    ("decoder", batch_lib.DECODER_SEGMENT_IDS, batch_lib.DECODER_TARGET_TOKENS),
  )
  return {
    side: batch[ids] if ids in batch else (batch[tokens] > 0).astype(jnp.int32)
    for side, ids, tokens in sides
  }
