"""Measures the authors' way of training with PyTorch, to compare with ours.

  pip install .[hf]
  python scripts/torch_baseline.py --token_cache=<cqa_distill's folder>

The same T5 1.1, examples and tokens as `scripts/benchmark.py`. A step makes two
forward passes, over the label rows and over the rationale rows of the same
examples, each padded to its longest row, and steps AdamW on
0.5 * label loss + 0.5 * rationale loss: the loop of the authors' trainer
(model_utils.py, `compute_loss`), written anew. Prints a JSON object.

On a GPU it runs in bfloat16 under autocast, compiled by torch.
"""

import argparse
import json
import os
import platform
import resource
import statistics
import time

import numpy as np
import torch
import transformers

import gin
from distill_jax.config import gin_bindings
from distill_jax.data import pipeline, token_cache
from distill_jax.model.config import T5Config


def make_model(config: T5Config) -> torch.nn.Module:
  """Returns transformers' T5 1.1 of the same sizes, embeddings untied."""
  model = transformers.T5ForConditionalGeneration(
    transformers.T5Config(
      vocab_size=config.vocab_size,
      d_model=config.embed_dim,
      d_kv=config.head_dim,
      d_ff=config.mlp_dim,
      num_layers=config.num_encoder_layers,
      num_decoder_layers=config.num_decoder_layers,
      num_heads=config.num_heads,
      feed_forward_proj="gated-gelu",
      tie_word_embeddings=False,
      dropout_rate=config.dropout_rate,
      decoder_start_token_id=0,
    )
  )
  if model.lm_head.weight is model.shared.weight:
    # transformers 5 ties the two whatever the configuration says.
    weight = model.shared.weight.detach().clone()
    model.lm_head.weight = torch.nn.Parameter(weight)
  assert model.lm_head.weight is not model.shared.weight
  return model


def pad(rows: list[np.ndarray], value: int) -> torch.Tensor:
  """Stacks rows [length] of unequal lengths, padded to the longest."""
  length = max(len(row) for row in rows)
  return torch.tensor(
    [[*row, *[value] * (length - len(row))] for row in rows], dtype=torch.long
  )


def make_batch(examples, device) -> dict[str, torch.Tensor]:
  """Returns the arguments of one forward pass."""
  inputs = pad([example.inputs for example in examples], 0)
  batch = {
    "input_ids": inputs,
    "attention_mask": (inputs > 0).long(),
    "labels": pad([example.targets for example in examples], -100),
  }
  return {name: tensor.to(device) for name, tensor in batch.items()}


def main() -> None:
  """Trains a few steps and reports."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("--gin_file", default="gin/models/t5_1_1/small.gin")
  parser.add_argument("--gin_bindings", action="append", default=[])
  parser.add_argument("--token_cache", required=True)
  parser.add_argument("--examples", type=int, default=64, help="pairs a step")
  parser.add_argument("--steps", type=int, default=3, help="measured steps")
  parser.add_argument("--threads", type=int, default=os.cpu_count())
  arguments = parser.parse_args()
  torch.set_num_threads(arguments.threads)
  torch.manual_seed(0)
  gin_bindings.parse(
    [arguments.gin_file], arguments.gin_bindings, [os.getcwd()]
  )
  config = gin.get_configurable(T5Config)()
  cache = token_cache.TokenCache(os.path.expanduser(arguments.token_cache))
  wanted = (arguments.steps + 1) * arguments.examples
  by_kind = {
    info.kind: {
      example.id: example
      for example in pipeline.take(cache.open_split(name, "train"), wanted)
    }
    for name, info in cache.tasks.items()
  }
  ids = [key for key in by_kind["label"] if key in by_kind["rationale"]]

  is_cuda = torch.cuda.is_available()
  device = torch.device("cuda" if is_cuda else "cpu")
  model = make_model(config).to(device).train()
  forward = torch.compile(model) if is_cuda else model
  optimizer = torch.optim.AdamW(model.parameters(), lr=5e-5)
  seconds, tokens = [], []
  for step in range(arguments.steps + 1):
    start = step * arguments.examples
    chosen = [ids[(start + i) % len(ids)] for i in range(arguments.examples)]
    batches = [
      make_batch([by_kind[kind][key] for key in chosen], device)
      for kind in ("label", "rationale")
    ]
    began = time.perf_counter()
    with torch.autocast("cuda", torch.bfloat16, enabled=is_cuda):
      loss = sum(0.5 * forward(**batch).loss for batch in batches)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad()
    loss.item()  # waits for the device
    seconds.append(time.perf_counter() - began)
    tokens.append(
      sum(
        int(batch["attention_mask"].sum() + (batch["labels"] >= 0).sum())
        for batch in batches
      )
    )
  median = statistics.median(seconds[1:])
  peak_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
  if is_cuda:
    peak_bytes = torch.cuda.max_memory_allocated()
  report = {
    "program": "torch, two padded passes",
    "model": arguments.gin_file,
    "machine": f"{platform.machine()}, {os.cpu_count()} CPUs",
    "device": torch.cuda.get_device_name() if is_cuda else "cpu",
    "torch": torch.__version__,
    "transformers": transformers.__version__,
    "threads": arguments.threads,
    "examples_per_step": arguments.examples,
    "steps": arguments.steps,
    "seconds_per_step": median,
    "examples_per_second": arguments.examples / median,
    "tokens_per_second": statistics.mean(tokens[1:]) / median,
    "peak_bytes": peak_bytes,
  }
  print(json.dumps(report))


if __name__ == "__main__":
  main()
