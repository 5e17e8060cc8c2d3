"""Measures training and decoding: speed, model FLOPs, memory, compile time.

  python scripts/benchmarks/benchmark.py --gin_file=gin/models/t5_1_1/tiny.gin
  python scripts/benchmarks/benchmark.py \\
    --gin_file=gin/models/t5_1_1/small.gin \\
    --token_cache=~/.cache/distill_jax/tokens/cqa_distill-0123456789abcdef
  python scripts/benchmarks/benchmark.py \\
    --gin_file=gin/models/t5_1_1/large.gin \\
    --full_rows --row_inputs=512 --row_targets=128 --examples=32 \\
    --gin.ACTIVATION_DTYPE="'bfloat16'" --gin.REMAT_POLICY="'minimal'" \\
    --gin.SCAN_LAYERS=True --gin.LOSS_CHUNK_TOKENS=4096 --turn_steps=10
  python scripts/benchmarks/benchmark.py --mode=decode --batch=8 \\
    --row_inputs=128 \\
    --tokens=32
  python scripts/benchmarks/benchmark.py --mode=decode --batch=32 \\
    --tokens=128 \\
    --token_cache=~/.cache/distill_jax/tokens/cqa_distill-0123456789abcdef

Training takes its examples from --token_cache, or draws some whose lengths are
like CQA's, or with --full_rows as long as a row. Both layouts, packed and
padded rows, train on the same label/rationale pairs, --examples of them a step,
in one process, their steps taking turns so that a busy machine slows both
alike; the last line has the ratio. With one --layout the process's peak memory
is that layout's.

Everything else is gin's, as in a run: the model's macros, and those of
gin/runs/train.gin (--run_gin_file=gin/runs/train_adamw.gin: AdamW) but for the
rows, which come from the flags; to decode, those of gin/runs/infer.gin, e.g.
--gin.DECODING="'beam'" --gin.NUM_BEAMS=4. A decoded row has exactly --tokens
tokens, since none ends it, or ends after --ends_after of them. With
--token_cache a step decodes --batches of its label examples as an evaluation
does: in order of their length (--nobuckets: all in rows of --row_inputs), and
no further than the longest label (--nolabel_cap: to --tokens).

Each line printed is a JSON object:

  seconds_per_step      median over turns; waiting for batches included
  examples_per_second   pairs; a label without its rationale is one too
  sequences_per_second  segments: a pair is two
  tokens_per_second     of both sides, padding not counted; when decoding,
                        those decoded, null with --token_cache
  model_flops_per_second, mfu
                        products of all places of the rows, padding too, once
                        forward and twice backward, whatever is computed again;
                        mfu is their share of the peak
  example_flops_per_second, example_mfu
                        the same of each example by itself, without padding
  step_bytes            of the compiled step, by XLA's own account: arguments,
                        results and temporaries together
  peak_bytes            see peak_bytes_source beside it; null where the process
                        measured two layouts
  compile_seconds       tracing and compiling one step, or reading it where
                        JAX_COMPILATION_CACHE_DIR has it; decoding a cache: the
                        first step

The peak is that of the chip in bfloat16, where it is known, or --peak_flops, or
measured (--measure_peak: a large matrix product in the model's dtype). Needs no
TensorFlow.
"""

import contextlib
import json
import os
import pathlib
import platform
import sys
import tempfile
from typing import Any

import benchmark_data
import benchmark_decoding
import benchmark_measures
import benchmark_training
import jax
import optax
from absl import flags

from distill_jax.config import command_line, console_logging, gin_bindings
from distill_jax.data import token_cache, vocab
from distill_jax.errors import UserError
from distill_jax.model.t5 import flops
from distill_jax.model.t5.config import T5Config
from distill_jax.model.t5.t5 import T5
from distill_jax.partitioning import mesh as mesh_lib
from distill_jax.partitioning import sharding
from distill_jax.runs import infer, train
from distill_jax.training import fit_checks
from distill_jax.training import state as state_lib

