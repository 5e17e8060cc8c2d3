"""A checkpoint written again in another form, a few tensors at a time."""

import logging
import pathlib
import re
from collections.abc import Mapping

import ml_dtypes
import numpy as np
import tqdm

from distill_jax.checkpoint import (
  formats,
  hf,
  hf_tokenizer,
  model_card,
  orbax_params,
  t5x,
)
from distill_jax.checkpoint.stored_model import (
  Index,
  LazyTensor,
  StoredModel,
  check_tensors,
  flatten_params,
)
from distill_jax.data import vocab
from distill_jax.errors import UserError
from distill_jax.files import disk_space, unfinished
from distill_jax.model import registry
from distill_jax.student.model_gin import make_model_gin
from distill_jax.training import state as state_lib

_log = logging.getLogger(__name__)

FORMATS = ("hf", "t5x", "orbax")
DTYPES = {
  "float32": np.dtype(np.float32),
  "bfloat16": np.dtype(ml_dtypes.bfloat16),
  "float16": np.dtype(np.float16),
}
MODEL_GIN = "model.gin"
_UNFINISHED = ".writing-"
# All that a conversion leaves in its folder.
_WRITTEN = re.compile(
  r"model\.gin|model_config\.json|config\.json|generation_config\.json|state"
  r"|spiece\.model|tokenizer\.json|tokenizer_config\.json|checkpoint_0"
  r"|special_tokens_map\.json|README\.md"
  r"|model.*\.safetensors|model\.safetensors\.index\.json"
)


def convert(
  source: str,
  destination: str,
  *,
  source_format: str | None = None,
  destination_format: str = "orbax",
  dtype: str = "float32",
  vocab_path: str | None = None,
  overwrite: bool = False,
) -> StoredModel:
  """Converts a checkpoint, holding a few of its tensors in memory at a time.

  Args:
    source: see `formats.open_checkpoint`.
    destination: a local folder that does not exist.
    source_format: of `FORMATS`; None: as the files tell.
    destination_format: of `FORMATS`.
    dtype: of `DTYPES`.
    vocab_path: sentencepiece model to put beside; None: the source's.
    overwrite: replace an earlier conversion at `destination`.

  Returns:
    What was converted.

  Raises:
    UserError: the source is missing, damaged, of no family or of another form;
      the vocabulary does not fit; the destination exists or cannot be written.
  """
  if "://" in destination:
    raise UserError(f"DST is {destination}; it must be a local folder.")
  folder = _check_destination(destination, overwrite)
  stored = formats.open_checkpoint(source, source_format)
  if pathlib.Path(stored.path).resolve().is_relative_to(folder.resolve()):
    raise UserError(f"SRC {stored.path} lies in DST {folder}.")
  abstract, _ = state_lib.abstract_params(registry.make_module(stored.config))
  shapes = {name: leaf.shape for name, leaf in flatten_params(abstract).items()}
  check_tensors(stored, shapes)
  vocabulary_path = _choose_vocabulary(stored, vocab_path)
  header = f"{stored.config.describe()}, converted from {stored.path}."
  model_gin = make_model_gin(stored.config, header)
  _log.info("Converting %s", stored.describe())
  work = unfinished.UnfinishedFolder(folder, _UNFINISHED)
  try:
    with (
      work,
      tqdm.tqdm(
        total=sum(tensor.num_bytes for tensor in stored.tensors.values()),
        unit="B",
        unit_scale=True,
        desc=f"to {destination_format}",
      ) as bar,
    ):
      _write(
        work.content,
        destination_format,
        stored,
        _report_reads(stored.tensors, bar),
        DTYPES[dtype],
        vocabulary_path,
      )
      (work.content / MODEL_GIN).write_text(model_gin, encoding="utf-8")
      work.put_in_place()
  except KeyboardInterrupt as interrupt:
    interrupt.args = (work.describe_end(),)
    raise
  except Exception as error:
    if not isinstance(error, OSError) and not disk_space.is_full_disk(error):
      raise
    raise UserError(f"{folder} cannot be written: {error}") from error
  return stored


def _check_destination(destination: str, overwrite: bool) -> pathlib.Path:
  """Returns the folder to make, once nothing of a user's is in its place."""
  try:
    folder = pathlib.Path(destination).expanduser().absolute()
    folder.resolve()  # finds out what is no path at all
    unfinished.remove_dead(folder.parent, _UNFINISHED)
    exists = folder.exists() or folder.is_symlink()
    others = sorted(
      child.name
      for child in (folder.iterdir() if folder.is_dir() else ())
      if not _WRITTEN.fullmatch(child.name)
    )
  except (OSError, ValueError) as error:
    raise UserError(f"DST {destination!r} cannot be used: {error}") from error
  if not exists:
    return folder
  if not overwrite:
    raise UserError(f"{folder} exists. Add --overwrite to replace it.")
  if folder.is_symlink() or not (folder / MODEL_GIN).is_file():
    raise UserError(
      f"{folder} is no earlier conversion (it has no {MODEL_GIN}, or is a"
      " link); it is not replaced. Give another DST."
    )
  if others:
    raise UserError(
      f"{folder} holds more than a conversion writes: {', '.join(others[:5])}."
      " It is not replaced. Move these away, or give another DST."
    )
  return folder


def _choose_vocabulary(
  stored: StoredModel, vocab_path: str | None
) -> pathlib.Path | None:
  """Returns the sentencepiece model to copy, once it is known to fit."""
  path = vocab_path or stored.vocabulary_path
  if path is None:
    return None
  vocabulary = vocab.load_vocabulary(str(path))
  if vocabulary.size > stored.config.vocab_size:
    raise UserError(
      f"The vocabulary {path} has {vocabulary.size} ids, but the embedding of"
      f" {stored.path} has {stored.config.vocab_size} rows: they do not belong"
      " together. Give the model's own with --vocab_path."
    )
  return pathlib.Path(vocabulary.path) if vocabulary.path else None


def _write(
  folder: pathlib.Path,
  file_format: str,
  stored: StoredModel,
  tensors: Mapping[str, LazyTensor],
  dtype: np.dtype,
  vocabulary_path: pathlib.Path | None,
) -> None:
  if file_format == "hf":
    # First, since it may be refused.
    hf_tokenizer.write_tokenizer(
      folder, vocabulary_path, stored.uses_bytes, stored.config.vocab_size
    )
    hf.write_hf(folder, stored.config, tensors, dtype)
    model_card.write_card(folder, stored)
    return
  if file_format == "t5x":
    t5x.write_t5x(folder, tensors, dtype, stored.config)
  else:
    orbax_params.write_orbax(folder, stored.config, tensors, dtype)
  hf_tokenizer.keep_vocabulary(folder, vocabulary_path, stored.uses_bytes)


def _report_reads(
  tensors: Mapping[str, LazyTensor], bar: tqdm.tqdm
) -> dict[str, LazyTensor]:
  def wrap(tensor: LazyTensor) -> LazyTensor:
    def read(index: Index) -> np.ndarray:
      value = tensor.read(index)
      bar.update(value.nbytes)
      return value

    return LazyTensor(tensor.stored_name, tensor.shape, tensor.dtype, read)

  return {name: wrap(tensor) for name, tensor in tensors.items()}
