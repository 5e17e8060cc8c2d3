"""Measures the authors' way of training with PyTorch, to compare with ours.

  python scripts/benchmarks/benchmark.py --export_examples=examples.jsonl \\
    --steps=4 \\
    --examples=64 --token_cache=<cqa_distill's folder>
  python scripts/benchmarks/torch_baseline.py --examples_file=examples.jsonl
  python scripts/benchmarks/torch_baseline.py --examples_file=examples.jsonl \\
    --mode=decode --batch=8 --row_inputs=128 --tokens=32

Needs torch and transformers, and nothing of this project: the examples' file
has the model's sizes and the token ids of each step. A step makes two forward
passes, over the label rows and over the rationale rows of the same examples,
each padded to its longest row, and steps AdamW on
0.5 * label loss + 0.5 * rationale loss: the loop of the authors' trainer
(model_utils.py, `compute_loss`), written anew; bfloat16 means autocast.
Decoding is greedy, by `generate`, of random inputs that fill their rows, with
parameters in --dtype; no token ends a row.

Prints a JSON object with the fields of `scripts/benchmarks/benchmark.py`, where
both have them. The first --warmup_steps are not counted. Blocks whose rows'
lengths differ are compiled with symbols for them; --compile_only does just
that, which torch's own cache (TORCHINDUCTOR_CACHE_DIR) keeps for the run that
measures.
"""

import argparse
import json
import os
import platform
import random
import resource
import statistics
import time
from collections.abc import Callable
from typing import Any

import baseline_arguments
import torch
import transformers

Row = dict[str, Any]

# Unlike the sizes that tensors have for other reasons: torch takes those that
# are equal for the same symbol.
_COMPILED_EXAMPLES = 13

_FEED_FORWARD = {
  ("relu",): "relu",
  ("gelu", "linear"): "gated-gelu",
}


def make_model(sizes: dict[str, Any], attention: str) -> torch.nn.Module:
  """Returns transformers' T5 of these sizes, with random weights.

  Args:
    sizes: fields of this project's `T5Config`.
    attention: "sdpa" or "eager".
  """
  if sizes["per_layer_relative_bias"]:
    raise SystemExit("This baseline has no umT5; give a T5's examples file.")
  config = transformers.T5Config(
    vocab_size=sizes["vocab_size"],
    d_model=sizes["embed_dim"],
    d_kv=sizes["head_dim"],
    d_ff=sizes["mlp_dim"],
    num_layers=sizes["num_encoder_layers"],
    num_decoder_layers=sizes["num_decoder_layers"],
    num_heads=sizes["num_heads"],
    feed_forward_proj=_FEED_FORWARD[tuple(sizes["mlp_activations"])],
    tie_word_embeddings=sizes["tie_embeddings"],
    dropout_rate=sizes["dropout_rate"],
    relative_attention_num_buckets=sizes["relative_attention_num_buckets"],
    relative_attention_max_distance=sizes["relative_attention_max_distance"],
    layer_norm_epsilon=sizes["layer_norm_epsilon"],
    decoder_start_token_id=0,
  )
  model = transformers.AutoModelForSeq2SeqLM.from_config(
    config, attn_implementation=attention
  )
  # transformers 5 ties the two whatever the configuration says.
  if not sizes["tie_embeddings"]:
    if model.lm_head.weight is model.shared.weight:
      weight = model.shared.weight.detach().clone()
      model.lm_head.weight = torch.nn.Parameter(weight)
    assert model.lm_head.weight is not model.shared.weight
  return model


def pad(rows: list[list[int]], value: int) -> torch.Tensor:
  """Stacks rows of unequal lengths, padded to the longest."""
  length = max(map(len, rows))
  return torch.tensor(
    [row + [value] * (length - len(row)) for row in rows], dtype=torch.long
  )


def make_batch(rows: list[Row], device: torch.device) -> dict[str, Any]:
  """Returns the arguments of one forward pass."""
  inputs = pad([row["inputs"] for row in rows], 0)
  batch = {
    "input_ids": inputs,
    "attention_mask": (inputs > 0).long(),
    "labels": pad([row["targets"] for row in rows], -100),
  }
  return {name: tensor.to(device) for name, tensor in batch.items()}


