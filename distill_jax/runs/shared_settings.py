"""Settings that several run modes declare alike."""

from typing import Any

from distill_jax.config.declaration import field
from distill_jax.decoding import layout as layout_lib
from distill_jax.decoding.strategy import DecodingConfig


def mesh_field(is_common: bool = False) -> Any:
  """Declares `mesh`, MESH: a mapping of axes to sizes.

  Args:
    is_common: see `declaration.field`.
  """
  return field(
    default_factory=lambda: {"data": -1},
    macro="MESH",
    is_common=is_common,
    help="devices of a slice along each axis; -1: those that are left",
  )


def dcn_mesh_field() -> Any:
  """Declares `dcn_mesh`, DCN_MESH: a mapping of axes to sizes, or None."""
  return field(
    None,
    macro="DCN_MESH",
    help="slices along each axis; None: all along the data axis",
  )


def model_config_field() -> Any:
  """Declares `model_config` of modes that read a checkpoint, or None."""
  return field(
    None,
    help="None: the run's, or what the checkpoint says",
    gin_text="%MODEL_CONFIG",
  )


def batch_rows_field() -> Any:
  """Declares `batch_rows` of modes that do not train, BATCH_SIZE."""
  return field(
    32, macro="BATCH_SIZE", least=1, is_common=True, help="rows of a batch"
  )


def decoding_field() -> Any:
  """Declares `decoding`: a `DecodingConfig`."""
  return field(
    DecodingConfig(),
    help="how predictions are decoded",
    gin_text="@strategy.DecodingConfig()",
  )


def decode_layout_field(help: str | None = None) -> Any:
  """Declares `decode_layout`, DECODE_LAYOUT: one of `decoding.layout.LAYOUTS`.

  Args:
    help: what it means; None: a reference to where that is said.
  """
  return field(
    layout_lib.AUTO,
    macro="DECODE_LAYOUT",
    one_of=layout_lib.LAYOUTS,
    help=help
    or "where the decoder's parameters lie meanwhile, as in gin/runs/eval.gin",
  )
