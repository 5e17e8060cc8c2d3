"""The published sizes of T5 and its relatives, as in gin/models.

Example:
  >>> import distill_jax as dj
  >>> dj.presets.t5_1_1("small").embed_dim
  512
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from distill_jax.errors import UserError
from distill_jax.model.t5.config import T5Config

# embed_dim, num_heads, head_dim, mlp_dim, layers of encoder and decoder.
_T5_1_1 = {
  "small": (512, 6, 64, 1024, 8, 8),
  "base": (768, 12, 64, 2048, 12, 12),
  "large": (1024, 16, 64, 2816, 24, 24),
  "xl": (2048, 32, 64, 5120, 24, 24),
  "xxl": (4096, 64, 64, 10240, 24, 24),
}
_T5_1_0 = {
  "small": (512, 8, 64, 2048, 6, 6),
  "base": (768, 12, 64, 3072, 12, 12),
  "large": (1024, 16, 64, 4096, 24, 24),
  "xl": (1024, 32, 128, 16384, 24, 24),
  "xxl": (1024, 128, 128, 65536, 24, 24),
}
_BYT5 = {
  "small": (1472, 6, 64, 3584, 12, 4),
  "base": (1536, 12, 64, 3968, 18, 6),
  "large": (1536, 16, 64, 3840, 36, 12),
  "xl": (2560, 32, 64, 6720, 36, 12),
  "xxl": (4672, 64, 64, 12352, 36, 12),
}
_UMT5 = {size: sizes for size, sizes in _T5_1_1.items() if size != "large"}
# For tests and first runs; fits no published checkpoint.
_TINY = (64, 4, 16, 128, 2, 2)
_TINY_VOCABULARY = 1024


def t5_1_0(size: str, **changes: Any) -> T5Config:
  """Returns the T5 1.0 of a size.

  Example:
    >>> import distill_jax as dj
    >>> dj.presets.t5_1_0("base").tie_embeddings
    True

  Args:
    size: "tiny", "small", "base", "large", "xl" or "xxl".
    **changes: other fields of `T5Config`, such as `dropout_rate`.

  Raises:
    UserError: there is no such size or field, or a value cannot be.
  """
  return _make(
    _T5_1_0,
    size,
    32_128,
    changes,
    mlp_activations=("relu",),
    tie_embeddings=True,
  )


def t5_1_1(size: str, **changes: Any) -> T5Config:
  """Returns the T5 1.1 of a size; Flan-T5 has the same sizes.

  Example:
    >>> import distill_jax as dj
    >>> dj.presets.t5_1_1("tiny", vocab_size=384).vocab_size
    384

  Args:
    size: as for `t5_1_0`.
    **changes: as there.

  Raises:
    UserError: as there.
  """
  return _make(_T5_1_1, size, 32_128, changes)


def mt5(size: str, **changes: Any) -> T5Config:
  """Returns the mT5 of a size: T5 1.1 with a larger vocabulary.

  Example:
    >>> import distill_jax as dj
    >>> dj.presets.mt5("base").vocab_size
    250112

  Args:
    size: as for `t5_1_0`.
    **changes: as there.

  Raises:
    UserError: as there.
  """
  return _make(_T5_1_1, size, 250_112, changes)


def umt5(size: str, **changes: Any) -> T5Config:
  """Returns the umT5 of a size; there is no "large".

  Example:
    >>> import distill_jax as dj
    >>> dj.presets.umt5("small").per_layer_relative_bias
    True

  Args:
    size: as for `t5_1_0`.
    **changes: as there.

  Raises:
    UserError: as there.
  """
  return _make(_UMT5, size, 256_384, changes, per_layer_relative_bias=True)


def byt5(size: str, **changes: Any) -> T5Config:
  """Returns the ByT5 of a size, which reads bytes: `vocab_path="bytes"`.

  Example:
    >>> import distill_jax as dj
    >>> dj.presets.byt5("small").num_decoder_layers
    4

  Args:
    size: as for `t5_1_0`.
    **changes: as there.

  Raises:
    UserError: as there.
  """
  if size == "tiny":
    changes = {"vocab_size": 384, **changes}
  return _make(_BYT5, size, 384, changes)


def _make(
  sizes: Mapping[str, tuple[int, ...]],
  size: str,
  vocab_size: int,
  changes: Mapping[str, Any],
  **family: Any,
) -> T5Config:
  if size != "tiny" and size not in sizes:
    known = ", ".join(map(repr, ("tiny", *sizes)))
    raise UserError(f"The size is {size!r}; it must be one of {known}.")
  fields = [field.name for field in dataclasses.fields(T5Config)]
  if unknown := [name for name in changes if name not in fields]:
    raise UserError(
      f"T5Config has no {', '.join(unknown)}, only {', '.join(fields)}."
    )
  is_tiny = size == "tiny"
  embed_dim, num_heads, head_dim, mlp_dim, num_encoder_layers, num_decoder = (
    _TINY if is_tiny else sizes[size]
  )
  values = {
    "vocab_size": _TINY_VOCABULARY if is_tiny else vocab_size,
    "embed_dim": embed_dim,
    "num_heads": num_heads,
    "head_dim": head_dim,
    "mlp_dim": mlp_dim,
    "num_encoder_layers": num_encoder_layers,
    "num_decoder_layers": num_decoder,
    "dropout_rate": 0.0 if is_tiny else 0.1,
  }
  return T5Config(**{**values, **family, **changes})
