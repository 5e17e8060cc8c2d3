"""Measures upstream T5X's train step and decoding, to compare with ours.

  python scripts/benchmarks/compare_baseline.py --baseline=t5x \\
    --baseline_python=... ...

runs it; alone it takes the same examples' file as
`scripts/benchmarks/torch_baseline.py`:

  PYTHONPATH=t5x:airio:jestimator python scripts/benchmarks/t5x_baseline.py \\
    --examples_file=examples.jsonl --row_inputs=128 --row_targets=64

Needs T5X, which is in no package index, and what `pip install .[t5x]` brings;
nothing of this project. A step is T5X's `train_with_lr` on its T5 1.1 network,
jitted with the state donated, with optax's AdamW behind clipping to norm 1.
Label and rationale rows of a step's examples are one batch, each row padded to
--row_inputs and --row_targets, as T5X pads what it does not pack. Decoding is
greedy by T5X's `temperature_sample` of random inputs that fill their rows; no
token ends a row.

Prints a JSON object with the fields of `scripts/benchmarks/benchmark.py`, where
both have them. The first --warmup_steps are not counted, compiling neither.
"""

import argparse
import functools
import json
import os
import pathlib
import platform
import resource
import statistics
import time
from typing import Any

import baseline_arguments
import jax
import jax.numpy as jnp
import numpy as np
import optax
import seqio
from t5x import decoding, models, optimizers, train_state, trainer
from t5x.examples.t5 import network

Row = dict[str, Any]
# No token: decoding goes on to the last step.
_NO_EOS = -1


def make_model(sizes: dict[str, Any], dtype: str) -> models.EncoderDecoderModel:
  """Returns T5X's T5 of these sizes.

  Args:
    sizes: fields of this project's `T5Config`.
    dtype: of activations.
  """
  if sizes["num_encoder_layers"] != sizes["num_decoder_layers"]:
    raise SystemExit("Give a T5 whose encoder and decoder are equally deep.")
  config = network.T5Config(
    vocab_size=sizes["vocab_size"],
    dtype=dtype,
    emb_dim=sizes["embed_dim"],
    num_heads=sizes["num_heads"],
    num_encoder_layers=sizes["num_encoder_layers"],
    num_decoder_layers=sizes["num_decoder_layers"],
    head_dim=sizes["head_dim"],
    mlp_dim=sizes["mlp_dim"],
    mlp_activations=tuple(sizes["mlp_activations"]),
    dropout_rate=sizes["dropout_rate"],
    logits_via_embedding=sizes["tie_embeddings"],
  )
  vocabulary = seqio.PassThroughVocabulary(sizes["vocab_size"], eos_id=_NO_EOS)
  return models.EncoderDecoderModel(
    module=network.Transformer(config),
    input_vocabulary=vocabulary,
    output_vocabulary=vocabulary,
    optimizer_def=optimizers.wrap_optax_optimizer(_make_optimizer)(),
    decode_fn=functools.partial(decoding.temperature_sample, temperature=0.0),
  )


def _make_optimizer() -> optax.GradientTransformation:
  return optax.chain(
    optax.clip_by_global_norm(1.0), optax.adamw(5e-5, weight_decay=0.0)
  )


def pad(rows: list[list[int]], length: int) -> np.ndarray:
  """Stacks rows, cut or padded to a length: [rows, length] int32."""
  padded = np.zeros((len(rows), length), np.int32)
  for place, row in zip(padded, rows, strict=True):
    place[: len(row)] = row[:length]
  return padded


def make_batch(rows: list[Row], options) -> dict[str, np.ndarray]:
  """Returns a batch in T5X's keys."""
  targets = pad([row["targets"] for row in rows], options.row_targets)
  return {
    "encoder_input_tokens": pad(
      [row["inputs"] for row in rows], options.row_inputs
    ),
    "decoder_target_tokens": targets,
    "decoder_input_tokens": np.pad(targets, ((0, 0), (1, 0)))[:, :-1],
    "decoder_loss_weights": (targets > 0).astype(np.int32),
  }


def init_variables(model: models.EncoderDecoderModel, num_rows: int, options):
  """Returns random parameters."""
  shapes = {
    "encoder_input_tokens": (num_rows, options.row_inputs),
    "decoder_input_tokens": (num_rows, options.row_targets),
  }
  return jax.jit(lambda rng: model.get_initial_variables(rng, shapes))(
    jax.random.PRNGKey(0)
  )