def wait(device: torch.device) -> None:
  """Waits for the device to end what it was given."""
  if device.type == "cuda":
    torch.cuda.synchronize()


def time_calls(
  call: Callable[[int], object], options, device: torch.device
) -> float:
  """Returns the median seconds of a call, after those of the warm-up.

  Args:
    call: takes the number of the step.
    options: the command line's.
    device: to wait for.
  """
  durations = []
  for step in range(options.warmup_steps + options.steps):
    started = time.perf_counter()
    call(step)
    wait(device)
    durations.append(time.perf_counter() - started)
  return statistics.median(durations[options.warmup_steps :])


def lengths_differ(steps: list[list[Row]]) -> bool:
  """Whether passes are padded to other lengths than one another.

  Torch would compile static ones first, and all again with symbols.
  """
  longest = {
    (
      max(len(row["inputs"]) for row in of_kind),
      max(len(row["targets"]) for row in of_kind),
    )
    for rows in steps
    for kind in ("label", "rationale")
    if (of_kind := [row for row in rows if row["kind"] == kind])
  }
  return len(longest) > 1


def compile_blocks(model: Any, steps: list[list[Row]]) -> None:
  """Has torch compile each block when it is first called.

  By block: the blocks of a stack are alike, and a whole model takes torch
  minutes to compile.
  """
  for block in (*model.encoder.block, *model.decoder.block):
    block.compile(dynamic=lengths_differ(steps))


def make_passes(rows: list[Row], device: torch.device) -> list[dict[str, Any]]:
  """Returns the arguments of a step's two forward passes."""
  return [
    make_batch(of_kind, device)
    for kind in ("label", "rationale")
    if (of_kind := [row for row in rows if row["kind"] == kind])
  ]


def compute_loss(model: Any, batches: list[dict[str, Any]], options) -> Any:
  """Returns the mean of the passes' losses."""
  with torch.autocast(
    batches[0]["labels"].device.type,
    torch.bfloat16,
    enabled=options.dtype == "bfloat16",
  ):
    # use_cache's default would keep keys and values, as for decoding.
    losses = [model(**batch, use_cache=False).loss for batch in batches]
    return torch.stack(losses).mean()


def compile_only(
  model: Any, steps: list[list[Row]], options, device: torch.device
) -> dict[str, Any]:
  """Compiles for lengths that differ, by few rows that take little memory.

  Raises:
    SystemExit: they do not differ, and would be compiled for those few.
  """
  if not lengths_differ(steps):
    raise SystemExit("--compile_only: all rows are of one length. Leave it out")
  model.train()
  compile_blocks(model, steps)
  batches = [
    {name: rows[:_COMPILED_EXAMPLES] for name, rows in batch.items()}
    for batch in make_passes(steps[0], device)
  ]
  started = time.perf_counter()
  compute_loss(model, batches, options).backward()
  wait(device)
  return {"compile_seconds": time.perf_counter() - started}


def measure_training(
  model: Any, steps: list[list[Row]], options, device: torch.device
) -> dict[str, Any]:
  """Trains a few steps; returns what was measured."""
  model.train()
  if options.compile:
    compile_blocks(model, steps)
  optimizer = torch.optim.AdamW(
    model.parameters(), lr=5e-5, weight_decay=0, fused=device.type == "cuda"
  )
  losses, counts = [], []

  def take_step(number: int) -> None:
    rows = steps[number % len(steps)]
    batches = make_passes(rows, device)
    loss = compute_loss(model, batches, options)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad()
    losses.append(loss.detach())
    num_tokens = sum(
      len(row[side]) for row in rows for side in ("inputs", "targets")
    )
    num_places = sum(
      batch["input_ids"].numel() + batch["labels"].numel() for batch in batches
    )
    counts.append(
      {
        # Labels, which come first, as ours counts: a pair is one.
        "examples": len(batches[0]["labels"]),
        "sequences": len(rows),
        "tokens": num_tokens,
        "padding_share": 1 - num_tokens / num_places,
        "passes": [
          [*batch["input_ids"].shape, batch["labels"].shape[1]]
          for batch in batches
        ],
      }
    )

  seconds = time_calls(take_step, options, device)
  measured = counts[options.warmup_steps :]
  passes = [count.pop("passes") for count in counts][options.warmup_steps :]
  mean = {
    key: statistics.mean(count[key] for count in measured)
    for key in measured[0]
  }
  return {
    "layout": "two padded passes",
    "compiled": options.compile,
    "examples_per_step": mean["examples"],
    "seconds_per_step": seconds,
    "examples_per_second": mean["examples"] / seconds,
    "sequences_per_second": mean["sequences"] / seconds,
    "tokens_per_second": mean["tokens"] / seconds,
    "padding_share": mean["padding_share"],
    # Of each step: rows, encoder tokens and decoder tokens of each pass.
    "passes": passes,
    "loss": float(losses[-1]),
  }


