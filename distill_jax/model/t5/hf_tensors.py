"""The tensors of a Hugging Face T5: which of them count."""

import pathlib

from distill_jax.errors import UserError
from distill_jax.model.hf_form import HFConfig, HFModel, Tensors
from distill_jax.model.t5.hf_config import read_config, read_model_type
from distill_jax.model.t5.hf_logits import check_copies, choose_logits
from distill_jax.model.t5.hf_names import EMBEDDING, IGNORED, LOGITS


def read_model(
  hf_config: HFConfig, tensors: Tensors, path: pathlib.Path
) -> HFModel:
  """Reads the architecture, and puts the tensors under the names they have.

  Args:
    hf_config: of `config.json`, checked.
    tensors: by their names; read only where two must agree.
    path: of `config.json`.

  Raises:
    UserError: the configuration and the tensors do not fit each other, or this
      is no T5 we can build.
  """
  folder, tensors = path.parent, dict(tensors)
  model_type = read_model_type(hf_config, path)
  ignored = {name for name in IGNORED if name in tensors}
  if EMBEDDING not in tensors:
    # Some writers keep one of the copies only, and not the first.
    copies = [tensors[name] for name in IGNORED[:2] if name in tensors]
    if not copies:
      raise UserError(f"{folder} is no T5: it has no tensor {EMBEDDING}.")
    tensors[EMBEDDING] = copies[0]
  check_copies(tensors, folder)
  logits = choose_logits(model_type, hf_config, tensors, path)
  if logits is not None:
    tensors[LOGITS] = logits
  elif LOGITS in tensors:
    ignored.add(LOGITS)
  config = read_config(model_type, hf_config, logits is None, path)
  return HFModel(config, tensors, ignored)
