"""Opens what a training run left behind: model, vocabulary, parameters.

Layer 3; imports checkpoint, model, partitioning, training. `eval` and `infer`
start here.
"""

import dataclasses
import logging
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
from jax.sharding import Mesh

from distill_jax.checkpoint import formats, manager
from distill_jax.data import token_cache, vocab
from distill_jax.errors import UserError
from distill_jax.model.config import T5Config
from distill_jax.model.t5 import T5
from distill_jax.partitioning import mesh as mesh_lib
from distill_jax.partitioning import sharding
from distill_jax.training import run_record
from distill_jax.training import state as state_lib

_log = logging.getLogger(__name__)

PyTree = Any


@dataclasses.dataclass(frozen=True)
class LoadedRun:
  """A checkpoint, ready to be used.

  Attributes:
    checkpoint: its folder.
    model_dir: folder of its run.
    record: what the run was.
    model: the model, bound to `mesh`.
    mesh: where the parameters lie.
    params: the parameters.
    vocabulary: of the run.
  """

  checkpoint: pathlib.Path
  model_dir: pathlib.Path
  record: run_record.RunRecord
  model: T5
  mesh: Mesh
  params: PyTree
  vocabulary: vocab.Vocabulary

  @property
  def step(self) -> int:
    """Updates the checkpoint has behind it."""
    return int(self.checkpoint.name)

  @property
  def feature_lengths(self) -> dict[str, int]:
    """Tokens of a row in training, {'inputs': ..., 'targets': ...}."""
    return self.record.identity["feed"]["feature_lengths"]

  def open_cache(self) -> token_cache.TokenCache:
    """Opens the token cache the run was trained on.

    Raises:
      UserError: it is gone or damaged.
    """
    return token_cache.TokenCache(self.record.token_cache_path)


def load_run(
  path: str,
  mesh_axes: Mapping[str, int],
  model_config: T5Config | None,
  dcn_mesh_axes: Mapping[str, int] | None = None,
) -> LoadedRun:
  """Loads the checkpoint that a path means, see `manager.find_checkpoint`.

  Args:
    path: a run's folder or a checkpoint's.
    mesh_axes: devices of a slice along each axis, see `partitioning.mesh`.
    model_config: None: the one the run was trained with.
    dcn_mesh_axes: slices along each axis; None: all along the data axis.

  Raises:
    UserError: no checkpoint, no record of its run, another model, or one whose
      attention does not run on these devices.
  """
  checkpoint = manager.find_checkpoint(path)
  record = run_record.require_record(checkpoint)
  model_dir = checkpoint.parent.parent
  config = model_config or T5Config(**record.identity["model_config"])
  mesh = mesh_lib.make_mesh(mesh_axes, dcn_axis_sizes=dcn_mesh_axes)
  config.check_platform(mesh.devices.flat[0].platform)
  model = T5(config, sharding.make_constrain_fn(mesh))
  abstract, logical_axes = state_lib.abstract_params(model)
  shardings = sharding.shard_params(logical_axes, abstract, mesh)
  target = jax.tree.map(
    lambda leaf, leaf_sharding: jax.ShapeDtypeStruct(
      leaf.shape, leaf.dtype, sharding=leaf_sharding
    ),
    abstract,
    shardings,
  )
  params = formats.load_params(formats.open_checkpoint(checkpoint), target)
  _log.info(
    "Loaded %s: %s parameters on %s",
    checkpoint,
    f"{state_lib.count_params(params):,}",
    sharding.describe(mesh),
  )
  return LoadedRun(
    checkpoint,
    model_dir,
    record,
    model,
    mesh,
    params,
    _load_vocabulary(model_dir, record),
  )


def _load_vocabulary(model_dir, record) -> vocab.Vocabulary:
  vocabulary = vocab.load_vocabulary(
    run_record.vocabulary_path(model_dir) or vocab.BYTES
  )
  if vocabulary.sha256 != record.identity["vocabulary_sha256"]:
    raise UserError(
      f"The vocabulary of {model_dir} is not the one the run was trained with:"
      " its vocabulary.model is missing or was changed. Copy it back, from the"
      f" token cache {record.token_cache_path} for instance."
    )
  return vocabulary


def choose_path(model_dir: str | None, checkpoint_path: str | None) -> str:
  """Returns the path to load: CHECKPOINT_PATH, else MODEL_DIR.

  Raises:
    UserError: neither was given.
  """
  path = checkpoint_path or model_dir
  if path is None:
    raise UserError(
      "Neither CHECKPOINT_PATH nor MODEL_DIR was given. Add"
      " --gin.MODEL_DIR=\"'...'\" with the folder of a training run."
    )
  return path
