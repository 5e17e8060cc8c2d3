"""How Hugging Face's folders hold the models of a family."""

import dataclasses
import pathlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from distill_jax.model.config import ModelConfig

HFConfig = Mapping[str, Any]
# By Hugging Face's names; each a `checkpoint.stored_model.LazyTensor`.
Tensors = dict[str, Any]


class HFName(NamedTuple):
  """A tensor in Hugging Face's files.

  Attributes:
    name: in `model.safetensors`.
    is_transposed: whether their file has the transpose of our array. torch
      keeps a kernel as (out, in), we as (in, out).
  """

  name: str
  is_transposed: bool


class HFModel(NamedTuple):
  """What a folder holds.

  Attributes:
    config: the architecture.
    tensors: by Hugging Face's names, with those that stand for others.
    ignored: names among them that copy others or that no model reads.
  """

  config: ModelConfig
  tensors: Tensors
  ignored: set[str]


def _accept(content: HFConfig, path: pathlib.Path) -> None:
  del content, path


@dataclasses.dataclass(frozen=True)
class HFForm:
  """How Hugging Face's folders hold the models of a family.

  Attributes:
    model_types: of `config.json`.
    auto_class: of transformers, that loads such a folder.
    find_type_fn: config -> the model type, also where it is stated otherwise;
      None: another family's.
    read_fn: (config, tensors by their names, path of `config.json`) -> what
      they are; raises UserError for what cannot be built.
    make_names_fn: config -> the name of every parameter, by our path.
    make_config_fn: (config, name of the stored type) -> `config.json`.
    check_config_fn: refuses a `config.json` that states another computation
      than ours, before any tensor is opened.
    check_generation_fn: the same of `generation_config.json`.
    make_generation_fn: config -> what `generation_config.json` needs besides
      the ids of `config.json`.
    list_notes_fn: config -> paragraphs for whoever uses the folder.
  """

  model_types: tuple[str, ...]
  auto_class: str
  find_type_fn: Callable[[HFConfig], str | None]
  read_fn: Callable[[HFConfig, Tensors, pathlib.Path], HFModel]
  make_names_fn: Callable[[Any], dict[str, HFName]]
  make_config_fn: Callable[[Any, str], dict[str, Any]]
  check_config_fn: Callable[[HFConfig, pathlib.Path], None] = _accept
  check_generation_fn: Callable[[HFConfig, pathlib.Path], None] = _accept
  make_generation_fn: Callable[[Any], dict[str, Any]] = lambda _: {}
  list_notes_fn: Callable[[Any], list[str]] = lambda _: []
