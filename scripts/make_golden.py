"""Writes the reference numbers of tests/model and tests/decoding with torch.

Builds two tiny T5 models of Hugging Face transformers with seeded random
weights, runs them, and stores weights (under T5X's names and layout), inputs
and outputs. The tests then need neither torch nor this script. To change a
golden, change this file and run, from the repository root:

  pip install .[hf]
  python scripts/make_golden.py
"""

import json
import pathlib
import re
from typing import Any

import numpy as np
import torch
import transformers

OUTPUT_DIR = pathlib.Path("tests/testdata/model")
COMMAND = "python scripts/make_golden.py"
VOCAB_SIZE, EMBED_DIM, NUM_HEADS, HEAD_DIM, MLP_DIM = 64, 16, 3, 8, 32
NUM_LAYERS = 2
ENCODER_LENGTHS = (20, 11, 4, 1)
TARGET_LENGTHS = (14, 14, 5, 2)
MAX_DECODE_LENGTH = 12
NUM_BEAMS = 3
# Name: is 1.1, seed, end token. Each end token is one that greedy decoding
# meets at different steps in some rows and never in others.
MODELS = {"t5_1_0": (False, 2, 39), "t5_1_1": (True, 4, 36)}
GRADIENTS = (
  "token_embedder/embedding",
  "encoder/relpos_bias/rel_embedding",
  "decoder/relpos_bias/rel_embedding",
  "encoder/layers_0/attention/query/kernel",
  "decoder/layers_1/encoder_decoder_attention/value/kernel",
  "decoder/layers_0/pre_mlp_layer_norm/scale",
)

# Hugging Face's names, piece by piece, to T5X's.
_RENAMES = (
  (r"^shared\.weight", "token_embedder.embedding"),
  (r"^lm_head\.weight", "decoder.logits_dense.kernel"),
  (r"^(\w+)\.final_layer_norm\.weight", r"\1.\1_norm.scale"),
  (
    r"block\.0\.layer\.0\.SelfAttention\.relative_attention_bias\.weight",
    "relpos_bias.rel_embedding",
  ),
  (r"block\.", "layers_"),
  (r"(encoder.*)layer\.0\.SelfAttention", r"\1attention"),
  (r"(decoder.*)layer\.0\.SelfAttention", r"\1self_attention"),
  (r"layer\.1\.EncDecAttention", "encoder_decoder_attention"),
  (r"layer\.\d\.DenseReluDense", "mlp"),
  (r"(encoder.*)layer\.0\.layer_norm", r"\1pre_attention_layer_norm"),
  (r"(encoder.*)layer\.1\.layer_norm", r"\1pre_mlp_layer_norm"),
  (r"(decoder.*)layer\.0\.layer_norm", r"\1pre_self_attention_layer_norm"),
  (r"(decoder.*)layer\.1\.layer_norm", r"\1pre_cross_attention_layer_norm"),
  (r"(decoder.*)layer\.2\.layer_norm", r"\1pre_mlp_layer_norm"),
  (r"layer_norm\.weight$", "layer_norm.scale"),
  (r"\.q\.weight$", ".query.kernel"),
  (r"\.k\.weight$", ".key.kernel"),
  (r"\.v\.weight$", ".value.kernel"),
  (r"\.o\.weight$", ".out.kernel"),
  (r"\.weight$", ".kernel"),
)


def rename(torch_name: str) -> str:
  """Returns T5X's path of a Hugging Face parameter."""
  for pattern, replacement in _RENAMES:
    torch_name = re.sub(pattern, replacement, torch_name)
  return torch_name.replace(".", "/")


def to_t5x(path: str, tensor: torch.Tensor) -> np.ndarray:
  """Returns a weight or gradient in T5X's layout: kernels are (in, out)."""
  array = tensor.detach().numpy()
  if path.endswith(("kernel", "rel_embedding")):
    array = array.T
  return np.ascontiguousarray(array)


def make_model(
  *, is_v1_1: bool, seed: int
) -> transformers.T5ForConditionalGeneration:
  """Returns a model whose every weight matters to its output."""
  config = transformers.T5Config(
    vocab_size=VOCAB_SIZE,
    d_model=EMBED_DIM,
    d_kv=HEAD_DIM,
    d_ff=MLP_DIM,
    num_layers=NUM_LAYERS,
    num_decoder_layers=NUM_LAYERS,
    num_heads=NUM_HEADS,
    feed_forward_proj="gated-gelu" if is_v1_1 else "relu",
    tie_word_embeddings=not is_v1_1,
    decoder_start_token_id=0,
    dropout_rate=0.0,
  )
  model = transformers.T5ForConditionalGeneration(config).eval()
  if is_v1_1 and model.lm_head.weight is model.shared.weight:
    # transformers 5 ties the two whatever the config says.
    model.lm_head.weight = torch.nn.Parameter(model.shared.weight.clone())
  generator = torch.Generator().manual_seed(seed)
  with torch.no_grad():
    for name, parameter in model.named_parameters():
      noise = torch.randn(parameter.shape, generator=generator)
      if "layer_norm" in name:
        parameter.copy_(1.0 + 0.2 * noise)
      elif "shared" in name:
        # Small, or decoding would repeat one token.
        parameter.copy_(0.3 * noise)
      elif "relative_attention_bias" in name:
        parameter.copy_(noise)
      else:
        parameter.copy_(noise * parameter.shape[1] ** -0.5)
  is_tied = torch.equal(model.lm_head.weight, model.shared.weight)
  assert is_tied != is_v1_1, "the model is tied where it must not be"
  return model