_MODE = flags.DEFINE_enum("mode", "train", ["train", "decode"], "What to time.")
_GIN_FILES = flags.DEFINE_multi_string(
  "gin_file", ["gin/models/t5_1_1/tiny.gin"], "A model's gin file."
)
_RUN_GIN_FILE = flags.DEFINE_string(
  "run_gin_file", "gin/runs/train.gin", "A training run's gin file."
)
_GIN_BINDINGS = flags.DEFINE_multi_string(
  "gin_bindings", [], "E.g. --gin_bindings='VOCAB_SIZE = 8192'; or --gin.X=Y."
)
_TOKEN_CACHE = flags.DEFINE_string(
  "token_cache", None, "Folder of a token cache; default: drawn examples."
)
_FULL_ROWS = flags.DEFINE_bool(
  "full_rows", False, "Draw examples as long as a row; --layout=padded."
)
_LAYOUT = flags.DEFINE_enum(
  "layout", None, [*benchmark_data.LAYOUTS, "both"], "Of training; both."
)
_EXAMPLES = flags.DEFINE_integer("examples", 16, "Example pairs a step.")
_ROW_INPUTS = flags.DEFINE_integer(
  "row_inputs", 256, "Encoder tokens of a packed, full or decoded row."
)
_ROW_TARGETS = flags.DEFINE_integer(
  "row_targets", 128, "Decoder tokens of a packed or full row."
)
_BATCH = flags.DEFINE_integer("batch", 8, "Rows that are decoded together.")
_TOKENS = flags.DEFINE_integer(
  "tokens", 32, "Tokens decoded for each row; at most, with --token_cache."
)
_BATCHES = flags.DEFINE_integer(
  "batches", 8, "Batches of --token_cache that are decoded in a step."
)
_ENDS_AFTER = flags.DEFINE_integer(
  "ends_after", None, "Tokens after which each decoded row ends; never."
)
_LABEL_CAP = flags.DEFINE_bool(
  "label_cap", True, "Decode --token_cache no further than the longest label."
)
_BUCKETS = flags.DEFINE_bool(
  "buckets", True, "Rows of --token_cache as long as their inputs need."
)
_PREFETCH = flags.DEFINE_bool(
  "prefetch", True, "Put training batches on the devices ahead of their step."
)
_STEPS = flags.DEFINE_integer("steps", 10, "Measured steps of each layout.")
_TURN_STEPS = flags.DEFINE_integer(
  "turn_steps", 1, "Steps that are timed as one: an accelerator's run ahead."
)
_PEAK_FLOPS = flags.DEFINE_float(
  "peak_flops", None, "FLOP/s that one device can reach, for mfu."
)
_MEASURE_PEAK = flags.DEFINE_bool(
  "measure_peak", False, "Take a large matrix product's FLOP/s as the peak."
)
_PROFILE_DIR = flags.DEFINE_string(
  "profile_dir", None, "Write a trace of three more steps into this folder."
)
_EXPORT_EXAMPLES = flags.DEFINE_string(
  "export_examples", None, "Write the steps' examples as JSON lines, no more."
)
_COMPILE_ONLY = flags.DEFINE_bool(
  "compile_only",
  False,
  "Compile what training needs, for JAX_COMPILATION_CACHE_DIR, and no more.",
)

_PROFILED_STEPS = 3
_FLAGS_OF_OTHER_MODE = {
  "train": [
    flags.FLAGS[name]
    for name in (
      *("batch", "batches", "buckets", "ends_after", "label_cap", "tokens"),
    )
  ],
  "decode": [
    flags.FLAGS[name]
    for name in (
      *("compile_only", "examples", "export_examples", "full_rows", "layout"),
      *("prefetch", "row_targets", "run_gin_file", "turn_steps"),
    )
  ],
}
# Macros of a run whose place flags take here.
_FLAG_OF_MACRO = {
  "train": {
    "BATCH_SIZE": "--examples",
    "MAX_EXAMPLES_PER_BATCH": "--examples",
    "TASK_FEATURE_LENGTHS": "--row_inputs and --row_targets",
    "PACKED": "--layout",
    "TRAIN_STEPS": "--steps",
    "CACHE_DIR": "--token_cache",
    "MIXTURE_OR_TASK_NAME": "--token_cache",
  },
  "decode": {"BATCH_SIZE": "--batch", "MAX_DECODE_LENGTH": "--tokens"},
}


