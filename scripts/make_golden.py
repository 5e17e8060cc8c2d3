"""Writes the reference models and numbers of testdata/hf with torch.

For every variant of T5 it builds a tiny model of Hugging Face transformers with
seeded random weights, saves it as transformers saves models, and stores what it
computes: logits, loss, every gradient (under transformers' names and in its
layout), greedy and beam search. The tests read the saved model with our
converter, and need neither torch nor this script. To change a golden, change
this file and run, from the repository root:

  pip install .[hf]
  python scripts/make_golden.py
"""

import dataclasses
import json
import pathlib
import shutil
from collections.abc import Callable
from typing import Any

import numpy as np
import safetensors.numpy
import torch
import transformers

OUTPUT_DIR = pathlib.Path("tests/testdata/hf")
COMMAND = "python scripts/make_golden.py"
ENCODER_LENGTHS = (20, 11, 4, 1)
TARGET_LENGTHS = (14, 14, 5, 2)
MAX_DECODE_LENGTH = 12
NUM_BEAMS = 3


@dataclasses.dataclass(frozen=True)
class Variant:
  """One architecture of the family.

  Attributes:
    family: the prefix of its classes in transformers.
    seed: of weights and inputs; one with which `choose_eos_id` succeeds.
    is_tied: whether the logits come from the embedding.
    feed_forward: as config.json spells the MLP.
    num_layers: of the encoder and of the decoder.
    vocab_size: rows of the embedding.
    extras: further entries of config.json.
  """

  family: str
  seed: int
  is_tied: bool = False
  feed_forward: str = "gated-gelu"
  num_layers: tuple[int, int] = (2, 2)
  vocab_size: int = 64
  extras: dict[str, Any] = dataclasses.field(default_factory=dict)


VARIANTS = {
  "t5_1_0": Variant("T5", 7, is_tied=True, feed_forward="relu"),
  # Flan-T5 is this too.
  "t5_1_1": Variant("T5", 7),
  "mt5": Variant("MT5", 12),
  "umt5": Variant("UMT5", 4),
  "byt5": Variant(
    "T5",
    0,
    num_layers=(3, 1),
    vocab_size=384,
    extras={"tokenizer_class": "ByT5Tokenizer"},
  ),
  # No published model has it; here is what no published model changes, too.
  "asymmetric": Variant(
    "T5",
    3,
    is_tied=True,
    feed_forward="relu",
    num_layers=(1, 3),
    extras={
      "relative_attention_num_buckets": 8,
      "relative_attention_max_distance": 20,
      "layer_norm_epsilon": 1e-2,
    },
  ),
}


def make_model(
  variant: Variant, sizes: dict[str, int] | None = None
) -> transformers.PreTrainedModel:
  """Returns a model whose every weight matters to its output.

  Args:
    variant: the architecture.
    sizes: entries of config.json to change.
  """
  num_encoder_layers, num_decoder_layers = variant.num_layers
  settings = {
    "vocab_size": variant.vocab_size,
    "d_model": 8,
    "d_kv": 4,
    "d_ff": 16,
    "num_layers": num_encoder_layers,
    "num_decoder_layers": num_decoder_layers,
    "num_heads": 3,
    "feed_forward_proj": variant.feed_forward,
    "tie_word_embeddings": variant.is_tied,
    "decoder_start_token_id": 0,
    "dropout_rate": 0.0,
  }
  config_class = getattr(transformers, f"{variant.family}Config")
  model_class = getattr(
    transformers, f"{variant.family}ForConditionalGeneration"
  )
  model = model_class(
    config_class(**settings | variant.extras | (sizes or {}))
  ).eval()
  if not variant.is_tied:
    untie(model)
  generator = torch.Generator().manual_seed(variant.seed)
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
  assert_tied(model.state_dict(), variant)
  return model


def untie(model: transformers.PreTrainedModel) -> None:
  """Gives a new model logits of their own, as T5 1.1 and later have them.

  transformers 5 (5.23.0 here) ties every T5 that it builds from a config, and
  says so in the config, whatever it was told. Of T5 it remembers what it was
  told as `scale_decoder_outputs`; of umT5 it forgets it, and then divides
  logits by sqrt(d_model) as T5 1.0 does, which transformers 4 did not and umT5
  was not trained with. So the config is set right here, which it then also is
  in the saved config.json: false, as in the published ones. transformers 5 by
  itself writes true there.
  """
  model.lm_head.weight = torch.nn.Parameter(model.shared.weight.clone())
  model.config.tie_word_embeddings = False


def assert_tied(weights: dict[str, Any], variant: Variant) -> None:
  """Checks that the two matrices are one, or differ, as they should."""
  logits = weights.get("lm_head.weight", weights["shared.weight"])
  is_tied = np.array_equal(logits, weights["shared.weight"])
  assert is_tied == variant.is_tied, f"tied is {is_tied}"


def save_model(
  model: transformers.PreTrainedModel, variant: Variant, folder: pathlib.Path
) -> None:
  """Saves a model, and checks what was saved and how it reads back."""
  model.save_pretrained(folder, safe_serialization=True)
  # It repeats config.json.
  (folder / "generation_config.json").unlink()
  saved = safetensors.numpy.load_file(folder / "model.safetensors")
  expected = {name for name, _ in model.named_parameters()}
  assert saved.keys() == expected, saved.keys() ^ expected
  assert ("lm_head.weight" in saved) != variant.is_tied
  assert_tied(saved, variant)
  config = json.loads((folder / "config.json").read_text())
  assert config["tie_word_embeddings"] == variant.is_tied
  assert config["model_type"] == variant.family.lower()
  restored = type(model).from_pretrained(folder)
  assert_tied(restored.state_dict(), variant)
  for name, weight in model.state_dict().items():
    assert torch.equal(restored.state_dict()[name], weight), name