def make_our_config(*, is_v1_1: bool) -> dict[str, Any]:
  """Returns the arguments of distill_jax's T5Config for the same model."""
  return {
    "vocab_size": VOCAB_SIZE,
    "embed_dim": EMBED_DIM,
    "num_heads": NUM_HEADS,
    "head_dim": HEAD_DIM,
    "mlp_dim": MLP_DIM,
    "num_encoder_layers": NUM_LAYERS,
    "num_decoder_layers": NUM_LAYERS,
    "mlp_activations": ["gelu", "linear"] if is_v1_1 else ["relu"],
    "tie_embeddings": not is_v1_1,
    "dropout_rate": 0.0,
  }


def make_tokens(
  lengths: tuple[int, ...], rng: np.random.Generator
) -> np.ndarray:
  """Returns random ids [batch, max length] int64, 0 behind each length."""
  tokens = rng.integers(2, VOCAB_SIZE, (len(lengths), max(lengths)))
  return np.where(
    np.arange(max(lengths)) < np.array(lengths)[:, None], tokens, 0
  )


def pad(sequences: torch.Tensor) -> np.ndarray:
  """Returns decoded ids without the start token, MAX_DECODE_LENGTH wide."""
  tokens = sequences[:, 1:].numpy()
  missing = MAX_DECODE_LENGTH - tokens.shape[1]
  return np.pad(tokens, ((0, 0), (0, missing))).astype(np.int32)


def compute_golden(
  model: transformers.T5ForConditionalGeneration, *, seed: int, eos_id: int
) -> dict[str, np.ndarray]:
  """Runs the model; returns every array the golden file holds."""
  rng = np.random.default_rng(seed)
  encoder_tokens = make_tokens(ENCODER_LENGTHS, rng)
  targets = make_tokens(TARGET_LENGTHS, rng)
  inputs = torch.from_numpy(encoder_tokens)
  attention_mask = (inputs > 0).long()
  labels = torch.from_numpy(np.where(targets > 0, targets, -100))
  output = model(input_ids=inputs, attention_mask=attention_mask, labels=labels)
  output.loss.backward()

  def generate(**settings):
    return model.generate(
      inputs,
      attention_mask=attention_mask,
      max_new_tokens=MAX_DECODE_LENGTH,
      do_sample=False,
      pad_token_id=0,
      return_dict_in_generate=True,
      output_scores=True,  # without it there are no sequences_scores
      **settings,
    )

  greedy = generate(num_beams=1, eos_token_id=eos_id)
  # Without an end token: transformers drops an ended sequence that ranks below
  # the beams, T5X and we do not.
  beams = generate(
    num_beams=NUM_BEAMS,
    eos_token_id=None,
    num_return_sequences=NUM_BEAMS,
    length_penalty=0.0,
  )
  golden = {
    "eos_id": np.int32(eos_id),
    "encoder_input_tokens": encoder_tokens.astype(np.int32),
    "decoder_target_tokens": targets.astype(np.int32),
    "logits": output.logits.detach().numpy(),
    "loss": output.loss.detach().numpy(),
    "greedy_tokens": pad(greedy.sequences),
    "beam_tokens": pad(beams.sequences).reshape(
      -1, NUM_BEAMS, MAX_DECODE_LENGTH
    ),
    "beam_scores": beams.sequences_scores.numpy().reshape(-1, NUM_BEAMS),
  }
  for name, parameter in model.named_parameters():
    path = rename(name)
    golden[f"param/{path}"] = to_t5x(path, parameter)
    if path in GRADIENTS:
      golden[f"grad/{path}"] = to_t5x(path, parameter.grad)
  return golden


def main() -> None:
  """Writes one file a model."""
  OUTPUT_DIR.mkdir(parents=True, exist_ok=True)
  for name, (is_v1_1, seed, eos_id) in MODELS.items():
    model = make_model(is_v1_1=is_v1_1, seed=seed)
    golden = compute_golden(model, seed=seed, eos_id=eos_id)
    header = {
      "command": COMMAND,
      "torch": torch.__version__,
      "transformers": transformers.__version__,
      "numpy": np.__version__,
      "seed": seed,
      "config": make_our_config(is_v1_1=is_v1_1),
    }
    path = OUTPUT_DIR / f"hf_{name}.npz"
    np.savez_compressed(path, header=json.dumps(header), **golden)
    print(f"{path}: {path.stat().st_size} bytes, {len(golden)} arrays")


if __name__ == "__main__":
  main()
