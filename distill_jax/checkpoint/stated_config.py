"""The architecture as a file beside weights that do not state it.

Orbax's and T5X's arrays hold shapes alone; activations, dropout and the like
stand in this file.
"""

import dataclasses
import json
import pathlib

from distill_jax.checkpoint import zarr_arrays
from distill_jax.errors import UserError
from distill_jax.model.t5.config import T5Config

MODEL_CONFIG = "model_config.json"
# How a program ran is no property of what it saved: the same weights give the
# same results but for rounding, and may run on other devices next.
_OF_A_RUN = {
  field.name: field.default
  for field in dataclasses.fields(T5Config)
  if field.name in ("attention_implementation", "remat_policy", "scan_layers")
}


def write_config(folder: pathlib.Path, config: T5Config) -> None:
  """Writes the architecture into a checkpoint's folder.

  Args:
    folder: exists.
    config: the architecture.
  """
  (folder / MODEL_CONFIG).write_text(
    json.dumps(dataclasses.asdict(config), indent=2) + "\n"
  )


def read_config(folder: str) -> T5Config | None:
  """Reads what `write_config` wrote.

  Args:
    folder: local or gs://.

  Returns:
    The architecture; None: no file states it.

  Raises:
    UserError: the file is no configuration of a T5.
  """
  content = zarr_arrays.read_file(folder, MODEL_CONFIG)
  if content is None:
    return None
  try:
    return T5Config(**json.loads(content))
  except (ValueError, TypeError, RecursionError) as error:
    raise UserError(
      f"{folder}/{MODEL_CONFIG} cannot be read: {error}"
    ) from error


def drop_run_settings(config: T5Config) -> T5Config:
  """Returns the architecture without how a run happened to compute it.

  Args:
    config: of a run or a file.
  """
  return dataclasses.replace(config, **_OF_A_RUN)
