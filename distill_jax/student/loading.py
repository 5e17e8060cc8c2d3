"""Opens a checkpoint to be used: model, vocabulary, lengths, parameters.

`eval` and `infer` start here. A run has recorded all that must be known. Of any
other checkpoint (Hugging Face, T5X, what `distill-jax-convert` wrote) the user
gives what it does not say.
"""

import dataclasses
import logging
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from flax import linen as nn
from jax.sharding import Mesh

from distill_jax.checkpoint import damage, formats, manager, zarr_arrays
from distill_jax.checkpoint.stored_model import StoredModel
from distill_jax.data import vocab
from distill_jax.data.feed import pipeline
from distill_jax.errors import UserError
from distill_jax.model import registry
from distill_jax.model.config import ModelConfig
from distill_jax.partitioning import mesh as mesh_lib
from distill_jax.partitioning import sharding
from distill_jax.run_folder import run_record
from distill_jax.training import fit_checks
from distill_jax.training import state as state_lib

_log = logging.getLogger(__name__)

PyTree = Any
_BEST, _LAST, _ALL = "best", "last", "all"
_EXAMPLES = {
  "MODEL_DIR": "\"'runs/baseline'\"",
  "MIXTURE_OR_TASK_NAME": "\"'svamp_label'\"",
  "TASK_FEATURE_LENGTHS": "\"{'inputs': 256, 'targets': 64}\"",
  "VOCAB_PATH": "\"'spiece.model'\"",
}


@dataclasses.dataclass(frozen=True)
class ModelChoice:
  """Which checkpoint, and what is said of it.

  Attributes:
    model_dir: MODEL_DIR, the folder of a run.
    checkpoint_path: CHECKPOINT_PATH, in any form that `checkpoint.formats`
      opens; None: of the run in `model_dir`.
    checkpoints: CHECKPOINTS of a run: "best" on validation (the newest where
      none was evaluated), "last", "all" that are kept, or steps.
    model_config: None: as the run or the checkpoint says.
    vocab_path: VOCAB_PATH; None: the run's, or what lies beside the checkpoint.
    feature_lengths: TASK_FEATURE_LENGTHS; None: the run's.
    foreign_lengths: what they are of a checkpoint of no run where they were not
      given; None: they must be.
    mesh: devices of a slice along each axis, see `partitioning.mesh`.
    dcn_mesh: slices along each axis; None: all along the data axis.
  """

  model_dir: str | None = None
  checkpoint_path: str | None = None
  checkpoints: str | int | Sequence[int] = _BEST
  model_config: ModelConfig | None = None
  vocab_path: str | None = None
  feature_lengths: Mapping[str, int] | None = None
  mesh: Mapping[str, int] = dataclasses.field(
    default_factory=lambda: {"data": -1}
  )
  dcn_mesh: Mapping[str, int] | None = None
  foreign_lengths: Mapping[str, int] | None = None

  def __post_init__(self):
    lengths = self.feature_lengths
    if lengths is not None:
      if not isinstance(lengths, Mapping):
        raise UserError(
          f"TASK_FEATURE_LENGTHS is {lengths!r}; it must give 'inputs' and"
          " 'targets', e.g. {'inputs': 256, 'targets': 64}."
        )
      pipeline.FeedConfig(lengths, batch_rows=1)  # Checks them.
    if self.checkpoints not in (_BEST, _LAST, _ALL) and not self.steps:
      raise UserError(
        f"CHECKPOINTS is {self.checkpoints!r}; it must be 'best', 'last',"
        " 'all', a step or a list of steps."
      )

  @property
  def path(self) -> str:
    """CHECKPOINT_PATH, else MODEL_DIR.

    Raises:
      UserError: neither was given.
    """
    path = self.checkpoint_path or self.model_dir
    if path is None:
      raise UserError(
        "Neither CHECKPOINT_PATH nor MODEL_DIR was given. Add"
        " --gin.MODEL_DIR=\"'...'\" with the folder of a training run."
      )
    return path

  @property
  def steps(self) -> list[int]:
    """The steps asked for by their numbers, in order; [] if they were not."""
    given = self.checkpoints
    if isinstance(given, str):
      return []
    steps = list(given) if isinstance(given, Sequence) else [given]
    are_numbers = all(type(step) is int for step in steps)
    return list(dict.fromkeys(steps)) if are_numbers else []


