"""`run.json`: what a run was, for the run that resumes it and for eval."""

import dataclasses
import importlib.metadata
import json
import os
import pathlib
import platform
import shutil
import subprocess
from typing import Any

import distill_jax
from distill_jax.errors import UserError
from distill_jax.files import atomic

_FILE = "run.json"
_VOCABULARY = "vocabulary.model"
_PACKAGES = (
  "jax",
  "jaxlib",
  "flax",
  "optax",
  "orbax-checkpoint",
  "grain",
  "numpy",
)
# What a schedule decides, and the optimizer that follows it.
_RATE_FIELDS = {"learning_rates", "later_learning_rates", "optimizer_updates"}
# Not written down by earlier versions, so not compared with their runs.
_NEW = {"later_learning_rates"}
# What runs did before these settings of the identity were there.
_BEFORE = {"feed.num_shards": 1}


@dataclasses.dataclass(frozen=True)
class RunRecord:
  """What decides a run's losses, and where it ran.

  Attributes:
    identity: a resumed run must agree on these (JSON values): `task`,
      `token_cache` (fingerprint), `tasks`, `model_config`, `feed`, `objective`,
      `num_microbatches`, `seed`.
    token_cache_path: folder of the token cache.
    num_params: parameters of the model.
    mesh: a line.
    environment: versions of packages, the git commit, the machine.
    data: what the token cache was made from and holds, to make it again:
      `settings` (of `data.settings.DataSettings`), `task_module`, `identity`
      and `files` (SHA-256 by name); None: an older run.
    train_steps: TRAIN_STEPS when the run began; None: it was not noted then.
  """

  identity: dict[str, Any]
  token_cache_path: str
  num_params: int
  mesh: str
  environment: dict[str, Any]
  data: dict[str, Any] | None = None
  train_steps: int | None = None

  def write(self, model_dir: str | pathlib.Path) -> None:
    """Writes `run.json`, in one move."""
    text = json.dumps(dataclasses.asdict(self), indent=2) + "\n"
    atomic.write_text(pathlib.Path(model_dir) / _FILE, text)


def read_record(model_dir: str | pathlib.Path) -> RunRecord | None:
  """Reads `run.json`; None when the folder has none.

  Args:
    model_dir: folder of a run.

  Raises:
    UserError: the file is not one of ours.
  """
  path = pathlib.Path(model_dir) / _FILE
  try:
    if not path.exists():
      return None
    return RunRecord(**json.loads(path.read_text()))
  except (OSError, ValueError, TypeError) as error:
    raise UserError(f"{path} cannot be read: {error}") from error


def require_record(checkpoint: pathlib.Path) -> RunRecord:
  """Reads the record of the run that a checkpoint belongs to.

  Args:
    checkpoint: `<model_dir>/checkpoints/<step>`.

  Raises:
    UserError: there is none.
  """
  model_dir = checkpoint.parent.parent
  record = read_record(model_dir)
  if record is None:
    raise UserError(
      f"{model_dir} has no {_FILE}, so the model of {checkpoint} is not known."
      " Keep checkpoints in the MODEL_DIR they were written to."
    )
  return record


def keep_vocabulary(model_dir: str | pathlib.Path, vocabulary: str) -> None:
  """Copies the vocabulary's file to the run, which then needs nothing else.

  Args:
    model_dir: folder of the run.
    vocabulary: the file.
  """
  with atomic.writing(pathlib.Path(model_dir) / _VOCABULARY) as copy:
    shutil.copyfile(vocabulary, copy)


def vocabulary_path(model_dir: str | pathlib.Path) -> str | None:
  """Returns the file of a run's vocabulary; None when it is made of bytes."""
  path = pathlib.Path(model_dir) / _VOCABULARY
  return str(path) if path.exists() else None


