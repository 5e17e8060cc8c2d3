"""The families of models that can be students, by name.

A family is a folder: its configuration, its Flax module, and `family.py`, which
registers it. Those in `distill_jax/model/` are found here; a module of a user's
registers its own when it is imported, which a gin file does.

The module of a family has the fields `config` and `constrain_fn`, and these
methods, called through `apply(..., method=)`:

  __call__(batch, enable_dropout)        -> logits, for initialization
  compute_hidden(batch, enable_dropout)  -> [rows, length, embed]
  compute_logits(hidden)                 -> [rows, length, vocab] float32
  encode_inputs(inputs)                  -> a tuple of arrays
  start_decoding(*encoded, max_decode_length) -> cache
  decode_step(tokens, step, cache)       -> logits [rows, vocab], cache

`batch` is a mapping with the keys of the family's layout, `inputs` the part of
them that decoding reads. Every leaf of a cache leads with the rows. `tokens` at
step 0 are padding: what they stand for is the family's to know. A cache may
have a method `reorder(rows)`, which moves no more than decoding wrote.
"""

import dataclasses
import importlib
import importlib.util
import pkgutil
from collections.abc import Callable, Mapping
from typing import Any

from flax import linen as nn

from distill_jax import model as model_package
from distill_jax.data.feed.batch_layout import BatchLayout
from distill_jax.errors import UserError
from distill_jax.model.config import ModelConfig
from distill_jax.model.hf_form import HFForm
from distill_jax.partitioning.constraint import ConstrainFn, leave_free

PyTree = Any
# Where a stated configuration names its family.
FAMILY = "family"


@dataclasses.dataclass(frozen=True)
class Flops:
  """What one pass costs in floating point operations.

  Each is called with (config, rows, input tokens, target tokens of a row).

  Attributes:
    count_forward_fn: of a forward pass, logits included.
    count_train_fn: of a forward and a backward pass.
    count_recomputed_fn: of what the backward pass does again to save memory;
      with `loss_chunk_tokens` as one more argument.
  """

  count_forward_fn: Callable[..., int]
  count_train_fn: Callable[..., int]
  count_recomputed_fn: Callable[..., int]


@dataclasses.dataclass(frozen=True)
class Family:
  """What is known of a family of models.

  Attributes:
    name: by which checkpoints and messages know it.
    config_class: its frozen dataclass.
    module_class: (config, constrain_fn) -> its Flax module.
    layout: the arrays of its batches.
    decoding_modules: names at the top of its parameter tree that every decoded
      token reads, to be laid out for decoding; (): decoding has all parameters
      as training has them.
    split_decoding_fn: (config, parameters, those of `decoding_modules` as they
      lie in decoding) -> lists of leaves that decoding reads once, and of those
      that every token reads; None: every token reads all.
    flops: None: they are not counted.
    infer_config_fn: (shapes by path, path of the checkpoint) -> configuration,
      where no file states it; raises UserError where these are not the shapes
      of the family. None: cannot be told.
    hf: None: Hugging Face has no such models.
    presets: functions that make configurations of published models, by the
      names that `distill_jax.presets` has for them.
    is_unnamed: its stated configurations do not name their family, which is
      how all were written while there was one.
  """

  name: str
  config_class: type[ModelConfig]
  module_class: Callable[[Any, ConstrainFn], nn.Module]
  layout: BatchLayout
  decoding_modules: tuple[str, ...] = ()
  split_decoding_fn: Callable[..., tuple[list[Any], list[Any]]] | None = None
  flops: Flops | None = None
  infer_config_fn: Callable[..., ModelConfig] | None = None
  hf: HFForm | None = None
  presets: Mapping[str, Callable[..., ModelConfig]] = dataclasses.field(
    default_factory=dict
  )
  is_unnamed: bool = False


_families: dict[str, Family] = {}


def register(family: Family) -> Family:
  """Makes a family known.

  Args:
    family: of a new name, or the one that was registered by it, whose module
      was imported again.

  Returns:
    The family.

  Raises:
    UserError: another one has its name or its configuration class.
  """
  for other in _families.values():
    same_name = other.name == family.name
    same_class = other.config_class is family.config_class
    is_again = (
      other.config_class.__module__ == family.config_class.__module__
      and other.config_class.__qualname__ == family.config_class.__qualname__
    )
    if (same_name and not is_again) or (same_class and not same_name):
      raise UserError(
        f"The family {family.name!r} with {family.config_class.__qualname__}"
        f" cannot be registered: {other.name!r} with"
        f" {other.config_class.__qualname__} is. Give it a name and a"
        " configuration class of its own."
      )
  _families[family.name] = family
  return family


def list_families() -> list[Family]:
  """Returns all families, those of the package first."""
  package = model_package.__name__
  for folder in pkgutil.iter_modules(model_package.__path__):
    name = f"{package}.{folder.name}.family"
    if folder.ispkg and importlib.util.find_spec(name):
      importlib.import_module(name)
  return list(_families.values())


def get(name: str) -> Family:
  """Returns the family of a name.

  Args:
    name: as it was registered.

  Raises:
    UserError: there is none; names those there are.
  """
  if name not in _families:
    list_families()
  if not isinstance(name, str) or name not in _families:
    raise UserError(
      f"No family of models is called {name!r}; known are"
      f" {', '.join(_families)}. Import the module that registers it, in a gin"
      " file for instance: from my_package import my_family"
    )
  return _families[name]


def find(config: ModelConfig) -> Family:
  """Returns the family of a configuration.

  Args:
    config: a family's.

  Raises:
    UserError: its class is of no family; names those there are.
  """
  for families in (_families.values(), list_families()):
    for family in families:
      if type(config) is family.config_class:
        return family
  raise UserError(
    f"MODEL_CONFIG is a {type(config).__name__}, which no family of models has;"
    f" known are {', '.join(_families)}. A family is registered with"
    " distill_jax.model.registry.register."
  )


def make_module(
  config: ModelConfig, constrain_fn: ConstrainFn = leave_free
) -> nn.Module:
  """Builds the model of a configuration.

  Args:
    config: sizes and choices.
    constrain_fn: called on activations with their logical axis names.
  """
  return find(config).module_class(config, constrain_fn)


def state_config(config: ModelConfig) -> dict[str, Any]:
  """Returns a configuration as JSON can hold it, for `read_config`.

  Args:
    config: of any family.
  """
  family = find(config)
  named = {} if family.is_unnamed else {FAMILY: family.name}
  return named | config.list_fields()


def read_config(stated: Mapping[str, Any]) -> ModelConfig:
  """Makes a configuration of what `state_config` returned.

  Args:
    stated: fields by name, and the family's name. Fields may be missing that
      have defaults.

  Raises:
    UserError: no such family is registered, or a value cannot be.
    TypeError: a field is not known, or one without default is missing.
  """
  fields = dict(stated)
  if FAMILY in fields:
    return get(fields.pop(FAMILY)).config_class(**fields)
  for family in list_families():
    if family.is_unnamed:
      return family.config_class(**fields)
  raise UserError("The configuration names no family of models.")


def infer_config(
  shapes: Mapping[str, tuple[int, ...]], path: str
) -> ModelConfig:
  """Reads the architecture off the shapes of a checkpoint's parameters.

  Args:
    shapes: by path.
    path: of the checkpoint, for the error.

  Raises:
    UserError: no family has such parameters.
  """
  errors = []
  for family in list_families():
    if family.infer_config_fn is not None:
      try:
        return family.infer_config_fn(shapes, path)
      except UserError as error:
        errors.append(error)
  raise errors[0]
