"""What a Hugging Face T5 makes its logits with.

Our T5 has two ways: from the embedding and divided by sqrt(d_model), or from a
kernel of their own and not divided. transformers has all four, and says which
in two fields that have changed their meaning; a kernel takes the division, or
the copying, with it.
"""

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from distill_jax.errors import UserError
from distill_jax.model.t5.hf_config import read_flag
from distill_jax.model.t5.hf_names import EMBEDDING, IGNORED, LOGITS

# A `checkpoint.stored_model.LazyTensor`.
LazyTensor = Any
_COMPARED_BYTES = 2**26


def choose_logits(
  model_type: str,
  hf_config: Mapping[str, Any],
  files: Mapping[str, LazyTensor],
  path: pathlib.Path,
) -> LazyTensor | None:
  """Returns the kernel of the logits, as (vocabulary, d_model).

  transformers 4 divides where `tie_word_embeddings` is not false. transformers
  5 writes true there for every T5 that it saves, and says in
  `scale_decoder_outputs` whether it divides; umT5's has that field from 5.24
  on, mT5 never divides. Files of `torch.save` hold tied tensors twice.

  Args:
    model_type: "t5", "mt5" or "umt5".
    hf_config: of `config.json`.
    files: the tensors by transformers' names, the embedding among them.
    path: of `config.json`, for messages.

  Returns:
    The kernel; None: the logits come from the embedding and are divided.

  Raises:
    UserError: the configuration and the tensors do not fit each other.
  """
  ties = read_flag(hf_config, "tie_word_embeddings", path)
  scales = read_flag(hf_config, "scale_decoder_outputs", path)
  if model_type == "mt5" and scales:
    raise UserError(
      f"{path}: scale_decoder_outputs is true, but an mT5 never divides its"
      " logits. Remove it, or state the model_type that the model has."
    )
  embedding, head = files[EMBEDDING], files.get(LOGITS)
  if head is None:
    if ties is False or (model_type == "mt5" and ties is None):
      stated = "model_type mt5"
      if ties is False:
        stated = "tie_word_embeddings false"
      raise UserError(
        f"{path} states {stated}: the logits have a kernel of their own. But"
        f" there is no tensor {LOGITS}. If they come from the embedding, state"
        " tie_word_embeddings true there."
      )
    does_scale = model_type != "mt5" if scales is None else scales
    return None if does_scale else embedding
  if ties is False:
    return _scale(head) if scales else head
  if model_type == "mt5" or scales is False:
    return head
  if are_equal(head, embedding):
    return None
  if model_type == "umt5" and scales:
    return _scale(head)
  raise UserError(
    f"{path} does not state tie_word_embeddings false, but {LOGITS} and"
    f" {EMBEDDING} differ. State there scale_decoder_outputs false if the"
    " logits are not divided by sqrt(d_model), as in the published T5 1.1 and"
    " umT5; tie_word_embeddings false and scale_decoder_outputs true if they"
    " are divided. For a T5 1.0 one of the two tensors is wrong."
  )


def check_copies(files: Mapping[str, LazyTensor], path: pathlib.Path) -> None:
  """Refuses an embedding of one stack that is not the one of both.

  Args:
    files: the tensors by transformers' names, the embedding among them.
    path: of the folder, for messages.

  Raises:
    UserError: names the copy that differs.
  """
  for name in IGNORED[:2]:
    if name in files and not are_equal(files[name], files[EMBEDDING]):
      raise UserError(
        f"{path}: {name} and {EMBEDDING} differ. A T5 has one embedding for"
        " encoder, decoder and inputs; a model with several cannot be read."
        f" Remove {name} if it is left over."
      )


def are_equal(one: LazyTensor, other: LazyTensor) -> bool:
  """Compares two tensors, some rows at a time.

  Args:
    one: a tensor.
    other: another, or the same.
  """
  if one is other:
    return True
  if one.shape != other.shape:
    return False
  num_rows = one.shape[0] if one.shape else 1
  step = max(1, _COMPARED_BYTES * num_rows // max(one.num_bytes, 1))
  rest = (slice(None),) * (len(one.shape) - 1)
  return all(
    np.array_equal(
      one.read((slice(start, start + step), *rest)),
      other.read((slice(start, start + step), *rest)),
    )
    for start in range(0, num_rows, step)
  )


def _scale(head: LazyTensor) -> LazyTensor:
  """Divides a kernel as the model divided what it is multiplied with."""
  dtype = np.dtype(np.promote_types(head.dtype, np.float32))
  factor = dtype.type(head.shape[-1] ** -0.5)

  def read(index: tuple[slice, ...]) -> np.ndarray:
    return head.read(index).astype(dtype) * factor

  return dataclasses.replace(
    head,
    stored_name=f"{head.stored_name} / sqrt(d_model)",
    dtype=dtype,
    read_fn=read,
  )