def check_resumable(found: RunRecord, wanted: RunRecord, model_dir) -> None:
  """Refuses to continue a run as a different one.

  Args:
    found: of the folder.
    wanted: of this run.
    model_dir: the folder.

  Raises:
    UserError: names what differs.
  """
  differences = describe_differences(found.identity, wanted.identity)
  if differences:
    names = {line.partition(":")[0] for line in differences}
    shown = "\n  ".join(differences)
    if names <= _RATE_FIELDS and found.train_steps != wanted.train_steps:
      raise UserError(_explain_rate(found, wanted, model_dir, shown))
    raise UserError(
      f"{model_dir} holds a run with other settings:\n  {shown}\nGive another"
      " MODEL_DIR, the settings it was started with (its config.gin), or"
      " --overwrite to replace it."
    )


def _explain_rate(
  found: RunRecord, wanted: RunRecord, model_dir, differences: str
) -> str:
  """Says how to train longer where the rate depends on how long."""
  before = found.train_steps
  asked = "" if before is None else f" and was {before} when the run began"
  quoted = f"--gin.INITIAL_CHECKPOINT_PATH=\"'{model_dir}'\""
  return (
    f"{model_dir} holds a run with another learning rate. TRAIN_STEPS is"
    f" {wanted.train_steps} now{asked}: a rate that ends at TRAIN_STEPS"
    " (SCHEDULE = 'linear' or 'cosine') is another at every step, and the run"
    " would be neither the one nor the other. To train longer, either\n"
    "  start in a new MODEL_DIR from this run's best checkpoint, with"
    f" {quoted}\n"
    "  or begin with a rate that does not depend on TRAIN_STEPS (SCHEDULE ="
    " 'constant' or 'rsqrt'), which any number of steps goes on with.\n"
    "If LEARNING_RATE, WARMUP_STEPS or the optimizer's settings were changed"
    " too, give those the run was started with (its config.gin). Different"
    f" are:\n  {differences}"
  )


def describe_differences(
  found: dict[str, Any], wanted: dict[str, Any]
) -> list[str]:
  """Compares two identities.

  Args:
    found: of the run that is there; fields that earlier versions did not have
      may be missing.
    wanted: of another.

  Returns:
    A line for each setting that differs, its name first.
  """
  return _describe_differences("", found, wanted)


def _describe_differences(name: str, found: Any, wanted: Any) -> list[str]:
  """One line a leaf in which two JSON values differ."""
  if not (isinstance(found, dict) and isinstance(wanted, dict)):
    same = found == wanted or (
      name == "initial_checkpoint_path" and _is_same_path(found, wanted)
    )
    return [] if same else [f"{name}: {found} before, {wanted} now"]
  lines = []
  for key in sorted(found.keys() | wanted.keys()):
    path = f"{name}.{key}" if name else key
    if path in _NEW and key not in found:
      continue
    before = found.get(key, _BEFORE.get(path))
    lines += _describe_differences(path, before, wanted.get(key))
  return lines


def _is_same_path(found: Any, wanted: Any) -> bool:
  """Whether two paths may be one; runs once noted them as they were given."""
  if not (isinstance(found, str) and isinstance(wanted, str)):
    return False
  if "://" in found + wanted:
    return found == wanted
  paths = [
    os.path.normpath(os.path.expanduser(each)) for each in (found, wanted)
  ]
  if all(map(os.path.isabs, paths)):
    return paths[0] == paths[1]
  shorter, longer = sorted(
    (pathlib.Path(each).parts for each in paths), key=len
  )
  return longer[len(longer) - len(shorter) :] == shorter


def describe_environment() -> dict[str, Any]:
  """Returns versions of packages, Python and the git commit."""
  return {
    "distill_jax": distill_jax.__version__,
    "python": platform.python_version(),
    "machine": f"{platform.machine()}, {os.cpu_count()} CPUs",
    "git_commit": _git_commit(),
    **{name: importlib.metadata.version(name) for name in _PACKAGES},
  }


def _git_commit() -> str | None:
  folder = pathlib.Path(distill_jax.__file__).parent
  try:
    result = subprocess.run(
      ["git", "-C", str(folder), "rev-parse", "HEAD"],
      capture_output=True,
      text=True,
      check=True,
      timeout=10,
    )
  except (OSError, subprocess.SubprocessError):
    return None
  return result.stdout.strip()
