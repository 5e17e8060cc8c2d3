"""Runs this program and the authors' loop in PyTorch side by side.

  python scripts/compare_torch.py --torch_python=<venv>/bin/python \\
    --gin_file=gin/models/t5_1_1/small.gin --examples=64 --steps=3 \\
    --token_cache=<cqa_distill's folder> --gin.VOCAB_SIZE=12032
  python scripts/compare_torch.py --torch_python=<venv>/bin/python \\
    --mode=decode --gin_file=gin/models/t5_1_1/small.gin --batch=8 \\
    --row_inputs=128 --tokens=32

The interpreter of --torch_python has torch and transformers, e.g. after
`pip install .[hf]`. `scripts/benchmark.py` and `scripts/torch_baseline.py` take
turns, ours first, each time in a process of its own with so many --threads on
the same processors, so that a busy machine slows both alike. They train on the
same examples in the same steps; ours packed (--layout=padded: not), by AdamW as
theirs. Other arguments go to `scripts/benchmark.py`; see its --help.

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
  processors = sorted(os.sched_getaffinity(0))[:num_threads]
  process = subprocess.run(
    command,
    env=os.environ | {"OMP_NUM_THREADS": str(num_threads)},
    # XLA makes as many threads as it may use processors.
    preexec_fn=lambda: os.sched_setaffinity(0, processors),
    stdout=subprocess.PIPE,
    text=True,
  )
  if process.returncode:
    print(f"This failed: {' '.join(command)}", file=sys.stderr)
    sys.exit(process.returncode)
  return process.stdout


def compare(reports: dict[str, list[dict]]) -> dict[str, dict[str, float]]:
  """Returns the median of each figure that both report, and the ratio.

  Args:
    reports: of each program, "distill_jax" and "torch", one a round.
  """
  summary = {}
  for key in _COMPARED:
    if all(key in report for of_one in reports.values() for report in of_one):
      medians = {
        program: statistics.median(report[key] for report in of_one)
        for program, of_one in reports.items()
      }
      ratio = medians["distill_jax"] / medians["torch"]
      summary[key] = medians | {"ratio": ratio}
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
  parser.add_argument(
    "--torch_python", required=True, help="an interpreter that has torch"
  )
  parser.add_argument("--mode", default="train", choices=("train", "decode"))
  parser.add_argument("--rounds", type=int, default=2, help="turns of each")
  parser.add_argument("--steps", type=int, default=3, help="measured steps")
  parser.add_argument(
    "--threads", type=int, default=len(os.sched_getaffinity(0))
  )
  parser.add_argument("--batch", type=int, default=8, help="rows to decode")
  parser.add_argument(
    "--row_inputs", type=int, help="tokens of our packed row, or to decode from"
  )
  parser.add_argument("--tokens", type=int, default=32, help="to decode a row")
  parser.add_argument(
    "--torch_dtype", default="float32", choices=("float32", "bfloat16")
  )
  parser.add_argument(
    "--torch_compile", action="store_true", help="train through torch.compile"
  )
  options, others = parser.parse_known_args(arguments)
  return options, others


def make_commands(
  options: argparse.Namespace, others: list[str], examples_file: str
) -> dict[str, list[str]]:
  """Returns the commands of each program, and of the export before them."""
  benchmark = [sys.executable, str(_SCRIPTS / "benchmark.py"), *others]
  torch = [
    options.torch_python,
    str(_SCRIPTS / "torch_baseline.py"),
    f"--examples_file={examples_file}",
    f"--threads={options.threads}",
    f"--dtype={options.torch_dtype}",
  ]
  both = [f"--mode={options.mode}", f"--steps={options.steps}"]
  if options.row_inputs is not None:
    benchmark.append(f"--row_inputs={options.row_inputs}")
  # One step more: neither counts its first.
  export = [
    *benchmark,
    f"--steps={options.steps + 1}",
    f"--export_examples={examples_file}",
  ]
  if options.mode == "decode":
    both += [f"--batch={options.batch}", f"--tokens={options.tokens}"]
    row_inputs = 256 if options.row_inputs is None else options.row_inputs
    torch.append(f"--row_inputs={row_inputs}")
  else:
    if options.torch_compile:
      torch.append("--compile")
    if not any(other.startswith("--run_gin_file") for other in others):
      benchmark.append("--run_gin_file=gin/runs/train_adamw.gin")
    is_chosen = any(
      other.startswith(("--layout", "--full_rows")) for other in others
    )
    if not is_chosen:
      benchmark.append("--layout=packed")
  return {
    "export": export,
    "distill_jax": [*benchmark, *both],
    "torch": [*torch, *both],
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