@dataclasses.dataclass(frozen=True)
class OpenedModel:
  """Checkpoints of one model; their parameters are not read yet.

  Attributes:
    checkpoints: to be loaded one after another.
    model_dir: folder of their run; None: they are of no run.
    record: what the run was.
    model: the model, bound to `mesh`.
    mesh: where parameters go.
    vocabulary: the one the model learned.
    feature_lengths: tokens of a row, {'inputs': ..., 'targets': ...}.
    changes: settings by which its numbers may differ from those of the same
      checkpoint when nothing but the checkpoint is given.
  """

  checkpoints: tuple[StoredModel, ...]
  model_dir: pathlib.Path | None
  record: run_record.RunRecord | None
  model: nn.Module
  mesh: Mesh
  vocabulary: vocab.Vocabulary
  feature_lengths: Mapping[str, int]
  changes: Mapping[str, Any]

  @property
  def origin(self) -> str:
    """Words for messages: which run, or which checkpoint of none."""
    if self.model_dir is not None:
      return f"the run in {self.model_dir}"
    return f"the checkpoint {self.checkpoints[0].path}"

  def load_params(self, checkpoint: StoredModel) -> PyTree:
    """Reads the parameters of a checkpoint onto the mesh.

    Args:
      checkpoint: of `checkpoints`.

    Raises:
      UserError: it is damaged or does not fit the model.
    """
    abstract, logical_axes = state_lib.abstract_params(self.model)
    shardings = sharding.shard_params(logical_axes, abstract, self.mesh)
    target = sharding.with_shardings(abstract, shardings)
    params = formats.load_params(checkpoint, target)
    _log.info(
      "Loaded %s: %s parameters on %s",
      checkpoint.path,
      f"{state_lib.count_params(params):,}",
      sharding.describe(self.mesh),
    )
    return params


def name_checkpoint(checkpoint: StoredModel) -> str:
  """Returns the last part of its path: of a run's checkpoint the step."""
  return pathlib.PurePosixPath(checkpoint.path).name


def open_model(
  choice: ModelChoice, needed: Mapping[str, Any] | None = None
) -> OpenedModel:
  """Finds the checkpoints that are meant, and makes their model.

  Args:
    choice: see `ModelChoice`.
    needed: macros by name with what was given for them: what must be given
      besides for a checkpoint of no run. None: not given.

  Raises:
    UserError: no such checkpoint, or a damaged one; something that it does not
      say was not given; another model or vocabulary than it has; or attention
      does not run on these devices.
  """
  path = choice.path
  model_dir = _find_run(path)
  if model_dir is None:
    if choice.checkpoint_path is None:
      _refuse_model_dir(path)
    return _open_foreign(choice, path, needed or {})
  record = run_record.read_record(model_dir)
  assert record is not None
  stored = _list_checkpoints(choice, path, model_dir)
  vocabulary = _load_run_vocabulary(model_dir, record, choice.vocab_path)
  own_config = registry.read_config(record.identity["model_config"])
  own_lengths = record.identity["feed"]["feature_lengths"]
  lengths = choice.feature_lengths or own_lengths
  changes = dict(lengths) if lengths != own_lengths else {}
  return _make_opened(
    choice, stored, model_dir, record, own_config, vocabulary, lengths, changes
  )


def _open_foreign(
  choice: ModelChoice, path: str, needed: Mapping[str, Any]
) -> OpenedModel:
  """Opens a checkpoint that lies in no run of this program."""
  if choice.feature_lengths is None:
    choice = dataclasses.replace(choice, feature_lengths=choice.foreign_lengths)
  stored = formats.open_checkpoint(path)
  if stored.file_format == "orbax" and not stored.path.startswith("gs://"):
    damage.verify(pathlib.Path(stored.path))
  if choice.checkpoints != _BEST:
    raise UserError(
      f"CHECKPOINTS is {choice.checkpoints!r}, and {stored.path} is of no run"
      " to choose from. Leave it out."
    )
  needed = {**needed, "TASK_FEATURE_LENGTHS": choice.feature_lengths}
  if stored.vocabulary_path is None and not stored.uses_bytes:
    needed["VOCAB_PATH"] = choice.vocab_path
  if missing := [macro for macro, value in needed.items() if value is None]:
    arguments = " ".join(f"--gin.{name}={_EXAMPLES[name]}" for name in missing)
    raise UserError(
      f"The checkpoint {stored.path} lies in no run (no run.json was found),"
      f" so {', '.join(missing)} must be given, such as"
      f" {arguments}."
    )
  assert choice.feature_lengths is not None
  vocabulary = _choose_vocabulary(stored, choice.vocab_path)
  return _make_opened(
    choice,
    [stored],
    None,
    None,
    stored.config,
    vocabulary,
    choice.feature_lengths,
    dict(choice.feature_lengths),
  )