def make_tokens(
  lengths: tuple[int, ...], vocab_size: int, rng: np.random.Generator
) -> np.ndarray:
  """Returns random ids [batch, max length] int64, 0 behind each length."""
  tokens = rng.integers(2, vocab_size, (len(lengths), max(lengths)))
  return np.where(
    np.arange(max(lengths)) < np.array(lengths)[:, None], tokens, 0
  )


def choose_eos_id(endless: np.ndarray) -> int:
  """Returns the id that ends greedy decoding most variously.

  Args:
    endless: [batch, MAX_DECODE_LENGTH] ids decoded without an end token.
  """

  def count_ends(token):
    is_end = endless == token
    return len(set(is_end.argmax(axis=1)[is_end.any(axis=1)].tolist()))

  eos_id = max(np.unique(endless).tolist(), key=count_ends)
  assert count_ends(eos_id) >= 2, "few ends; take another seed"
  assert not (endless == eos_id).any(axis=1).all(), "take another seed"
  return eos_id


def make_generate_fn(
  model: transformers.PreTrainedModel, inputs: torch.Tensor
) -> Callable[..., Any]:
  """Returns what decodes the inputs, with the settings it is called with."""

  def generate(*, eos_id: int | None, num_beams: int):
    # Passed as an argument, None would mean the config's end token.
    model.generation_config.eos_token_id = eos_id
    return model.generate(
      inputs,
      attention_mask=(inputs > 0).long(),
      max_new_tokens=MAX_DECODE_LENGTH,
      do_sample=False,
      num_beams=num_beams,
      num_return_sequences=num_beams,
      length_penalty=0.0 if num_beams > 1 else None,
      pad_token_id=0,
      # Its cache has as many layers as the encoder, too few for `asymmetric`.
      use_cache=False,
      return_dict_in_generate=True,
      output_scores=True,  # without it there are no sequences_scores
    )

  return generate


def pad(sequences: torch.Tensor, eos_id: int | None) -> np.ndarray:
  """Returns decoded ids without the start token, MAX_DECODE_LENGTH wide."""
  tokens = sequences[:, 1:].numpy()
  missing = MAX_DECODE_LENGTH - tokens.shape[1]
  tokens = np.pad(tokens, ((0, 0), (0, missing))).astype(np.int32)
  # Beam search repeats the end token where the padding's id is 0.
  num_ends = np.cumsum(tokens == eos_id, axis=1)
  return np.where(num_ends - (tokens == eos_id) > 0, 0, tokens)


def compute_golden(
  model: transformers.PreTrainedModel, variant: Variant
) -> dict[str, np.ndarray]:
  """Runs the model; returns every array the golden file holds."""
  rng = np.random.default_rng(variant.seed)
  encoder_tokens = make_tokens(ENCODER_LENGTHS, variant.vocab_size, rng)
  targets = make_tokens(TARGET_LENGTHS, variant.vocab_size, rng)
  inputs = torch.from_numpy(encoder_tokens)
  labels = torch.from_numpy(np.where(targets > 0, targets, -100))
  output = model(
    input_ids=inputs, attention_mask=(inputs > 0).long(), labels=labels
  )
  output.loss.backward()
  logits = output.logits.detach().numpy()

  generate = make_generate_fn(model, inputs)
  endless = pad(generate(eos_id=None, num_beams=1).sequences, None)
  eos_id = choose_eos_id(endless)
  greedy = generate(eos_id=eos_id, num_beams=1)
  golden = {
    "eos_id": np.int32(eos_id),
    "encoder_input_tokens": encoder_tokens.astype(np.int32),
    "decoder_target_tokens": targets.astype(np.int32),
    "logits": np.where(targets[:, :, None] > 0, logits, 0),
    "loss": output.loss.detach().numpy(),
    "greedy_tokens": pad(greedy.sequences, eos_id),
  }
  # transformers drops an ended sequence that ranks below the beams, and takes
  # those cut at the last step for ended; T5X and we do neither. So one search
  # has no end token, where both are the same.
  for name, end in (("beam", None), ("ended_beam", eos_id)):
    found = generate(eos_id=end, num_beams=NUM_BEAMS)
    shape = (len(inputs), NUM_BEAMS, MAX_DECODE_LENGTH)
    golden[f"{name}_tokens"] = pad(found.sequences, end).reshape(shape)
    scores = found.sequences_scores.numpy()
    golden[f"{name}_scores"] = scores.reshape(shape[:2])
  assert (endless > 0).all() and (golden["beam_tokens"] > 0).all()
  for name, parameter in model.named_parameters():
    gradient = parameter.grad.numpy()
    assert np.abs(gradient).max() > 0, name
    golden[f"grad/{name}"] = gradient
  return golden


def main() -> None:
  """Writes one folder a variant."""
  for name, variant in VARIANTS.items():
    folder = OUTPUT_DIR / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    model = make_model(variant)
    save_model(model, variant, folder)
    golden = compute_golden(model, variant)
    header = {
      "command": COMMAND,
      "torch": torch.__version__,
      "transformers": transformers.__version__,
      "numpy": np.__version__,
      "seed": variant.seed,
    }
    path = folder / "golden.npz"
    np.savez_compressed(path, header=json.dumps(header), **golden)
    sizes = [f"{p.name} {p.stat().st_size}" for p in sorted(folder.iterdir())]
    print(f"{folder}: {', '.join(sizes)}; {len(golden)} arrays")


if __name__ == "__main__":
  main()
