"""What the baselines have alike: their examples and their arguments.

Runs in environments without the package, so it imports the standard library.
"""

import argparse
import json
import pathlib
from typing import Any


def read_examples(path: pathlib.Path) -> tuple[dict[str, Any], list[list[Any]]]:
  """Returns the model's sizes, and the rows of each step.

  Args:
    path: what `benchmark.py --export_examples` wrote.
  """
  with open(path, encoding="utf-8") as file:
    header, *rows = map(json.loads, file)
  steps = [[] for _ in range(1 + max(row["step"] for row in rows))]
  for row in rows:
    steps[row["step"]].append(row)
  return header["model"], steps


def make_parser(description: str | None) -> argparse.ArgumentParser:
  """Returns a parser of the arguments that all baselines have.

  Args:
    description: of the script.
  """
  parser = argparse.ArgumentParser(
    description=description,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  parser.add_argument("--mode", default="train", choices=("train", "decode"))
  parser.add_argument(
    "--examples_file",
    required=True,
    type=pathlib.Path,
    help="of benchmark.py --export_examples; steps go round in it",
  )
  parser.add_argument("--steps", type=int, default=3, help="measured steps")
  parser.add_argument("--warmup_steps", type=int, default=1)
  parser.add_argument("--batch", type=int, default=8, help="rows to decode")
  parser.add_argument("--row_inputs", type=int, default=128, help="tokens each")
  parser.add_argument("--tokens", type=int, default=32, help="to decode a row")
  parser.add_argument(
    "--dtype", default="float32", choices=("float32", "bfloat16")
  )
  return parser
