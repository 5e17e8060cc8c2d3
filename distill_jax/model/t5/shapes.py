"""The architecture of a T5 read off the shapes of its parameters."""

import re
from collections.abc import Mapping
from typing import Any

from distill_jax.errors import UserError
from distill_jax.model.t5.config import T5Config

_LAYER = re.compile(r"(encoder|decoder)/layers_(\d+)/(.+)")


def infer_config(shapes: Mapping[str, tuple[int, ...]], path: str) -> T5Config:
  """Reads the architecture off the shapes of its parameters.

  T5X checkpoints do not state it, and the shapes leave nothing open but two:
  the activation, which is gelu in every gated T5 and relu in the others, and
  the farthest distance with a bucket of its own, 128 in all of them.

  Args:
    shapes: of the parameters, by path.
    path: of the checkpoint, for the error.

  Raises:
    UserError: these are not the parameters of a T5.
  """

  def shape(name: str) -> tuple[int, ...]:
    if name not in shapes:
      raise UserError(
        f"{path} is no T5 encoder-decoder: it has no tensor {name}. It has"
        f" {', '.join(sorted(shapes)[:4]) or 'none'} ..."
      )
    return shapes[name]

  def count_layers(stack: str) -> int:
    return len(
      {found[2] for name in shapes if (found := _LAYER.match(name))
       and found[1] == stack}
    )  # fmt: skip

  is_gated = "encoder/layers_0/mlp/wi_0/kernel" in shapes
  is_shared = "encoder/relpos_bias/rel_embedding" in shapes
  bias = "encoder/relpos_bias/rel_embedding"
  if not is_shared:
    bias = "encoder/layers_0/relpos_bias/rel_embedding"
  try:
    num_heads, num_buckets = shape(bias)
    vocab_size, embed_dim = shape("token_embedder/embedding")
    _, joined_dim = shape("encoder/layers_0/attention/query/kernel")
    _, mlp_dim = shape(
      f"encoder/layers_0/mlp/{'wi_0' if is_gated else 'wi'}/kernel"
    )
  except ValueError as error:
    raise UserError(
      f"{path} is no T5 encoder-decoder: a tensor has not two dimensions."
    ) from error
  settings: dict[str, Any] = {} if is_shared else {
    "per_layer_relative_bias": True
  }  # fmt: skip
  return T5Config(
    vocab_size=vocab_size,
    embed_dim=embed_dim,
    num_heads=num_heads,
    head_dim=joined_dim // max(num_heads, 1),
    mlp_dim=mlp_dim,
    num_encoder_layers=count_layers("encoder"),
    num_decoder_layers=count_layers("decoder"),
    mlp_activations=("gelu", "linear") if is_gated else ("relu",),
    tie_embeddings="decoder/logits_dense/kernel" not in shapes,
    relative_attention_num_buckets=num_buckets,
    **settings,
  )
