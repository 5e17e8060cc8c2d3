"""The sizes and choices that make one T5 out of the family.

It knows nothing of arrays: the layers read it, gin fills it. Named sizes are
gin files, `gin/models/<family>/<size>.gin`.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import ClassVar

from distill_jax.errors import UserError
from distill_jax.model.layers.layer_config import (
  GPU_ATTENTION,
  MAX_LAYERS,
  LayerConfig,
)

_POSITIVE_INTEGERS = (
  "vocab_size",
  "embed_dim",
  "num_heads",
  "head_dim",
  "mlp_dim",
  "num_encoder_layers",
  "num_decoder_layers",
)
_ACTIVATIONS = ("relu", "gelu", "linear")
_DTYPES = ("float32", "bfloat16")
REMAT_POLICIES = ("none", "full", "minimal")
# Attention -> the platform it runs on, as JAX calls it; None: any.
_ATTENTION_PLATFORMS = {
  "xla": None,
  "cudnn": "gpu",
  "tokamax": "gpu",
  "pallas_tpu": "tpu",
}


@dataclasses.dataclass(frozen=True)
class T5Config(LayerConfig):
  """One T5 architecture.

  Parameters are float32 always, as are softmax, norm statistics and logits.

  Attributes:
    vocab_size: rows of the embedding, at least the vocabulary's size.
    embed_dim: width of the residual stream.
    num_heads: attention heads; their joint width may differ from `embed_dim`.
    head_dim: width of one head.
    mlp_dim: width of the MLP's hidden layer.
    num_encoder_layers: layers of the encoder.
    num_decoder_layers: layers of the decoder.
    mlp_activations: one name for T5 1.0, ("relu",); several make a gated MLP,
      the product of that many projections, ("gelu", "linear") in T5 1.1. "gelu"
      is the tanh approximation. Kept as a tuple.
    tie_embeddings: logits from the transposed embedding, divided by
      sqrt(embed_dim), as T5 1.0 has it; otherwise from their own kernel.
    dropout_rate: probability of dropping, in [0, 1).
    per_layer_relative_bias: a relative position bias for every layer, as umT5
      has it; otherwise one that all layers of a stack share.
    relative_attention_num_buckets: buckets of the relative position bias; even,
      because the encoder halves them between its two directions.
    relative_attention_max_distance: from here on all tokens share a bucket.
    layer_norm_epsilon: added to the mean square before its root.
    dtype: of the activations, "float32" or "bfloat16".
    scan_layers: compile one layer of a stack and loop over it, see
      `model.layers.layer_stack`.
    remat_policy: what the forward pass keeps for the backward pass, in T5X's
      words: "none" computes nothing again, "full" keeps the layers' inputs and
      computes all else again, "minimal" keeps products with parameters and
      what a GPU's fused attention made too.
    attention_implementation: "xla"; "cudnn" or "tokamax", a GPU's fused
      kernels, in bfloat16 alone; "pallas_tpu", a TPU's. See
      `model.layers.dot_product`.

  Raises:
    UserError: a value no model can be built from.
  """

  vocab_size: int
  embed_dim: int
  num_heads: int
  head_dim: int
  mlp_dim: int
  num_encoder_layers: int
  num_decoder_layers: int
  mlp_activations: Sequence[str] = ("gelu", "linear")
  tie_embeddings: bool = False
  dropout_rate: float = 0.1
  per_layer_relative_bias: bool = False
  relative_attention_num_buckets: int = 32
  relative_attention_max_distance: int = 128
  layer_norm_epsilon: float = 1e-6
  dtype: str = "float32"
  scan_layers: bool = False
  remat_policy: str = "none"
  attention_implementation: str = "xla"

  computation_fields: ClassVar[tuple[str, ...]] = (
    "attention_implementation",
    "remat_policy",
  )
  run_fields: ClassVar[tuple[str, ...]] = (
    "attention_implementation",
    "remat_policy",
    "scan_layers",
  )
  training_fields: ClassVar[tuple[str, ...]] = (
    "scan_layers",
    "remat_policy",
    "dropout_rate",
  )
  hidden_fields: ClassVar[tuple[str, ...]] = (
    "mlp_activations",
    "relative_attention_max_distance",
    "layer_norm_epsilon",
  )

  def __post_init__(self):
    # A list, as gin and JSON write it, would make the config unhashable.
    object.__setattr__(self, "mlp_activations", tuple(self.mlp_activations))
    for field in _POSITIVE_INTEGERS:
      value = getattr(self, field)
      if not isinstance(value, int) or value < 1:
        raise UserError(
          f"T5Config.{field} is {value!r}; it must be a whole number from 1."
        )
    for field in ("num_encoder_layers", "num_decoder_layers"):
      if getattr(self, field) > MAX_LAYERS:
        raise UserError(
          f"T5Config.{field} is {getattr(self, field)}; no T5 has more than"
          f" {MAX_LAYERS}."
        )
    unknown = set(self.mlp_activations) - set(_ACTIVATIONS)
    if unknown or not self.mlp_activations:
      raise UserError(
        f"T5Config.mlp_activations is {self.mlp_activations}; it names one or"
        f" more of {', '.join(_ACTIVATIONS)}."
      )
    if not 0 <= self.dropout_rate < 1:
      raise UserError(
        f"DROPOUT_RATE is {self.dropout_rate}; it is a probability, from 0 to"
        " below 1."
      )
    if self.dtype not in _DTYPES:
      raise UserError(
        f"ACTIVATION_DTYPE is {self.dtype!r}; it must be one of"
        f" {', '.join(_DTYPES)}."
      )
    if not isinstance(self.scan_layers, bool):
      raise UserError(
        f"SCAN_LAYERS is {self.scan_layers!r}; it must be True or False."
      )
    if self.remat_policy not in REMAT_POLICIES:
      raise UserError(
        f"REMAT_POLICY is {self.remat_policy!r}; it must be one of"
        f" {', '.join(REMAT_POLICIES)}."
      )
    self._check_attention()
    for field in (
      "relative_attention_num_buckets",
      "relative_attention_max_distance",
    ):
      if not isinstance(getattr(self, field), int):
        raise UserError(
          f"T5Config.{field} is {getattr(self, field)!r}; it must be a whole"
          " number."
        )
    num_buckets = self.relative_attention_num_buckets
    if num_buckets < 4 or num_buckets % 2:
      raise UserError(
        f"T5Config.relative_attention_num_buckets is {num_buckets}; it must be"
        " even and at least 4."
      )
    if self.relative_attention_max_distance <= num_buckets // 2:
      raise UserError(
        "T5Config.relative_attention_max_distance is"
        f" {self.relative_attention_max_distance}; it must exceed"
        f" {num_buckets // 2}, the distances with a bucket of their own."
      )
    if not 0 < self.layer_norm_epsilon < math.inf:
      raise UserError(
        f"T5Config.layer_norm_epsilon is {self.layer_norm_epsilon}; it must be"
        " above 0."
      )

  def _check_attention(self):
    name = self.attention_implementation
    if name not in _ATTENTION_PLATFORMS:
      raise UserError(
        f"ATTENTION_IMPLEMENTATION is {name!r}; it must be one of"
        f" {', '.join(map(repr, _ATTENTION_PLATFORMS))}."
      )
    if name in GPU_ATTENTION and (
      self.dtype != "bfloat16" or self.head_dim % 8
    ):
      raise UserError(
        f"ATTENTION_IMPLEMENTATION is {name!r}, which needs ACTIVATION_DTYPE ="
        f" 'bfloat16' and a head_dim that divides by 8; they are {self.dtype!r}"
        f" and {self.head_dim}."
      )

  def check_platform(self, platform: str) -> None:
    """Refuses devices that the attention has no kernel for."""
    name = self.attention_implementation
    if _ATTENTION_PLATFORMS[name] not in (None, platform):
      raise UserError(
        f"ATTENTION_IMPLEMENTATION is {name!r}, which runs on a"
        f" {_ATTENTION_PLATFORMS[name]}; the devices are {platform}s. Give"
        " 'xla'."
      )

  def check_lengths(self, feature_lengths: Mapping[str, int]) -> None:
    """Refuses odd lengths where cuDNN is asked for."""
    is_odd = any(length % 2 for length in feature_lengths.values())
    if self.attention_implementation == "cudnn" and is_odd:
      raise UserError(
        f"TASK_FEATURE_LENGTHS is {dict(feature_lengths)}, and"
        " ATTENTION_IMPLEMENTATION is 'cudnn', which takes even numbers of"
        " tokens. Give even ones, or 'xla'."
      )

  def describe(self) -> str:
    """Names the architecture by its sizes, as the model gin files spell it."""
    kind = "T5 1.1" if len(self.mlp_activations) > 1 else "T5 1.0"
    return (
      f"{kind} with vocab_size {self.vocab_size}, embed_dim {self.embed_dim},"
      f" num_heads {self.num_heads}, head_dim {self.head_dim}, mlp_dim"
      f" {self.mlp_dim}, {self.num_encoder_layers} encoder and"
      f" {self.num_decoder_layers} decoder layers"
    )

  def take_part(self, num_parts: int) -> "T5Config":
    """Returns a part of the heads, of the MLP and of the vocabulary."""
    return dataclasses.replace(
      self,
      num_heads=self.num_heads // num_parts,
      mlp_dim=self.mlp_dim // num_parts,
      vocab_size=self.vocab_size // num_parts,
    )
