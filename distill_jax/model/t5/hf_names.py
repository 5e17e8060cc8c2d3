"""Which Hugging Face tensor is which parameter of ours.

A table made from the architecture, so that both directions, and whatever is
missing or too much, follow from it.
"""

from collections.abc import Iterator

from distill_jax.model.hf_form import HFName
from distill_jax.model.t5.config import T5Config

EMBEDDING = "shared.weight"
LOGITS = "lm_head.weight"
# Copies of the embedding that some writers store again, and a bias that T5
# never had but early conversions wrote.
IGNORED = (
  "encoder.embed_tokens.weight",
  "decoder.embed_tokens.weight",
  "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight",
)

_PROJECTIONS = (("q", "query"), ("k", "key"), ("v", "value"), ("o", "out"))


def make_names(config: T5Config) -> dict[str, HFName]:
  """Returns the Hugging Face name of every parameter.

  Args:
    config: the architecture.

  Returns:
    By our parameter path; transformers' T5, MT5 and UMT5 name them alike.
  """
  names = {"token_embedder/embedding": HFName(EMBEDDING, False)}
  for stack, num_layers, sublayers in (
    ("encoder", config.num_encoder_layers, _ENCODER),
    ("decoder", config.num_decoder_layers, _DECODER),
  ):
    for layer in range(num_layers):
      ours, theirs = f"{stack}/layers_{layer}", f"{stack}.block.{layer}.layer"
      for i, (norm, branch, their_branch) in enumerate(sublayers):
        names[f"{ours}/{norm}/scale"] = HFName(
          f"{theirs}.{i}.layer_norm.weight", False
        )
        for their_kernel, kernel in _kernels(branch, config):
          names[f"{ours}/{branch}/{kernel}/kernel"] = HFName(
            f"{theirs}.{i}.{their_branch}.{their_kernel}.weight", True
          )
      bias = HFName(
        f"{theirs}.0.SelfAttention.relative_attention_bias.weight", True
      )
      if config.per_layer_relative_bias:
        names[f"{ours}/relpos_bias/rel_embedding"] = bias
      elif layer == 0:
        names[f"{stack}/relpos_bias/rel_embedding"] = bias
    names[f"{stack}/{stack}_norm/scale"] = HFName(
      f"{stack}.final_layer_norm.weight", False
    )
  if not config.tie_embeddings:
    names["decoder/logits_dense/kernel"] = HFName(LOGITS, True)
  return names


# Norm, branch and their name for the branch, in the order of the sublayers.
_ENCODER = (
  ("pre_attention_layer_norm", "attention", "SelfAttention"),
  ("pre_mlp_layer_norm", "mlp", "DenseReluDense"),
)
_DECODER = (
  ("pre_self_attention_layer_norm", "self_attention", "SelfAttention"),
  (
    "pre_cross_attention_layer_norm",
    "encoder_decoder_attention",
    "EncDecAttention",
  ),
  ("pre_mlp_layer_norm", "mlp", "DenseReluDense"),
)


def _kernels(branch: str, config: T5Config) -> Iterator[tuple[str, str]]:
  """Yields Hugging Face's and our name of each kernel in a branch."""
  if branch != "mlp":
    yield from _PROJECTIONS
    return
  if len(config.mlp_activations) == 1:
    yield "wi", "wi"
  else:
    for i in range(len(config.mlp_activations)):
      yield f"wi_{i}", f"wi_{i}"
  yield "wo", "wo"
