"""Measures one layer's attention and its gradients, kernel beside kernel.

  python scripts/benchmarks/benchmark_attention.py
  python scripts/benchmarks/benchmark_attention.py --q_length=128 \\
    --positions=none
  JAX_PLATFORMS=cpu python scripts/benchmarks/benchmark_attention.py \\
    --implementations=xla --rows=2

Random queries, keys and values in bfloat16; rows packed with --segments
examples each; T5's position bias, which all rows share and which gets a
gradient, or none, as from decoder to encoder. By default the encoder's
self-attention of 64 rows of T5 large. The kernels take turns, --turns of them;
each time is the median of its turns, a turn's time the mean of its calls.

Prints a JSON object a kernel: milliseconds of the forward pass and the
gradients together, the ratio to the first kernel's, and the largest difference
of each result from the first's, as a share of its largest value. One that does
not run here says why. Needs no TensorFlow.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from distill_jax.errors import UserError
from distill_jax.model.layers import dot_product, masks, shared_bias
from distill_jax.model.t5.config import T5Config
from distill_jax.partitioning.constraint import leave_free

_RESULTS = ("attended", "query", "key", "value", "positions")


def make_arrays(options: argparse.Namespace) -> list[jax.Array | None]:
  """Returns query, key, value, the result's gradient, mask and positions."""
  rows, heads, dim = options.rows, options.heads, options.head_dim
  query_shape = (rows, options.q_length, heads, dim)
  key_shape = (rows, heads, options.k_length, dim)
  *rngs, positions_rng = jax.random.split(jax.random.key(0), 5)
  query, key, value, gradient = (
    jax.random.normal(rng, shape, jnp.bfloat16)
    for rng, shape in zip(
      rngs, (query_shape, key_shape, key_shape, query_shape), strict=True
    )
  )
  mask = masks.make_segment_mask(
    make_segment_ids(rows, options.q_length, options.segments),
    make_segment_ids(rows, options.k_length, options.segments),
    is_causal=False,
  )
  positions = None
  if options.positions == "shared":
    shape = (1, heads, options.q_length, options.k_length)
    positions = jax.random.normal(positions_rng, shape, jnp.float32)
  # T5's initial queries hold the scale.
  return [query * dim**-0.5, key, value, gradient, mask, positions]


def make_segment_ids(num_rows: int, length: int, num_segments: int):
  """Returns [rows, length] int32: segments of equal lengths."""
  ids = 1 + np.arange(length) * num_segments // length
  return jnp.asarray(np.broadcast_to(ids, (num_rows, length)), jnp.int32)


def compile_attention(
  implementation: str, options: argparse.Namespace, arrays: list[Any]
) -> Callable:
  """Compiles the function of the arrays to `_RESULTS`.

  Raises:
    UserError: the kernel does not run here.
  """
  config = T5Config(
    vocab_size=1,
    embed_dim=options.heads * options.head_dim,
    num_heads=options.heads,
    head_dim=options.head_dim,
    mlp_dim=1,
    num_encoder_layers=1,
    num_decoder_layers=1,
    dtype="bfloat16",
    attention_implementation=implementation,
  )
  config.check_platform(jax.default_backend())

  def run(query, key, value, gradient, mask, positions):
    def attend(query, key, value, positions):
      give_bias = shared_bias.prepare(positions, mask, config, leave_free)
      return dot_product.attend(
        query,
        key,
        value,
        give_bias(),
        implementation=implementation,
        constrain_fn=leave_free,
      )

    attended, differentiate = jax.vjp(attend, query, key, value, positions)
    return attended, *differentiate(gradient)

  return jax.jit(run).lower(*arrays).compile()


def compare(found: Any, expected: Any) -> dict[str, float]:
  """Returns each result's largest difference, as a share of its largest."""
  differences = {}
  for name, a, b in zip(_RESULTS, found, expected, strict=True):
    if a is not None:
      a, b = (np.asarray(x, np.float32) for x in (a, b))
      differences[name] = float(np.abs(a - b).max() / np.abs(b).max())
  return differences


def time_turn(run: Callable, arrays: list[Any], num_calls: int) -> float:
  """Returns the mean seconds of a call."""
  started = time.perf_counter()
  for _ in range(num_calls):
    results = run(*arrays)
  jax.block_until_ready(results)
  return (time.perf_counter() - started) / num_calls


def parse_options() -> argparse.Namespace:
  """Returns the options."""
  parser = argparse.ArgumentParser(
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  parser.add_argument(
    "--implementations",
    default="xla,cudnn,tokamax",
    help="values of ATTENTION_IMPLEMENTATION (%(default)s)",
  )
  for name, value in {
    "rows": 64,
    "q_length": 512,
    "k_length": 512,
    "heads": 16,
    "head_dim": 64,
    "segments": 6,
    "turns": 5,
    "calls": 5,
  }.items():
    parser.add_argument(f"--{name}", type=int, default=value)
  parser.add_argument(
    "--positions", choices=("shared", "none"), default="shared"
  )
  return parser.parse_args()


def main() -> None:
  """Measures and prints."""
  options = parse_options()
  arrays = make_arrays(options)
  functions, results = {}, {}
  for name in options.implementations.split(","):
    try:
      run = compile_attention(name, options, arrays)
      results[name] = jax.block_until_ready(run(*arrays))
      functions[name] = run
    # The kernel's library, or memory.
    except (UserError, RuntimeError) as error:
      print(json.dumps({"implementation": name, "failed": str(error)}))
  turns = {name: [] for name in functions}
  for _ in range(options.turns):
    for name, run in functions.items():
      turns[name].append(time_turn(run, arrays, options.calls))
  seconds = {name: statistics.median(times) for name, times in turns.items()}
  first = next(iter(functions), None)
  for name in functions:
    report = {
      "implementation": name,
      "device": jax.devices()[0].device_kind,
      "jax": jax.__version__,
      **vars(options),
      "milliseconds": 1e3 * seconds[name],
      "ratio": seconds[name] / seconds[first],
      "differences": compare(results[name], results[first]),
    }
    del report["implementations"]
    print(json.dumps(report), flush=True)


if __name__ == "__main__":
  main()
