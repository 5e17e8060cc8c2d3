"""Runs this program and another side by side: the authors' loop, or T5X.

  python scripts/benchmarks/compare_baseline.py --baseline=torch \\
    --baseline_python=.venv-torch/bin/python \\
    --gin_file=gin/models/t5_1_1/small.gin --examples=64 --steps=3 \\
    --token_cache=<cqa_distill's folder>
  python scripts/benchmarks/compare_baseline.py --baseline=t5x \\
    --baseline_python=<venv>/bin/python --mode=decode \\
    --gin_file=gin/models/t5_1_1/small.gin --batch=8 --row_inputs=128

"torch" is `scripts/benchmarks/torch_baseline.py`, whose interpreter has torch
and transformers (`bash scripts/test_extras.sh reference` makes .venv-torch).
"t5x" is `scripts/benchmarks/t5x_baseline.py`; give PYTHONPATH to T5X, airio and
jestimator.

The two take turns, ours first, each time in a process of its own with so many
--threads on the same processors, so that a busy machine slows both alike. They
train on the same examples in the same steps and in the same dtype, by AdamW
with the same rate, no decay, and clipping. Beside torch ours is packed unless
--layout=padded; beside T5X examples are as long as a row, or, with
--layout=padded, rows as long as the longest example. Other arguments go to
`scripts/benchmarks/benchmark.py`; see its --help.

Prints their JSON lines, and at the end one with the medians over the rounds and
their ratios, ours over theirs. model_flops_per_second counts the places of all
rows, padding too.
"""

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile

_SCRIPTS = pathlib.Path(__file__).parent
_COMPARED = (
  "examples_per_second",
  "sequences_per_second",
  "tokens_per_second",
  "seconds_per_step",
  "model_flops_per_second",
  "peak_bytes",
)
# What must be the same for a ratio to mean anything.
_SAME = ("num_params", "dtype", "examples_per_step")
# Macros that training, which exports the examples, does not know.
_DECODING_MACROS = (
  *("DECODING", "NUM_BEAMS", "LENGTH_PENALTY", "TEMPERATURE", "TOP_K"),
  *("TOP_P", "NUM_SAMPLES", "SEED"),
)


def run_pinned(command: list[str], num_threads: int) -> str:
  """Runs a command on the first processors; returns what it printed.

  Raises:
    SystemExit: it failed; what it wrote to standard error is on the screen.
  """
  processors = os.sched_getaffinity(0)
  # A child inherits them; XLA makes as many threads as it may use processors.
  os.sched_setaffinity(0, sorted(processors)[:num_threads])
  try:
    process = subprocess.run(
      command,
      env=os.environ | {"OMP_NUM_THREADS": str(num_threads)},
      stdout=subprocess.PIPE,
      text=True,
    )
  finally:
    os.sched_setaffinity(0, processors)
  if process.returncode:
    print(f"This failed: {' '.join(command)}", file=sys.stderr)
    sys.exit(process.returncode)
  return process.stdout


def compare(reports: dict[str, list[dict]]) -> dict[str, dict[str, float]]:
  """Returns the median of each figure that both report, and the ratio.

  Args:
    reports: of "distill_jax" and then of the baseline, one a round.
  """
  ours, theirs = reports
  summary = {}
  for key in _COMPARED:
    if all(key in report for of_one in reports.values() for report in of_one):
      medians = {
        program: statistics.median(report[key] for report in of_one)
        for program, of_one in reports.items()
      }
      summary[key] = medians | {"ratio": medians[ours] / medians[theirs]}
  return summary


def check_comparable(reports: dict[str, list[dict]]) -> None:
  """Ends where the two did not do the same.

  Raises:
    SystemExit: says what differs.
  """
  for key in _SAME:
    found = {
      program: sorted({report[key] for report in of_one if key in report})
      for program, of_one in reports.items()
    }
    ours, theirs = found.values()
    if ours and theirs and ours != theirs:
      sys.exit(f"Not comparable: {key} is {found}.")


def add_flop_rates(reports: list[dict], sizes: dict) -> None:
  """Adds `model_flops_per_second` where a report has the shapes of its passes.

  Args:
    reports: of the baseline; `passes` is of each step, and of each of its
      passes the rows, encoder tokens and decoder tokens.
    sizes: fields of `T5Config`.
  """
  # Only now: a child process begins with the memory peak of its parent.
  from distill_jax.model.t5 import flops
  from distill_jax.model.t5.config import T5Config

  config = T5Config(**sizes)
  for report in reports:
    if "passes" in report:
      per_step = statistics.mean(
        sum(flops.count_train_flops(config, *shape) for shape in step)
        for step in report.pop("passes")
      )
      rate = per_step / report["seconds_per_step"]
      report["model_flops_per_second"] = rate


