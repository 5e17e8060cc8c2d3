"""What a Hugging Face `config.json` says, each field counted or refused.

Whatever changes what a T5 computes is read, or refused by name where it is not
as we compute; the rest is known to change nothing, or is named in a warning.
"""

import logging
import pathlib
from collections.abc import Mapping
from typing import Any

from distill_jax.errors import UserError
from distill_jax.model.t5.config import T5Config

# Each type's `feed_forward_proj` where a configuration does not say.
_PROJECTIONS = {"t5": "relu", "mt5": "gated-gelu", "umt5": "gated-gelu"}
MODEL_TYPES = tuple(_PROJECTIONS)
ACTIVATIONS = {"relu": ("relu",), "gated-gelu": ("gelu", "linear")}
# transformers' name of the function that a projection means. "gelu" would be
# the exact one, "gelu_new" is the tanh approximation.
_DENSE_ACT_FN = {"relu": "relu", "gated-gelu": "gelu_new"}
# Our field of the activations' type, float32 where it is not there: theirs,
# `dtype`, names the type of the weights.
ACTIVATION_DTYPE = "activation_dtype"

# transformers takes either name of a field.
_ALIASES = {
  "hidden_size": "d_model",
  "head_dim": "d_kv",
  "num_attention_heads": "num_heads",
  "num_hidden_layers": "num_layers",
}
# The ids of T5, which our decoding and vocabularies have.
_TOKEN_IDS = {
  "decoder_start_token_id": 0,
  "pad_token_id": 0,
  "eos_token_id": 1,
}
# The one value of each that we compute.
_FIXED: dict[str, Any] = {
  "is_encoder_decoder": True,
  "is_decoder": False,
  "tie_encoder_decoder": False,
  "use_bfloat16": False,
  "pruned_heads": {},
  "quantization_config": None,
  "compression_config": None,
  "per_layer_config": None,
  "auto_map": None,
}
# Classes without a T5's decoder, or with another head.
_OTHER_CLASSES = ("Encoder", "Classification", "QuestionAnswering")
_COUNTED = {
  "model_type", "architectures", "feed_forward_proj", "dense_act_fn",
  "is_gated_act", "tie_word_embeddings", "scale_decoder_outputs", "vocab_size",
  "d_model", "d_kv", "d_ff", "num_heads", "num_layers", "num_decoder_layers",
  "dropout_rate", "relative_attention_num_buckets",
  "relative_attention_max_distance", "layer_norm_epsilon", "bos_token_id",
  ACTIVATION_DTYPE,
}  # fmt: skip
# No model of T5 in transformers computes otherwise for them: names and
# versions, starting values of fresh weights, other heads, what a forward pass
# returns, how weights are stored, and how `generate` decodes, which are
# settings of ours.
_HARMLESS = {
  "_name_or_path", "name_or_path", "_commit_hash", "transformers_version",
  "initializer_factor", "initializer_range", "classifier_dropout", "use_cache",
  "dtype", "torch_dtype", "n_positions", "output_past", "tokenizer_class",
  "gradient_checkpointing", "chunk_size_feed_forward", "finetuning_task",
  "id2label", "label2id", "num_labels", "problem_type", "torchscript",
  "return_dict", "output_attentions", "output_hidden_states", "vocab_file",
  "add_cross_attention", "cross_attention_hidden_size", "attn_implementation",
  "_attn_implementation", "_attn_implementation_autoset", "tf_legacy_loss",
  "experts_implementation", "sep_token_id", "task_specific_params", "prefix",
  "max_length", "min_length", "do_sample", "early_stopping", "num_beams",
  "num_beam_groups", "diversity_penalty", "temperature", "top_k", "top_p",
  "typical_p", "repetition_penalty", "length_penalty", "no_repeat_ngram_size",
  "encoder_no_repeat_ngram_size", "bad_words_ids", "num_return_sequences",
  "output_scores", "return_dict_in_generate", "forced_bos_token_id",
  "forced_eos_token_id", "remove_invalid_values", "suppress_tokens",
  "begin_suppress_tokens", "exponential_decay_length_penalty",
}  # fmt: skip
_log = logging.getLogger(__name__)


def find_model_type(hf_config: Mapping[str, Any]) -> str | None:
  """Returns "t5", "mt5" or "umt5"; None: it is another model.

  Args:
    hf_config: of `config.json`.
  """
  model_type = hf_config.get("model_type")
  if model_type is None:
    # The published umT5 checkpoints name their class only.
    architecture = str(hf_config.get("architectures")).lower()
    named = [name for name in MODEL_TYPES if f"'{name}for" in architecture]
    model_type = named[0] if named else None
  is_known = isinstance(model_type, str) and model_type in MODEL_TYPES
  return model_type if is_known else None


