"""INITIAL_CHECKPOINT_PATH: the parameters that a run starts from.

Every process opens the checkpoint and reads the parts that its own devices
hold.
"""

import logging
import pathlib
from typing import Any

from distill_jax.checkpoint import formats
from distill_jax.data import vocab
from distill_jax.errors import UserError
from distill_jax.model.config import ModelConfig
from distill_jax.partitioning import sharding

_log = logging.getLogger(__name__)

PyTree = Any


def load_initial_params(
  path: str | None,
  config: ModelConfig,
  abstract_params: PyTree,
  param_shardings: PyTree,
  vocabulary: vocab.Vocabulary,
  overwritten: pathlib.Path | None = None,
) -> PyTree | None:
  """Loads the parameters to start from.

  Args:
    path: a checkpoint in any form that `checkpoint.formats` opens; None: the
      run starts from scratch.
    config: of the model; where the checkpoint says that it computed otherwise,
      a warning names what differs.
    abstract_params: their shapes.
    param_shardings: where they go.
    vocabulary: of the data.
    overwritten: folder of a run that is about to be replaced.

  Returns:
    The parameters; None where no path was given.

  Raises:
    UserError: there is no such checkpoint, it lies in what is replaced, does
      not fit the model or has learned another vocabulary.
  """
  if path is None:
    _log.info("Starting from scratch")
    return None
  stored = formats.open_checkpoint(path)
  folder = pathlib.Path(stored.path)
  if overwritten is not None and folder.is_relative_to(overwritten):
    raise UserError(
      f"INITIAL_CHECKPOINT_PATH {folder} lies in the MODEL_DIR that --overwrite"
      " replaces. Give another MODEL_DIR."
    )
  _check_vocabulary(stored, vocabulary)
  if differences := stored.list_differences(config):
    _log.warning(
      "The weights of %s were made for another computation: %s. Losses start"
      " higher than they need to, unless you mean it; the gin file that"
      " distill-jax-convert writes beside a checkpoint fits it.",
      stored.path,
      "; ".join(differences),
    )
  target = sharding.with_shardings(abstract_params, param_shardings)
  params = formats.load_params(stored, target)
  _log.info(
    "Starting from the %s; all loaded, 0 missing, 0 unexpected",
    stored.describe(),
  )
  return params


def _check_vocabulary(stored, vocabulary: vocab.Vocabulary) -> None:
  """Refuses ids that mean other words than those the checkpoint learned."""
  if stored.vocabulary_path is None and not stored.uses_bytes:
    _log.warning(
      "No vocabulary lies beside %s: that its ids are those of %s is for you to"
      " know.",
      stored.path,
      vocabulary.path or vocab.BYTES,
    )
    return
  theirs = vocab.load_vocabulary(
    vocab.BYTES if stored.uses_bytes else str(stored.vocabulary_path)
  )
  if theirs.sha256 != vocabulary.sha256:
    raise UserError(
      f"The checkpoint {stored.path} was trained with the vocabulary"
      f" {theirs.path or vocab.BYTES}, the data is tokenized with"
      f" {vocabulary.path or vocab.BYTES}. Add"
      f" --gin.VOCAB_PATH=\"'{theirs.path or vocab.BYTES}'\"."
    )
