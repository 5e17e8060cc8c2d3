"""T5 as a family: what the rest of the program has of it."""

from typing import Any

import jax

from distill_jax.data.feed import batch_layout
from distill_jax.model import registry
from distill_jax.model.hf_form import HFForm
from distill_jax.model.t5 import (
  flops,
  hf_config,
  hf_names,
  hf_tensors,
  presets,
  shapes,
)
from distill_jax.model.t5.config import T5Config
from distill_jax.model.t5.t5 import T5

PyTree = Any
# Modules of the decoder that read the encoder's output alone.
_PROJECTIONS_OF_ENCODED = (
  ("encoder_decoder_attention", "key"),
  ("encoder_decoder_attention", "value"),
)


def split_decoding(
  config: T5Config, params: PyTree, decoding_params: PyTree
) -> tuple[list[Any], list[Any]]:
  """Parts parameters into those read once and those read for every token.

  The encoder runs once, and so do the keys and values of its output.

  Args:
    config: of the model.
    params: its parameters.
    decoding_params: those of the decoder and of the embedding, as they lie
      while it decodes.

  Returns:
    Two lists of leaves.
  """
  decoder = dict(decoding_params["decoder"])
  if config.tie_embeddings:
    decoder["logits_dense"] = decoding_params["token_embedder"]
  once, for_every_token = jax.tree.leaves(params["encoder"]), []
  for path, leaf in jax.tree_util.tree_leaves_with_path(decoder):
    names = tuple(getattr(key, "key", key) for key in path)
    is_once = names[-3:-1] in _PROJECTIONS_OF_ENCODED
    (once if is_once else for_every_token).append(leaf)
  return once, for_every_token


registry.register(
  registry.Family(
    name="t5",
    config_class=T5Config,
    module_class=T5,
    layout=batch_layout.ENCODER_DECODER,
    decoding_modules=("decoder", "token_embedder"),
    split_decoding_fn=split_decoding,
    flops=registry.Flops(
      flops.count_forward_flops,
      flops.count_train_flops,
      flops.count_recomputed_flops,
    ),
    infer_config_fn=shapes.infer_config,
    hf=HFForm(
      model_types=hf_config.MODEL_TYPES,
      auto_class="AutoModelForSeq2SeqLM",
      find_type_fn=hf_config.find_model_type,
      read_fn=hf_tensors.read_model,
      make_names_fn=hf_names.make_names,
      make_config_fn=hf_config.make_config,
      check_config_fn=hf_config.check_fields,
      check_generation_fn=hf_config.check_token_ids,
      make_generation_fn=hf_config.make_generation,
      list_notes_fn=hf_config.list_notes,
    ),
    presets={
      "byt5": presets.byt5,
      "mt5": presets.mt5,
      "t5_1_0": presets.t5_1_0,
      "t5_1_1": presets.t5_1_1,
      "umt5": presets.umt5,
    },
    is_unnamed=True,
  )
)