def read_model_type(
  hf_config: Mapping[str, Any], path: str | pathlib.Path
) -> str:
  """Returns "t5", "mt5" or "umt5".

  Args:
    hf_config: of `config.json`.
    path: of the file, for messages; so everywhere here.

  Raises:
    UserError: it is another model.
  """
  model_type = find_model_type(hf_config)
  if model_type is None:
    raise UserError(
      f"{path}: model_type is {hf_config.get('model_type')!r}; T5's are"
      f" {', '.join(MODEL_TYPES)}."
    )
  return model_type


def check_fields(
  hf_config: Mapping[str, Any], path: str | pathlib.Path
) -> None:
  """Refuses fields that state another computation than ours.

  Args:
    hf_config: of `config.json`, with a T5's model type.
    path: see `read_model_type`.

  Raises:
    UserError: names the field, its value and the one that we compute.
  """
  classes = str(hf_config.get("architectures"))
  if any(name in classes for name in _OTHER_CLASSES):
    raise UserError(
      f"{path}: architectures is {classes}; read are encoder-decoders whose"
      " head gives logits, ...ForConditionalGeneration."
    )
  check_token_ids(hf_config, path)
  projection = _read_projection(hf_config, path)
  expected = _FIXED | {
    "dense_act_fn": _DENSE_ACT_FN[projection],
    "is_gated_act": projection.startswith("gated-"),
  }
  for name, value in expected.items():
    found = hf_config.get(name)
    if found is None or (found == value and type(found) is type(value)):
      continue
    reason = (
      f"with feed_forward_proj {projection!r} it is {value!r}"
      if name not in _FIXED
      else f"only {value!r} is computed"
    )
    raise UserError(
      f"{path}: {name} is {_shorten(found)}; {reason}. A model made with it"
      " would give other numbers here."
    )
  unknown = sorted(
    hf_config.keys()
    - _COUNTED
    - _HARMLESS
    - _ALIASES.keys()
    - _TOKEN_IDS.keys()
    - expected.keys()
  )
  if unknown:
    _log.warning(
      "%s states %d fields that are not known and do not count: %s",
      path,
      len(unknown),
      ", ".join(_shorten(name) for name in unknown[:8]),
    )


def check_token_ids(
  content: Mapping[str, Any], path: str | pathlib.Path
) -> None:
  """Refuses ids of padding, end and start that are not T5's.

  Args:
    content: of `config.json` or `generation_config.json`.
    path: see `read_model_type`.

  Raises:
    UserError: names the field, its value and T5's.
  """
  for name, value in _TOKEN_IDS.items():
    found = content.get(name)
    if found is not None and found not in (value, [value]):
      raise UserError(
        f"{path}: {name} is {_shorten(found)}; T5's is {value}, and no other is"
        " decoded with."
      )
  # What transformers starts with where no decoder_start_token_id is given.
  start = content.get("bos_token_id")
  if content.get("decoder_start_token_id") is None and start not in (None, 0):
    raise UserError(
      f"{path}: bos_token_id is {_shorten(start)} and there is no"
      " decoder_start_token_id, so that transformers would start with it; T5"
      " starts with 0. State decoder_start_token_id 0 if this model does."
    )


def read_config(
  model_type: str,
  hf_config: Mapping[str, Any],
  is_tied: bool,
  path: str | pathlib.Path,
) -> T5Config:
  """Translates Hugging Face's configuration, defaults included.

  Args:
    model_type: see `read_model_type`.
    hf_config: of `config.json`; see `check_fields`.
    is_tied: whether the logits come from the embedding.
    path: see `read_model_type`.

  Raises:
    UserError: a field is missing or has a value no T5 can be built from.
  """

  def number(key: str, default: Any = None) -> Any:
    value = hf_config.get(key)
    for alias, name in _ALIASES.items():
      other = hf_config.get(alias) if name == key else None
      if other is not None and value is not None and other != value:
        raise UserError(
          f"{path}: {key} is {_shorten(value)} and {alias}, its other name, is"
          f" {_shorten(other)}. Remove the one that is wrong."
        )
      value = other if value is None else value
    value = default if value is None else value
    if isinstance(value, bool) or not isinstance(value, int | float):
      raise UserError(
        f"{path}: {key} is {value!r}; a number was expected there."
      )
    return value

  num_layers = number("num_layers")
  return T5Config(
    vocab_size=number("vocab_size"),
    embed_dim=number("d_model"),
    num_heads=number("num_heads"),
    head_dim=number("d_kv"),
    mlp_dim=number("d_ff"),
    num_encoder_layers=num_layers,
    num_decoder_layers=number("num_decoder_layers", num_layers),
    mlp_activations=ACTIVATIONS[_read_projection(hf_config, path)],
    tie_embeddings=is_tied,
    per_layer_relative_bias=model_type == "umt5",
    dropout_rate=float(number("dropout_rate", 0.1)),
    relative_attention_num_buckets=number("relative_attention_num_buckets", 32),
    relative_attention_max_distance=number(
      "relative_attention_max_distance", 128
    ),
    layer_norm_epsilon=float(number("layer_norm_epsilon", 1e-6)),
    dtype=hf_config.get(ACTIVATION_DTYPE, "float32"),
  )


