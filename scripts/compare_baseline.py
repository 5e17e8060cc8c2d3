"""Runs this program and another side by side: the authors' loop, or T5X.

  python scripts/compare_baseline.py --baseline=torch \\
    --baseline_python=.venv-torch/bin/python \\
    --gin_file=gin/models/t5_1_1/small.gin --examples=64 --steps=3 \\
    --token_cache=<cqa_distill's folder>
  python scripts/compare_baseline.py --baseline=t5x \\
    --baseline_python=<venv>/bin/python --mode=decode \\
    --gin_file=gin/models/t5_1_1/small.gin --batch=8 --row_inputs=128

"torch" is `scripts/torch_baseline.py`, whose interpreter has torch and
transformers (`bash scripts/test_extras.sh reference` makes .venv-torch). "t5x"
is `scripts/t5x_baseline.py`; give PYTHONPATH to T5X, airio and jestimator.

The two take turns, ours first, each time in a process of its own with so many
--threads on the same processors, so that a busy machine slows both alike. They
train on the same examples in the same steps; ours packed (--layout=padded:
not), by AdamW as theirs. Other arguments go to `scripts/benchmark.py`; see its
--help.

Prints their JSON lines, and at the end one with the medians over the rounds and
their ratios, ours over theirs.
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
  "peak_bytes",
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
    help="tokens of our packed row and of T5X's, or to decode from",
  )
  parser.add_argument(
    "--row_targets",
    type=int,
    default=128,
    help="tokens of our packed row and of T5X's",
  )
  parser.add_argument("--tokens", type=int, default=32, help="to decode a row")
  parser.add_argument(
    "--baseline_dtype", default="float32", choices=("float32", "bfloat16")
  )
  parser.add_argument(
    "--torch_compile", action="store_true", help="train through torch.compile"
  )
  return parser.parse_known_args(arguments)


def make_commands(
  options: argparse.Namespace, others: list[str], examples_file: str
) -> dict[str, list[str]]:
  """Returns the commands of ours, the baseline and the export before them."""
  row_inputs = f"--row_inputs={options.row_inputs}"
  row_targets = f"--row_targets={options.row_targets}"
  steps = [f"--mode={options.mode}", f"--steps={options.steps}"]
  ours = [
    *(sys.executable, str(_SCRIPTS / "benchmark.py"), *others),
    *(row_inputs, row_targets),
  ]
  theirs = [
    *(
      options.baseline_python,
      str(_SCRIPTS / f"{options.baseline}_baseline.py"),
    ),
    f"--examples_file={examples_file}",
    f"--dtype={options.baseline_dtype}",
  ]
  if options.baseline == "torch":
    theirs.append(f"--threads={options.threads}")
  # One step more: neither counts its first.
  export = [
    *ours,
    f"--steps={options.steps + 1}",
    f"--export_examples={examples_file}",
  ]
  if options.mode == "decode":
    steps += [f"--batch={options.batch}", f"--tokens={options.tokens}"]
    theirs.append(row_inputs)
  else:
    if options.baseline == "t5x":
      theirs += [row_inputs, row_targets]
    if options.torch_compile:
      theirs.append("--compile")
    if not any(other.startswith("--run_gin_file") for other in others):
      ours.append("--run_gin_file=gin/runs/train_adamw.gin")
    is_chosen = any(
      other.startswith(("--layout", "--full_rows")) for other in others
    )
    if not is_chosen:
      ours.append("--layout=packed")
  return {
    "export": export,
    "distill_jax": [*ours, *steps],
    options.baseline: [*theirs, *steps],
  }


def main(arguments: list[str] | None = None) -> None:
  """Lets both take turns and prints what they measured."""
  options, others = parse_options(arguments)
  with tempfile.TemporaryDirectory() as folder:
    commands = make_commands(options, others, f"{folder}/examples.jsonl")
    run_pinned(commands.pop("export"), options.threads)
    reports = {program: [] for program in commands}
    for _ in range(options.rounds):
      for program, command in commands.items():
        line = run_pinned(command, options.threads).splitlines()[-1]
        print(line, flush=True)
        reports[program].append(json.loads(line))
  print(json.dumps({"rounds": options.rounds, **compare(reports)}))


if __name__ == "__main__":
  main()