# Of a run, and nothing that is measured depends on them.
_UNUSED_MACROS = (
  *("CHECKPOINT_PATH", "CHECKPOINT_PERIOD", "DATA_DIR", "DATA_SHARDS"),
  *("EVAL_BATCH_SIZE", "EVAL_PERIOD", "INITIAL_CHECKPOINT_PATH", "INPUT_PATH"),
  *("LOG_PERIOD", "MAX_EVAL_EXAMPLES", "MODEL_DIR", "OUTPUT_PATH", "PAIRING"),
  *("SPLITS", "SUBSAMPLE", "VOCAB_PATH"),
)


def build_run(mode: str) -> Any:
  """Returns the settings of the run that gin describes.

  Raises:
    UserError: as in a run; or a macro was given that a flag takes the place of.
  """
  for binding in _GIN_BINDINGS.value:
    name = binding.partition("=")[0].strip()
    if flag := _FLAG_OF_MACRO[mode].get(name):
      raise UserError(f"--gin.{name}: give {flag} here instead.")
    if name in _UNUSED_MACROS:
      raise UserError(f"--gin.{name}: it is not measured. Leave it out.")
  required = {
    "train": (
      "MIXTURE_OR_TASK_NAME = ''",
      "MODEL_DIR = 'nothing_is_written'",
      # A rate that falls is not 0 before the last of them.
      f"TRAIN_STEPS = {_STEPS.value + _TURN_STEPS.value + 1}",
    ),
    "decode": ("INPUT_PATH = '-'", "OUTPUT_PATH = '-'"),
  }
  run_file = "gin/runs/infer.gin" if mode == "decode" else _RUN_GIN_FILE.value
  gin_bindings.parse(
    [*_GIN_FILES.value, run_file],
    [*required[mode], *_GIN_BINDINGS.value],
    [os.getcwd(), str(pathlib.Path(__file__).parents[2])],
  )
  return gin_bindings.build(
    infer.InferRun if mode == "decode" else train.TrainRun
  )


def find_peak(dtype: str) -> benchmark_measures.Peak:
  """Returns what to divide by for mfu, as the flags have it."""
  if _PEAK_FLOPS.value is not None:
    return benchmark_measures.Peak(_PEAK_FLOPS.value, "--peak_flops")
  if _MEASURE_PEAK.value:
    return benchmark_measures.measure_peak(dtype)
  return benchmark_measures.look_up_peak()


def describe_machine(
  config: T5Config, params: Any, mesh: jax.sharding.Mesh
) -> dict[str, Any]:
  """Returns what every line says."""
  return {
    "program": "distill_jax",
    "mode": _MODE.value,
    "model": _GIN_FILES.value[-1],
    "num_params": state_lib.count_params(params),
    "dtype": config.dtype,
    "settings": _GIN_BINDINGS.value,
    "devices": sharding.describe(mesh),
    "device": jax.devices()[0].device_kind,
    "machine": f"{platform.machine()}, {len(os.sched_getaffinity(0))} CPUs",
    "jax": jax.__version__,
  }


def profile() -> contextlib.AbstractContextManager:
  """Returns what traces the steps made in it."""
  assert _PROFILE_DIR.value is not None
  return jax.profiler.trace(os.path.expanduser(_PROFILE_DIR.value))


def open_cache(
  config: T5Config, row_lengths: dict[str, int], folder: str
) -> token_cache.TokenCache:
  """Opens the cache that the flags name, or draws one into a folder."""
  if _TOKEN_CACHE.value is None:
    return benchmark_data.draw_cache(
      folder, config.vocab_size, row_lengths if _FULL_ROWS.value else None
    )
  cache = token_cache.TokenCache(os.path.expanduser(_TOKEN_CACHE.value))
  fit_checks.check_vocabulary(
    vocab.load_vocabulary(cache.vocabulary_path or vocab.BYTES), config
  )
  return cache


