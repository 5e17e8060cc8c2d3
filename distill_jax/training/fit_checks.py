"""Settings that must fit each other: vocabulary, model, rows, mesh, lengths."""

import logging
from collections.abc import Mapping

from jax.sharding import Mesh

from distill_jax.data import vocab
from distill_jax.data.feed import pipeline
from distill_jax.data.token_cache import TokenCache
from distill_jax.errors import UserError
from distill_jax.model.config import ModelConfig
from distill_jax.partitioning import sharding

_log = logging.getLogger(__name__)


def check_vocabulary(vocabulary: vocab.Vocabulary, config: ModelConfig) -> None:
  """Refuses a vocabulary with more ids than the model has embeddings.

  Args:
    vocabulary: of the token cache.
    config: of the model.

  Raises:
    UserError: names both sizes.
  """
  if vocabulary.size > config.vocab_size:
    raise UserError(
      f"The vocabulary has {vocabulary.size} ids, but the model embeds only"
      f" {config.vocab_size}. Give --gin.VOCAB_SIZE={vocabulary.size} or more,"
      " or the vocabulary that belongs to the model (VOCAB_PATH)."
    )


def check_sentinels(
  cache: TokenCache, vocabulary: vocab.Vocabulary, config: ModelConfig
) -> None:
  """Refuses span corruption whose sentinels the model does not embed.

  Args:
    cache: what is trained or evaluated on.
    vocabulary: of the token cache.
    config: of the model.

  Raises:
    UserError: names the size that would do.
  """
  needed = max(vocabulary.sentinel_ids, default=0) + 1
  for name, info in cache.tasks.items():
    if info.kind == "span_corruption" and needed > config.vocab_size:
      raise UserError(
        f"{name} marks dropped spans by ids up to {needed - 1}, but the model"
        f" embeds only {config.vocab_size} ids. Give --gin.VOCAB_SIZE={needed}"
        " or more, and the same to the runs that start from this one."
      )


def check_rows(
  feed: pipeline.FeedConfig, num_microbatches: int, mesh: Mesh
) -> None:
  """Refuses rows that do not divide among devices and micro-batches.

  Args:
    feed: has the rows of a batch.
    num_microbatches: parts of a batch, one after another.
    mesh: devices share the rows of a part.

  Raises:
    UserError: names the three numbers.
  """
  rows, parts = feed.batch_rows, num_microbatches
  shards = sharding.count_batch_shards(mesh)
  if rows % (parts * shards):
    raise UserError(
      f"BATCH_SIZE is {rows}; it must divide by the {shards} device groups that"
      f" share its rows times the {parts} micro-batches, {shards * parts}."
    )


def check_early_stopping(cache: TokenCache, evals: int | None) -> None:
  """Refuses to stop by a score that no evaluation gives.

  Args:
    cache: what is trained and validated on.
    evals: EARLY_STOPPING_EVALS.

  Raises:
    UserError: no task with labels has a validation split.
  """
  if evals is None or any(
    info.has_labels and info.splits.get("validation")
    for info in cache.tasks.values()
  ):
    return
  found = "; ".join(
    f"{name} has {', '.join(info.splits)}" for name, info in cache.tasks.items()
  )
  raise UserError(
    f"EARLY_STOPPING_EVALS is {evals}, and no task has a validation split with"
    f" labels ({found}). Prepare one (SPLITS), or leave it out."
  )


def warn_of_trimming(
  cache: TokenCache, feature_lengths: Mapping[str, int]
) -> None:
  """Says how many examples lose their end to TASK_FEATURE_LENGTHS.

  Args:
    cache: with the lengths of its examples.
    feature_lengths: {'inputs': ..., 'targets': ...} tokens of a row.

  Raises:
    UserError: the targets of every training label are cut.
  """
  for name, info in cache.tasks.items():
    for feature, length in feature_lengths.items():
      trimmed = info.count_longer("train", feature, length)
      total = info.splits.get("train", 0)
      if not trimmed:
        continue
      if trimmed == total and feature == "targets" and info.has_labels:
        raise UserError(
          f"TASK_FEATURE_LENGTHS allows {length} target tokens, which cuts"
          f" every one of the {total} labels of {name}. Give more."
        )
      _log.warning(
        "%d of %d %s of %s are longer than %d tokens and lose their end"
        " (TASK_FEATURE_LENGTHS).",
        trimmed, total, feature, name, length,
      )  # fmt: skip