def measure_training(
  model: models.EncoderDecoderModel, steps: list[list[Row]], options
) -> dict[str, Any]:
  """Trains a few steps; returns what was measured."""
  variables = init_variables(model, len(steps[0]), options)
  state = train_state.FlaxOptimTrainState.create(model.optimizer_def, variables)

  def take_step(state, batch, rng):
    state, metrics = trainer.train_with_lr(
      state,
      batch,
      learning_rate=jnp.float32(5e-5),
      dropout_rng=rng,
      model=model,
      num_microbatches=None,
    )
    return state, metrics["loss"].compute()

  batch = make_batch(steps[0], options)
  started = time.perf_counter()
  rng = jax.random.PRNGKey(1)
  compiled = (
    jax.jit(take_step, donate_argnums=(0,)).lower(state, batch, rng).compile()
  )
  compile_seconds = time.perf_counter() - started
  durations, counts = [], []
  for number in range(options.warmup_steps + options.steps):
    rows = steps[number % len(steps)]
    started = time.perf_counter()
    batch = make_batch(rows, options)
    state, loss = compiled(state, batch, jax.random.fold_in(rng, number))
    jax.block_until_ready(loss)
    durations.append(time.perf_counter() - started)
    counts.append(
      {
        "examples": len({row["id"] for row in rows}),
        "sequences": len(rows),
        "tokens": sum(
          int((batch[side] > 0).sum())
          for side in ("encoder_input_tokens", "decoder_target_tokens")
        ),
      }
    )
  seconds = statistics.median(durations[options.warmup_steps :])
  mean = {
    key: statistics.mean(count[key] for count in counts[options.warmup_steps :])
    for key in counts[0]
  }
  places = len(steps[0]) * (options.row_inputs + options.row_targets)
  return {
    "layout": "padded to the row",
    "num_params": sum(leaf.size for leaf in jax.tree.leaves(state.params)),
    "rows": len(steps[0]),
    "row_lengths": {
      "inputs": options.row_inputs,
      "targets": options.row_targets,
    },
    "examples_per_step": mean["examples"],
    "seconds_per_step": seconds,
    "examples_per_second": mean["examples"] / seconds,
    "sequences_per_second": mean["sequences"] / seconds,
    "tokens_per_second": mean["tokens"] / seconds,
    "padding_share": 1 - mean["tokens"] / places,
    "passes": [[[len(steps[0]), options.row_inputs, options.row_targets]]],
    "compile_seconds": compile_seconds,
    "loss": float(loss),
  }


def measure_decoding(
  model: models.EncoderDecoderModel, vocab_size: int, options
) -> dict[str, Any]:
  """Decodes a few times; returns what was measured."""
  options.row_targets = options.tokens
  params = init_variables(model, options.batch, options)["params"]
  batch = {
    "encoder_input_tokens": np.random.default_rng(0)
    .integers(3, vocab_size, (options.batch, options.row_inputs))
    .astype(np.int32),
    "decoder_input_tokens": np.zeros((options.batch, options.tokens), np.int32),
  }
  started = time.perf_counter()
  compiled = jax.jit(model.predict_batch).lower(params, batch).compile()
  compile_seconds = time.perf_counter() - started
  durations = []
  for _ in range(options.warmup_steps + options.steps):
    started = time.perf_counter()
    tokens = jax.block_until_ready(compiled(params, batch))
    durations.append(time.perf_counter() - started)
    assert tokens.shape == (options.batch, options.tokens)
  seconds = statistics.median(durations[options.warmup_steps :])
  return {
    "decoding": {"strategy": "greedy"},
    "num_params": sum(leaf.size for leaf in jax.tree.leaves(params)),
    "rows": options.batch,
    "row_lengths": {"inputs": options.row_inputs, "targets": options.tokens},
    "seconds_per_step": seconds,
    "sequences_per_second": options.batch / seconds,
    "tokens_per_second": options.batch * options.tokens / seconds,
    "compile_seconds": compile_seconds,
  }


def read_examples(path: pathlib.Path) -> tuple[dict[str, Any], list[list[Row]]]:
  """Returns the model's sizes, and the rows of each step.

  Raises:
    SystemExit: steps have different numbers of rows.
  """
  sizes, steps = baseline_arguments.read_examples(path)
  if len({len(of_step) for of_step in steps}) > 1:
    raise SystemExit("Steps have different numbers of rows; drop the last.")
  return sizes, steps


def parse_options() -> argparse.Namespace:
  """Reads the command line."""
  parser = baseline_arguments.make_parser(__doc__)
  parser.add_argument("--row_targets", type=int, default=64, help="tokens each")
  return parser.parse_args()


def main() -> None:
  """Measures and prints."""
  options = parse_options()
  sizes, steps = read_examples(options.examples_file)
  model = make_model(sizes, options.dtype)
  if options.mode == "train":
    measured = measure_training(model, steps, options)
  else:
    measured = measure_decoding(model, sizes["vocab_size"], options)
  report = {
    "program": "t5x",
    "mode": options.mode,
    "dtype": options.dtype,
    "device": jax.devices()[0].device_kind,
    "machine": f"{platform.machine()}, {len(os.sched_getaffinity(0))} CPUs",
    "jax": jax.__version__,
    "steps": options.steps,
    "steps_per_second": 1 / measured["seconds_per_step"],
    **measured,
    "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    "peak_bytes_source": "resident memory of the process, since it began",
  }
  print(json.dumps(report))


if __name__ == "__main__":
  main()