def parse_options(
  arguments: list[str] | None,
) -> tuple[argparse.Namespace, list[str]]:
  """Returns the options, and the arguments that are benchmark.py's alone."""
  parser = argparse.ArgumentParser(
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
    allow_abbrev=False,
  )
  parser.add_argument("--baseline", required=True, choices=("torch", "t5x"))
  parser.add_argument(
    "--baseline_python", required=True, help="an interpreter that has it"
  )
  parser.add_argument("--mode", default="train", choices=("train", "decode"))
  parser.add_argument("--rounds", type=int, default=2, help="turns of each")
  parser.add_argument("--steps", type=int, default=3, help="measured steps")
  parser.add_argument(
    "--threads", type=int, default=len(os.sched_getaffinity(0))
  )
  parser.add_argument("--batch", type=int, default=8, help="rows to decode")
  parser.add_argument(
    "--row_inputs",
    type=int,
    default=256,
    help="tokens of our packed row, of a full one, or to decode from",
  )
  parser.add_argument(
    "--row_targets", type=int, default=128, help="of a packed or full row"
  )
  parser.add_argument("--tokens", type=int, default=32, help="to decode a row")
  parser.add_argument(
    "--torch_compile", action="store_true", help="train through torch.compile"
  )
  return parser.parse_known_args(arguments)


def make_export(
  options: argparse.Namespace, others: list[str], examples_file: str
) -> list[str]:
  """Returns the command that writes the model's sizes and the examples."""
  known = [
    other
    for other in others
    if options.mode == "train"
    or other.removeprefix("--gin.").partition("=")[0] not in _DECODING_MACROS
  ]
  return [
    *_make_ours(options, known),
    # One step more: neither counts its first.
    f"--steps={options.steps + 1}",
    f"--export_examples={examples_file}",
  ]


def make_commands(
  options: argparse.Namespace,
  others: list[str],
  examples_file: str,
  dtype: str,
) -> dict[str, list[str]]:
  """Returns the commands of ours and of the baseline."""
  steps = [f"--mode={options.mode}", f"--steps={options.steps}"]
  theirs = [
    options.baseline_python,
    str(_SCRIPTS / f"{options.baseline}_baseline.py"),
    f"--examples_file={examples_file}",
    f"--dtype={dtype}",
  ]
  if options.baseline == "torch":
    theirs.append(f"--threads={options.threads}")
  if options.mode == "decode":
    steps += [f"--batch={options.batch}", f"--tokens={options.tokens}"]
    theirs.append(f"--row_inputs={options.row_inputs}")
  elif options.torch_compile:
    theirs.append("--compile")
  return {
    "distill_jax": [*_make_ours(options, others), *steps],
    options.baseline: [*theirs, *steps],
  }


def _make_ours(options: argparse.Namespace, others: list[str]) -> list[str]:
  ours = [sys.executable, str(_SCRIPTS / "benchmark.py"), *others]
  ours.append(f"--row_inputs={options.row_inputs}")
  if options.mode == "decode":
    return ours
  ours.append(f"--row_targets={options.row_targets}")
  if not any(other.startswith("--run_gin_file") for other in others):
    ours.append("--run_gin_file=gin/runs/train_adamw.gin")
  layouts = [
    other for other in others if other.startswith(("--layout", "--full_rows"))
  ]
  if options.baseline == "t5x" and "--layout=packed" in layouts:
    sys.exit("--layout=packed: T5X is compared with one example a row.")
  if not layouts:
    is_packed = options.baseline == "torch"
    ours.append("--layout=packed" if is_packed else "--full_rows")
  return ours


def main(arguments: list[str] | None = None) -> None:
  """Lets both take turns and prints what they measured."""
  options, others = parse_options(arguments)
  with tempfile.TemporaryDirectory() as folder:
    examples_file = f"{folder}/examples.jsonl"
    run_pinned(make_export(options, others, examples_file), options.threads)
    with open(examples_file, encoding="utf-8") as file:
      sizes = json.loads(file.readline())["model"]
    commands = make_commands(options, others, examples_file, sizes["dtype"])
    reports = {program: [] for program in commands}
    for _ in range(options.rounds):
      for program, command in commands.items():
        if program == "t5x" and options.mode == "train":
          # Its rows are as long as ours.
          lengths = reports["distill_jax"][0]["row_lengths"]
          command = [
            *command,
            *(f"--row_{side}={length}" for side, length in lengths.items()),
          ]
        line = run_pinned(command, options.threads).splitlines()[-1]
        print(line, flush=True)
        reports[program].append(json.loads(line))
  check_comparable(reports)
  add_flop_rates(reports[options.baseline], sizes)
  print(json.dumps({"rounds": options.rounds, **compare(reports)}))


if __name__ == "__main__":
  main()