def make_config(config: T5Config, dtype: str) -> dict[str, Any]:
  """Translates an architecture into `config.json`.

  Args:
    config: the architecture.
    dtype: name of the type of the weights.

  Raises:
    UserError: the activations have no name in transformers.
  """
  activations = {value: key for key, value in ACTIVATIONS.items()}
  if tuple(config.mlp_activations) not in activations:
    raise UserError(
      f"mlp_activations {config.mlp_activations} has no name in transformers;"
      f" known are {', '.join(map(str, activations))}."
    )
  is_umt5 = config.per_layer_relative_bias
  hf_config = {
    "architectures": [f"{'UMT5' if is_umt5 else 'T5'}ForConditionalGeneration"],
    "model_type": "umt5" if is_umt5 else "t5",
    "vocab_size": config.vocab_size,
    "d_model": config.embed_dim,
    "d_kv": config.head_dim,
    "d_ff": config.mlp_dim,
    "num_layers": config.num_encoder_layers,
    "num_decoder_layers": config.num_decoder_layers,
    "num_heads": config.num_heads,
    "feed_forward_proj": activations[tuple(config.mlp_activations)],
    "tie_word_embeddings": config.tie_embeddings,
    "dropout_rate": config.dropout_rate,
    "relative_attention_num_buckets": config.relative_attention_num_buckets,
    "relative_attention_max_distance": config.relative_attention_max_distance,
    "layer_norm_epsilon": config.layer_norm_epsilon,
    "is_encoder_decoder": True,
    "decoder_start_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 0,
    "dtype": dtype,
  }
  # Theirs names the type of the weights.
  if config.dtype != "float32":
    hf_config[ACTIVATION_DTYPE] = config.dtype
  return hf_config


def make_generation(config: T5Config) -> dict[str, Any]:
  """Returns what `generation_config.json` must say besides the ids.

  Args:
    config: the architecture.
  """
  if config.num_decoder_layers > config.num_encoder_layers:
    # transformers 5 makes its cache for as many layers as the encoder has.
    return {"use_cache": False}
  return {}


def list_notes(config: T5Config) -> list[str]:
  """Returns what whoever loads a model with transformers must know.

  Args:
    config: the architecture.
  """
  if config.per_layer_relative_bias and not config.tie_embeddings:
    return [
      "transformers 5.23 scales the logits of this umT5 as if it had no head of"
      " its own: set `model.config.tie_word_embeddings = False` there after"
      " loading, or losses and probabilities differ. 5.24 needs no such"
      " setting."
    ]
  return []


def read_flag(
  hf_config: Mapping[str, Any], name: str, path: str | pathlib.Path
) -> bool | None:
  """Returns a field that is true, false, or not there.

  Args:
    hf_config: of `config.json`.
    name: of the field.
    path: see `read_model_type`.

  Raises:
    UserError: it is something else.
  """
  value = hf_config.get(name)
  if value is not None and not isinstance(value, bool):
    raise UserError(
      f"{path}: {name} is {_shorten(value)}; true or false was expected there."
    )
  return value


def _read_projection(
  hf_config: Mapping[str, Any], path: str | pathlib.Path
) -> str:
  model_type = read_model_type(hf_config, path)
  projection = hf_config.get("feed_forward_proj", _PROJECTIONS[model_type])
  if not isinstance(projection, str) or projection not in ACTIVATIONS:
    raise UserError(
      f"{path}: feed_forward_proj is {projection!r}; known are"
      f" {', '.join(ACTIVATIONS)}, of T5 1.0 and of every later T5."
    )
  return projection


def _shorten(value: Any) -> str:
  return repr(value)[:100]
