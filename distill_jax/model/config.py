"""What the configuration of every family has.

A family's own is a frozen dataclass below this class; gin fills it.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar


class ModelConfig:
  """The sizes and choices that make one model out of its family.

  Attributes:
    vocab_size: rows of the embedding, at least the vocabulary's size.
    dtype: of the activations, "float32" or "bfloat16".
    computation_fields: how a model is computed, but not what: same parameters,
      same results but for rounding. A run may be resumed with others.
    run_fields: fields that a checkpoint does not keep, but has at their
      defaults: how a program ran is no property of what it saved.
    training_fields: fields that change no prediction.
    hidden_fields: what decides what the weights compute, and no shape shows.
  """

  vocab_size: int
  dtype: str
  computation_fields: ClassVar[tuple[str, ...]] = ()
  run_fields: ClassVar[tuple[str, ...]] = ()
  training_fields: ClassVar[tuple[str, ...]] = ()
  hidden_fields: ClassVar[tuple[str, ...]] = ()

  def check_platform(self, platform: str) -> None:
    """Refuses devices that the model does not run on.

    Args:
      platform: of the devices, as JAX calls it: "cpu", "gpu" or "tpu".

    Raises:
      UserError: names both.
    """

  def check_lengths(self, feature_lengths: Mapping[str, int]) -> None:
    """Refuses rows that the model does not take.

    Args:
      feature_lengths: {'inputs': ..., 'targets': ...} tokens of a row.

    Raises:
      UserError: names them.
    """

  def describe(self) -> str:
    """Names the architecture by its sizes, for messages."""
    return repr(self)

  def take_part(self, num_parts: int) -> "ModelConfig":
    """Returns the configuration of a device's part of the model.

    Args:
      num_parts: devices along the mesh's axis `model`.
    """
    assert num_parts == 1, f"{type(self).__name__} is not divided"
    return self

  def drop_run_settings(self) -> "ModelConfig":
    """Returns the architecture without how a run happened to compute it."""
    defaults = {
      field.name: field.default
      for field in dataclasses.fields(self)  # pyright: ignore[reportArgumentType]
      if field.name in self.run_fields
    }
    return dataclasses.replace(self, **defaults)  # pyright: ignore

  def list_fields(self) -> dict[str, Any]:
    """Returns the values of all fields by name, in their order."""
    return dataclasses.asdict(self)  # pyright: ignore[reportArgumentType]