def choose_layouts() -> tuple[str, ...]:
  """Returns the layouts that the flags ask for.

  Raises:
    UserError: flags exclude each other.
  """
  if _FULL_ROWS.value and _TOKEN_CACHE.value:
    raise UserError(
      "--full_rows draws examples, and --token_cache has some. Leave one out."
    )
  if _FULL_ROWS.value and _LAYOUT.value not in (None, "padded"):
    raise UserError(
      f"--layout={_LAYOUT.value}: with --full_rows an example fills its row."
      " Leave --layout out."
    )
  layout = _LAYOUT.value or ("padded" if _FULL_ROWS.value else "both")
  return benchmark_data.LAYOUTS if layout == "both" else (layout,)


def run_training() -> None:
  """Measures training and prints a line for each layout."""
  names = choose_layouts()
  settings = build_run("train")
  config = settings.model_config
  row_lengths = {"inputs": _ROW_INPUTS.value, "targets": _ROW_TARGETS.value}
  with tempfile.TemporaryDirectory() as folder:
    cache = open_cache(config, row_lengths, folder)
    if _EXPORT_EXAMPLES.value:
      benchmark_data.export_examples(
        pathlib.Path(_EXPORT_EXAMPLES.value),
        config,
        cache,
        _EXAMPLES.value,
        _STEPS.value,
      )
      return
    num_cut = benchmark_data.count_longer(cache, row_lengths)
    if num_cut and "packed" in names:
      print(
        f"{num_cut} inputs or targets are longer than a packed row and lose"
        " their end; give more --row_inputs or --row_targets.",
        file=sys.stderr,
      )
    mesh = mesh_lib.make_mesh(settings.mesh, dcn_axis_sizes=settings.dcn_mesh)
    config.check_platform(mesh.devices.flat[0].platform)
    row_multiple = sharding.count_batch_shards(mesh) * settings.num_microbatches
    layouts = []
    for name in names:
      feed = benchmark_data.make_feed(
        cache, name, _EXAMPLES.value, row_lengths, row_multiple
      )
      fit_checks.check_rows(feed, settings.num_microbatches, mesh)
      layouts.append(
        benchmark_training.Layout(
          name, settings, mesh, cache, feed, _PREFETCH.value
        )
      )
    if _COMPILE_ONLY.value:
      for layout in layouts:
        layout.compile_init()
        seconds = {"compile_seconds": layout.compile_seconds}
        print(json.dumps({"layout": layout.name} | seconds), flush=True)
        layout.close()
      return
    for layout in layouts:
      layout.start()
    for _ in range(-(-_STEPS.value // _TURN_STEPS.value)):
      for layout in layouts:
        layout.take_turn(_TURN_STEPS.value)
    # Before the peak is measured, which takes memory too.
    memory = [
      benchmark_measures.measure_memory(
        layout.compiled, is_alone=len(layouts) == 1
      )
      for layout in layouts
    ]
    peak = find_peak(config.dtype)
    shared = describe_machine(config, layouts[0].params, mesh)
    reports = [layout.report(peak) for layout in layouts]
    for report, its_memory in zip(reports, memory, strict=True):
      print(json.dumps(shared | report | its_memory), flush=True)
    if _PROFILE_DIR.value:
      for layout in layouts:
        with profile():
          layout.take_turn(_PROFILED_STEPS)
    for layout in layouts:
      layout.close()
  if len(reports) == 2:
    padded, packed = (report["examples_per_second"] for report in reports)
    ratio = {"packed_over_padded_examples_per_second": packed / padded}
    print(json.dumps(ratio))


def run_decoding() -> None:
  """Measures decoding and prints a line."""
  settings = build_run("decode")
  config, decoding = settings.model_config, settings.decoding
  mesh = mesh_lib.make_mesh(settings.mesh, dcn_axis_sizes=settings.dcn_mesh)
  config.check_platform(mesh.devices.flat[0].platform)
  model = T5(config, sharding.make_constrain_fn(mesh))
  _, shardings = state_lib.shard_state(model, optax.identity(), mesh)
  params = state_lib.init_state(model, optax.identity(), shardings, 0).params
  if _TOKEN_CACHE.value is None:
    timed = benchmark_decoding.compile_full_rows(
      *(model, mesh, params, decoding),
      *(_BATCH.value, _ROW_INPUTS.value, _TOKENS.value, _ENDS_AFTER.value),
    )
  else:
    cache = open_cache(config, {}, "")
    timed = benchmark_decoding.prepare_examples(
      *(model, mesh, params, decoding, cache),
      *(_BATCH.value, _BATCHES.value),
      {"inputs": _ROW_INPUTS.value, "targets": _TOKENS.value},
      caps_labels=_LABEL_CAP.value,
      buckets_lengths=_BUCKETS.value,
    )
  seconds = benchmark_decoding.time_call(timed.call, _STEPS.value)
  num_flops, num_tokens = None, None
  if timed.compiled is not None:
    num_decoded = min(_TOKENS.value, _ENDS_AFTER.value or _TOKENS.value)
    num_tokens = timed.num_rows * num_decoded
    if decoding.strategy == "greedy":
      num_flops = flops.count_forward_flops(
        config, timed.num_rows, _ROW_INPUTS.value, num_decoded
      )
  memory = benchmark_measures.measure_memory(timed.compiled, is_alone=True)
  peak = find_peak(config.dtype)
  report = describe_machine(config, params, mesh) | {
    "decoding": decoding.describe(),
    "token_cache": _TOKEN_CACHE.value,
    "rows": timed.num_rows,
    "row_lengths": timed.row_lengths,
    "steps": _STEPS.value,
    "seconds_per_step": seconds,
    "steps_per_second": 1 / seconds,
    "sequences_per_second": timed.num_rows / seconds,
    "tokens_per_second": num_tokens and num_tokens / seconds,
    **benchmark_measures.compute_rates("model", num_flops, seconds, peak),
    "peak_flops_per_second": peak.flops_per_second,
    "peak_flops_source": peak.source,
    "compile_seconds": timed.compile_seconds,
    **memory,
  }
  print(json.dumps(report))
  if _PROFILE_DIR.value:
    with profile():
      for _ in range(_PROFILED_STEPS):
        timed.call()


def check_mode_flags() -> None:
  """Refuses flags that the mode does not read.

  Raises:
    UserError: names them.
  """
  for flag in _FLAGS_OF_OTHER_MODE[_MODE.value]:
    if flag.present:
      raise UserError(
        f"--{flag.name}: --mode={_MODE.value} does not read it. Leave it out."
      )
  has_cache = _TOKEN_CACHE.value is not None
  for holder in (_ENDS_AFTER,) if has_cache else (_LABEL_CAP, _BUCKETS):
    if _MODE.value == "decode" and holder.present:
      raise UserError(
        f"--{holder.name} is read {'without' if has_cache else 'with'}"
        " --token_cache only. Leave it out."
      )
  ends_after = _ENDS_AFTER.value
  if ends_after is not None and not 1 <= ends_after <= _TOKENS.value:
    raise UserError(
      f"--ends_after={ends_after}: it must be from 1 to --tokens,"
      f" {_TOKENS.value}."
    )


def main(arguments: list[str]) -> None:
  """Measures what the flags ask for.

  Raises:
    UserError: says what to give instead.
  """
  if len(arguments) > 1:
    raise UserError(f"Unexpected arguments {arguments[1:]}; see --help.")
  for flag in (
    *(_EXAMPLES, _ROW_INPUTS, _ROW_TARGETS, _BATCH, _TOKENS, _BATCHES),
    *(_STEPS, _TURN_STEPS),
  ):
    if flag.value < 1:
      raise UserError(f"--{flag.name}={flag.value}: it must be at least 1.")
  check_mode_flags()
  if _COMPILE_ONLY.value and not jax.config.jax_compilation_cache_dir:
    raise UserError(
      "--compile_only: nothing would keep what is compiled. Set"
      " JAX_COMPILATION_CACHE_DIR to a folder."
    )
  run_decoding() if _MODE.value == "decode" else run_training()


if __name__ == "__main__":
  console_logging.set_up()
  arguments = gin_bindings.rewrite_arguments(sys.argv)
  command_line.run("benchmark.py", main, arguments)