def _make_opened(
  choice, stored, model_dir, record, own_config, vocabulary, lengths, changes
) -> OpenedModel:
  config = choice.model_config or own_config
  if type(config) is not type(own_config):
    raise UserError(
      f"MODEL_CONFIG is a {type(config).__name__}, and {stored[0].path} holds a"
      f" model of {type(own_config).__name__}. Leave the model's gin file out."
    )
  for name, value in config.list_fields().items():
    is_same = value == getattr(own_config, name)
    if not is_same and name not in config.training_fields:
      changes[name] = value
  mesh = mesh_lib.make_mesh(choice.mesh, dcn_axis_sizes=choice.dcn_mesh)
  config.check_platform(mesh.devices.flat[0].platform)
  config.check_lengths(lengths)
  fit_checks.check_vocabulary(vocabulary, config)
  return OpenedModel(
    tuple(stored),
    model_dir,
    record,
    registry.make_module(config, sharding.make_constrain_fn(mesh)),
    mesh,
    vocabulary,
    lengths,
    changes,
  )


def _find_run(path: str) -> pathlib.Path | None:
  """Returns the folder of the run that a path names or lies in, if any."""
  path = zarr_arrays.normalize(path)
  if path.startswith("gs://"):
    return None
  folder = pathlib.Path(path)
  if folder.parent.name == manager.FOLDER:
    folder = folder.parent
  if folder.name == manager.FOLDER:
    folder = folder.parent
  return folder if run_record.read_record(folder) is not None else None


def _refuse_model_dir(path: str) -> None:
  """Says why a MODEL_DIR that was given alone cannot be used."""
  folder = pathlib.Path(path).expanduser().absolute()
  try:
    formats.open_checkpoint(folder)
  except UserError as error:
    raise UserError(f"MODEL_DIR holds no run to read from. {error}") from error
  raise UserError(
    f"MODEL_DIR {folder} holds a checkpoint and no run: it has no run.json. If"
    " it was moved out of its run, put it back; a checkpoint of no run is given"
    " as CHECKPOINT_PATH."
  )


def _list_checkpoints(
  choice: ModelChoice, path: str, model_dir: pathlib.Path
) -> list[StoredModel]:
  """Opens the checkpoints of a run that are asked for; none is damaged."""
  folder = model_dir / manager.FOLDER
  given = pathlib.Path(zarr_arrays.normalize(path))
  if given not in (model_dir, folder):
    if choice.checkpoints != _BEST:
      raise UserError(
        f"CHECKPOINTS is {choice.checkpoints!r}, and {given} is one checkpoint."
        " Leave one of them out."
      )
    found = [manager.find_checkpoint(given)]
  elif choice.checkpoints == _BEST:
    found = [manager.find_checkpoint(model_dir)]
  else:
    kept = damage.list_steps(folder)
    steps = choice.steps or (kept if choice.checkpoints == _ALL else kept[-1:])
    if not kept or set(steps) - set(kept):
      raise UserError(
        f"CHECKPOINTS is {choice.checkpoints!r}; the run in {model_dir} keeps"
        f" the checkpoints of the steps {kept}."
      )
    found = [manager.find_checkpoint(folder / str(step)) for step in steps]
  return [formats.open_checkpoint(checkpoint) for checkpoint in found]


def _load_run_vocabulary(
  model_dir: pathlib.Path, record: run_record.RunRecord, given: str | None
) -> vocab.Vocabulary:
  vocabulary = vocab.load_vocabulary(
    run_record.vocabulary_path(model_dir) or vocab.BYTES
  )
  if vocabulary.sha256 != record.identity["vocabulary_sha256"]:
    raise UserError(
      f"The vocabulary of {model_dir} is not the one the run was trained with:"
      " its vocabulary.model is missing or was changed. Copy it back, from the"
      f" token cache {record.token_cache_path} for instance."
    )
  if given and vocab.load_vocabulary(given).sha256 != vocabulary.sha256:
    raise UserError(
      f"The run in {model_dir} was not trained with VOCAB_PATH = {given!r}, but"
      f" with {vocabulary.path or vocab.BYTES}. Leave VOCAB_PATH out."
    )
  return vocabulary


def _choose_vocabulary(
  stored: StoredModel, given: str | None
) -> vocab.Vocabulary:
  """Returns the vocabulary beside a checkpoint, or the one that was given."""
  beside = vocab.BYTES if stored.uses_bytes else stored.vocabulary_path
  if beside is None:
    vocabulary = vocab.load_vocabulary(given)
    _log.warning(
      "No vocabulary lies beside %s: that its ids are those of %s is for you to"
      " know.",
      stored.path,
      vocabulary.path or vocab.BYTES,
    )
    return vocabulary
  vocabulary = vocab.load_vocabulary(str(beside))
  if given and vocab.load_vocabulary(given).sha256 != vocabulary.sha256:
    raise UserError(
      f"The checkpoint {stored.path} was trained with the vocabulary {beside},"
      f" and VOCAB_PATH is {given!r}. Leave VOCAB_PATH out."
    )
  return vocabulary
