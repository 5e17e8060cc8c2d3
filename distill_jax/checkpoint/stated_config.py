"""The architecture as a file beside weights that do not state it.

Orbax's and T5X's arrays hold shapes alone; activations, dropout and the like
stand in this file.
"""

import json
import pathlib

from distill_jax.checkpoint import zarr_arrays
from distill_jax.errors import UserError
from distill_jax.model import registry
from distill_jax.model.config import ModelConfig

MODEL_CONFIG = "model_config.json"


def write_config(folder: pathlib.Path, config: ModelConfig) -> None:
  """Writes the architecture into a checkpoint's folder.

  Args:
    folder: exists.
    config: the architecture.
  """
  (folder / MODEL_CONFIG).write_text(
    json.dumps(registry.state_config(config), indent=2) + "\n"
  )


def read_config(folder: str) -> ModelConfig | None:
  """Reads what `write_config` wrote.

  Args:
    folder: local or gs://.

  Returns:
    The architecture; None: no file states it.

  Raises:
    UserError: the file is no configuration of a family.
  """
  content = zarr_arrays.read_file(folder, MODEL_CONFIG)
  if content is None:
    return None
  try:
    return registry.read_config(json.loads(content))
  except (ValueError, TypeError, RecursionError) as error:
    raise UserError(
      f"{folder}/{MODEL_CONFIG} cannot be read: {error}"
    ) from error
