"""Writes the questions of a registered data set, for a teacher to answer.

  python scripts/write_questions.py --dataset=svamp --split=train \\
    --data_dir=data --output=questions.jsonl

The file has id, input and gold label, one question a line, and nothing of what
another teacher answered: it is what `--run_mode=label` takes as INPUT_PATH, and
what a validation or test file of a data set of your own may be. Which examples
are training and which validation is decided as in training.
"""

import argparse
import pathlib
import sys
from collections.abc import Sequence

from distill_jax.data import datasets, records
from distill_jax.data.settings import DataSettings
from distill_jax.errors import UserError


def write_questions(
  dataset: str, split: str, data_dir: str | None, output: str, limit: int | None
) -> int:
  """Writes the file, and returns how many questions it has.

  Args:
    dataset: a registered data set.
    split: "train", "validation" or "test".
    data_dir: folder with the official release's data sets, if it is one of
      them.
    output: path of a new file.
    limit: only so many, from the start; None: all.

  Raises:
    UserError: the file exists, the limit is not a number of questions, or the
      data set cannot be read.
  """
  path = pathlib.Path(output).expanduser()
  if path.exists():
    raise UserError(f"{path} exists. Remove it, or give another --output.")
  if limit is not None and limit < 1:
    raise UserError(f"--limit is {limit}; it must be 1 or more.")
  source = datasets.load_records(dataset, split, DataSettings(data_dir))
  questions = [
    records.Record(record.id, record.input, record.label, meta=record.meta)
    for record in source[:limit]
  ]
  path.parent.mkdir(parents=True, exist_ok=True)
  records.write_records(path, questions)
  return len(questions)


def main(arguments: Sequence[str]) -> int:
  """Runs the script; returns its exit code."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("--dataset", choices=datasets.names(), required=True)
  parser.add_argument("--split", choices=datasets.SPLITS, default="train")
  parser.add_argument("--data_dir", help="the official release's data sets")
  parser.add_argument("--output", required=True, help="a new JSONL file")
  parser.add_argument("--limit", type=int, help="the first so many; else all")
  given = parser.parse_args(arguments)
  try:
    count = write_questions(
      given.dataset, given.split, given.data_dir, given.output, given.limit
    )
  except UserError as error:
    print(f"write_questions.py: {error}", file=sys.stderr)
    return 2
  print(f"{given.output}: {count} questions")
  return 0


if __name__ == "__main__":
  sys.exit(main(sys.argv[1:]))