def measure_decoding(
  model: Any, vocab_size: int, options, device: torch.device
) -> dict[str, Any]:
  """Decodes a few times; returns what was measured."""
  model = model.eval().to(getattr(torch, options.dtype))
  generator = random.Random(0)
  rows = [
    [generator.randrange(3, vocab_size) for _ in range(options.row_inputs)]
    for _ in range(options.batch)
  ]
  inputs = pad(rows, 0).to(device)

  def generate(_: int) -> None:
    with torch.inference_mode():
      tokens = model.generate(
        input_ids=inputs,
        attention_mask=torch.ones_like(inputs),
        do_sample=False,
        num_beams=1,
        min_new_tokens=options.tokens,
        max_new_tokens=options.tokens,
      )
    assert tokens.shape == (options.batch, options.tokens + 1)

  seconds = time_calls(generate, options, device)
  return {
    "decoding": {"strategy": "greedy"},
    "rows": options.batch,
    "row_lengths": {"inputs": options.row_inputs, "targets": options.tokens},
    "seconds_per_step": seconds,
    "sequences_per_second": options.batch / seconds,
    "tokens_per_second": options.batch * options.tokens / seconds,
  }


def parse_options() -> argparse.Namespace:
  """Reads the command line."""
  parser = baseline_arguments.make_parser(__doc__)
  parser.add_argument("--threads", type=int, default=os.cpu_count())
  parser.add_argument("--attention", default="sdpa", choices=("sdpa", "eager"))
  parser.add_argument(
    "--compile", action="store_true", help="torch.compile each block"
  )
  parser.add_argument(
    "--compile_only",
    action="store_true",
    help="compile what training needs, where lengths differ, and no more",
  )
  return parser.parse_args()


def main() -> None:
  """Measures and prints."""
  options = parse_options()
  torch.set_num_threads(options.threads)
  torch.manual_seed(0)
  sizes, steps = baseline_arguments.read_examples(options.examples_file)
  is_cuda = torch.cuda.is_available()
  device = torch.device("cuda" if is_cuda else "cpu")
  with device:  # A GPU draws its parameters, in a fraction of the time.
    model = make_model(sizes, options.attention)
  if options.compile_only:
    print(json.dumps(compile_only(model, steps, options, device)))
    return
  if options.mode == "train":
    measured = measure_training(model, steps, options, device)
  else:
    measured = measure_decoding(model, sizes["vocab_size"], options, device)
  if is_cuda:
    peak = torch.cuda.max_memory_allocated()
    peak_source = "max_memory_allocated of the device"
  else:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    peak_source = "resident memory of the process, since it began"
  report = {
    "program": "torch",
    "mode": options.mode,
    "num_params": sum(weight.numel() for weight in model.parameters()),
    "dtype": options.dtype,
    "attention": options.attention,
    "device": torch.cuda.get_device_name() if is_cuda else "cpu",
    "machine": f"{platform.machine()}, {len(os.sched_getaffinity(0))} CPUs",
    "threads": options.threads,
    "torch": torch.__version__,
    "transformers": transformers.__version__,
    "steps": options.steps,
    "steps_per_second": 1 / measured["seconds_per_step"],
    **measured,
    "peak_bytes": peak,
    "peak_bytes_source": peak_source,
  }
  print(json.dumps(report))


if __name__ == "__main__":
  main()
