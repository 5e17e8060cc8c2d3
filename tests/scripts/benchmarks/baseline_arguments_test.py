"""Tests of scripts/benchmarks/baseline_arguments.py."""

import json

from script_import import import_script

baseline_arguments = import_script("baseline_arguments")


def test_examples_come_by_step(tmp_path):
  path = tmp_path / "examples.jsonl"
  lines = [{"model": {"vocab_size": 8}}] + [
    {"step": step, "inputs": [row]} for step in (0, 1) for row in range(2)
  ]
  path.write_text("".join(json.dumps(line) + "\n" for line in lines))
  sizes, steps = baseline_arguments.read_examples(path)
  assert sizes == {"vocab_size": 8}
  assert [[row["inputs"] for row in step] for step in steps] == [
    [[0], [1]],
    [[0], [1]],
  ]


def test_all_baselines_take_the_same_arguments():
  options = baseline_arguments.make_parser("doc").parse_args(
    ["--examples_file=x", "--mode=decode", "--tokens=3"]
  )
  assert (options.mode, options.tokens, options.steps) == ("decode", 3, 3)
