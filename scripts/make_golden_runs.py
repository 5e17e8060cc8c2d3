"""Runs small trainings by the command line and writes all that comes out.

Each setting below prepares, trains 20 steps, evaluates, exports and predicts as
a user would: by `distill-jax`, gin macros and the files that it writes. Nothing
of the package is imported, so that its modules may move. To see whether a
change leaves every number as it was, run this on both checkouts on one machine
and compare:

  OLD/.venv/bin/python scripts/make_golden_runs.py --output=old.json
  NEW/.venv/bin/python scripts/make_golden_runs.py --output=new.json
  python scripts/make_golden_runs.py --compare old.json new.json

The comparison demands the same bits: losses, metrics, predictions, checksums of
every array of the last checkpoint, prompts and records. What other processors
may round otherwise is left out of tests/testdata/golden_runs.json, which the
tests read. To write it anew, where the numbers are meant to change:

  python scripts/make_golden_runs.py --portable=tests/testdata/golden_runs.json
"""

import argparse
import concurrent.futures
import json
import multiprocessing
import os
import pathlib
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from importlib import metadata
from typing import Any

import golden_comparison
import golden_outputs
import golden_settings
import golden_teacher

# Loaded once, before a process for each command is forked. No backend starts.
PRELOADED = (
  *("jax", "flax.linen", "optax", "orbax.checkpoint", "grain", "seqio"),
  "openai",
)
# Compiles sooner; the programs are the same before XLA optimizes them.
XLA_FLAGS = "--xla_backend_optimization_level=0"


def _execute(
  command: str, arguments: list[str], environment: dict[str, str], output: str
) -> None:
  """Becomes the command; runs in a process of its own."""
  os.environ.update(environment)
  os.chdir(pathlib.Path(output).parent)
  for suffix, number in ((".out", 1), (".err", 2)):
    os.dup2(os.open(output + suffix, os.O_WRONLY | os.O_CREAT), number)
  (entry,) = metadata.entry_points(group="console_scripts", name=command)
  sys.argv = [command, *arguments]
  entry.load()()


class Workplace:
  """A folder where commands run, each in a fresh process.

  Attributes:
    folder: where it is.
  """

  def __init__(
    self, context: Any, folder: pathlib.Path, xla_flags: str, caches: str
  ):
    self.folder = folder
    self._context = context
    self._count = 0
    self._caches = caches
    self._environment = {
      "JAX_PLATFORMS": "cpu",
      "TF_CPP_MIN_LOG_LEVEL": "3",
      "XLA_FLAGS": xla_flags,
      "JAX_COMPILATION_CACHE_DIR": f"{caches}/xla",
      "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    folder.mkdir()

  def start(self, target: Any, *arguments: Any, **environment: str) -> str:
    """Runs a command or a function of this file; returns its standard output.

    Args:
      target: a command's name, or `golden_outputs.write_state`.
      *arguments: of the command.
      **environment: more variables.

    Raises:
      RuntimeError: it failed; with the end of what it said.
    """
    self._count += 1
    output = str(self.folder / f"command{self._count}")
    if isinstance(target, str):
      variables = self._environment | environment
      arguments = (target, list(arguments), variables, output)
      target = _execute
    process = self._context.Process(target=target, args=arguments)
    process.start()
    process.join()
    said = {
      suffix: pathlib.Path(output + suffix).read_text(errors="replace")
      for suffix in (".out", ".err")
      if pathlib.Path(output + suffix).exists()
    }
    if process.exitcode:
      raise RuntimeError(f"{arguments} failed: {said.get('.err', '')[-4000:]}")
    return said.get(".out", "")

  def run_mode(
    self, mode: str, macros: Mapping[str, Any], *gin_files: str, **options: Any
  ) -> str:
    """Runs `distill-jax --run_mode=...`; returns its standard output.

    Args:
      mode: the run mode.
      macros: settings by name.
      *gin_files: before the mode's own, without `gin/` and `.gin`.
      **options: `run_file`, the mode's own where it is named otherwise;
        `flags`, more of them; `xla_flags`, instead of the usual ones.
    """
    files = (*gin_files, f"runs/{options.get('run_file', mode)}")
    if mode in ("prepare", "train", "eval"):
      macros = {"CACHE_DIR": f"{self._caches}/tokens"} | dict(macros)
    return self.start(
      "distill-jax",
      f"--run_mode={mode}",
      *(f"--gin_file=gin/{name}.gin" for name in files),
      *(f"--gin.{name}={value!r}" for name, value in macros.items()),
      *options.get("flags", ()),
      **options.get("environment", {}),
    )


def run_setting(
  setting: golden_settings.Setting, workplace: Workplace, xla_flags: str
) -> Any:
  """Runs one setting; returns all that it gave."""
  options: dict[str, Any] = {
    "environment": {
      "XLA_FLAGS": f"{xla_flags} --xla_force_host_platform_device_count="
      f"{setting.num_devices}"
    }
  }
  model = f"models/{setting.model}/tiny"
  data = {
    "MIXTURE_OR_TASK_NAME": setting.task,
    "WORD_PROBLEMS": golden_settings.WORD_PROBLEMS,
    "ANIMAL_LEGS": golden_settings.ANIMAL_LEGS,
  }
  suffix = "_adamw" if setting.optimizer == "adamw" else ""
  train_options = options | {"run_file": f"train{suffix}"}
  defaults = data | {
    "TASK_FEATURE_LENGTHS": {"inputs": 64, "targets": 64},
    "BATCH_SIZE": 8,
    "LEARNING_RATE": 5e-3,
    "LOG_PERIOD": 1,
    "EVAL_PERIOD": golden_settings.TRAIN_STEPS,
    "TRAIN_STEPS": golden_settings.TRAIN_STEPS,
    "SEED": 5,
  }
  model_dir = workplace.folder / "run"
  macros = defaults | {"MODEL_DIR": str(model_dir)} | dict(setting.macros)
  found: dict[str, Any] = {}
  if setting.warm_start is not None:
    first_dir = workplace.folder / "first"
    first = defaults | dict(setting.warm_start)
    first |= {"MODEL_DIR": str(first_dir), "TRAIN_STEPS": 5}
    workplace.run_mode("train", first, model, **train_options)
    found["first_train"] = golden_outputs.read_rows(first_dir / "metrics.jsonl")
    exported = _export(workplace, first_dir)
    macros["INITIAL_CHECKPOINT_PATH"] = str(exported)
  if setting.first_steps:
    part = macros | {"TRAIN_STEPS": setting.first_steps}
    workplace.run_mode("train", part, model, **train_options)
  workplace.run_mode("train", macros, model, **train_options)
  found["train"] = golden_outputs.read_rows(model_dir / "metrics.jsonl")

  state_path = workplace.folder / "state.json"
  last = model_dir / "checkpoints" / str(golden_settings.TRAIN_STEPS)
  workplace.start(golden_outputs.write_state, str(last), str(state_path))
  found["state"] = json.loads(state_path.read_text())
  exported = _export(workplace, model_dir)
  found["parameters"] = golden_outputs.read_tensors(
    exported / "model.safetensors"
  )

  for changes in setting.evaluations:
    evaluation = {"MODEL_DIR": str(model_dir), "CHECKPOINTS": "last"}
    workplace.run_mode("eval", evaluation | dict(changes), **options)
  found["eval"] = {
    str(path.parent.relative_to(model_dir)): {
      "metrics": golden_outputs.keep_repeatable(
        json.loads((path.parent / "metrics.json").read_text())
      ),
      "predictions": golden_outputs.read_rows(path),
    }
    for path in sorted(model_dir.glob("eval/**/predictions.jsonl"))
  }
  inputs = workplace.folder / "questions.jsonl"
  _write_questions(inputs)
  found["infer"] = []
  for index, changes in enumerate(setting.inferences):
    output = workplace.folder / f"predicted{index}.jsonl"
    inference = {
      "MODEL_DIR": str(model_dir),
      "INPUT_PATH": str(inputs),
      "OUTPUT_PATH": str(output),
    }
    workplace.run_mode("infer", inference | dict(changes), **options)
    found["infer"].append(golden_outputs.read_rows(output))
  return found


def _export(workplace: Workplace, model_dir: pathlib.Path) -> pathlib.Path:
  folder = model_dir.with_name(f"{model_dir.name}_hf")
  names = ("--from=orbax", "--to=hf", str(model_dir), str(folder))
  workplace.start("distill-jax-convert", *names)
  return folder


def _write_questions(path: pathlib.Path) -> None:
  path.write_text(
    "".join(json.dumps(line) + "\n" for line in golden_settings.QUESTIONS)
  )


LABELLINGS = {
  "dry_run": ({}, ("--dry_run",)),
  "label": ({}, ()),
  "rebuild": (
    {"DROP_LABEL_NOT_PARSED": True, "DROP_LABEL_DISAGREES_WITH_GOLD": True},
    ("--rebuild",),
  ),
  "vote": (
    {
      "ENDPOINT": "completions",
      "NUM_SAMPLES": 3,
      "TEMPERATURE": 0.7,
      "DROP_EMPTY_RATIONALE": True,
    },
    (),
  ),
  "evaluate": (
    {"EVALUATE_PROMPTS": ("word_problems", "svamp")},
    ("--evaluate",),
  ),
}


def run_label(workplace: Workplace) -> Any:
  """Has a teacher label questions; returns prompts, records and counts."""
  inputs = workplace.folder / "questions.jsonl"
  _write_questions(inputs)
  found = {}
  with golden_teacher.serve() as (address, asked):
    for name, (changes, flags) in LABELLINGS.items():
      output = workplace.folder / ("vote" if name == "vote" else "labelled")
      said = workplace.run_mode(
        "label",
        {
          "INPUT_PATH": str(inputs),
          "OUTPUT_PATH": str(output),
          "TEACHER_BASE_URL": f"{address}/v1",
          "TEACHER_MODEL": "teacher",
          "TEACHER_API_KEY_VARIABLE": None,
          "PROMPT": "word_problems",
        }
        | changes,
        flags=flags,
      )
      files = {
        path.name: golden_outputs.read_rows(path)
        if path.suffix == ".jsonl"
        else golden_outputs.keep_repeatable(json.loads(path.read_text()))
        for path in sorted(output.glob("*.json*"))
        if path.name in ("records.jsonl", "summary.json", "evaluation.json")
      }
      made = {"asked": sorted(asked), "files": files}
      if name != "evaluate":  # It prints how long the answers took.
        made["said"] = said
      asked.clear()
      text = json.dumps(made).replace(address, "ADDRESS")
      found[name] = json.loads(text.replace(str(workplace.folder), "FOLDER"))
  return found


def make(
  names: Sequence[str], num_jobs: int = 2, xla_flags: str = XLA_FLAGS
) -> dict[str, Any]:
  """Runs settings, some at a time; returns what each of `names` gave."""
  context = multiprocessing.get_context("forkserver")
  context.set_forkserver_preload(list(PRELOADED))
  with tempfile.TemporaryDirectory(prefix="golden_runs_") as folder:

    def run(name: str) -> Any:
      start = time.monotonic()
      place = pathlib.Path(folder, name)
      workplace = Workplace(context, place, xla_flags, folder)
      found = (
        run_label(workplace)
        if name == golden_settings.LABEL
        else run_setting(golden_settings.SETTINGS[name], workplace, xla_flags)
      )
      print(f"{name}: {time.monotonic() - start:.0f} s", flush=True)
      return found

    with concurrent.futures.ThreadPoolExecutor(num_jobs) as pool:
      return dict(zip(names, pool.map(run, names), strict=True))


def main(arguments: Sequence[str]) -> int:
  """Runs the script; returns its exit code."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("--output", help="a JSON file of everything")
  parser.add_argument("--portable", help="a JSON file of what tests compare")
  parser.add_argument(
    "--only",
    nargs="+",
    choices=golden_settings.NAMES,
    default=golden_settings.NAMES,
  )
  parser.add_argument("--compare", nargs=2, metavar=("OLD", "NEW"))
  parser.add_argument("--jobs", type=int, default=2, help="settings at a time")
  parser.add_argument("--xla_flags", default=XLA_FLAGS)
  given = parser.parse_args(arguments)
  if given.compare:
    return golden_comparison.compare(*given.compare)
  if not given.output and not given.portable:
    parser.error("give --output, --portable or --compare")
  os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
  start = time.monotonic()
  found = make(given.only, given.jobs, given.xla_flags)
  print(f"{len(found)} settings: {time.monotonic() - start:.0f} s")
  for path, content in (
    (given.output, found),
    (given.portable, golden_comparison.make_portable(found)),
  ):
    if path:
      text = json.dumps(content, indent=1, sort_keys=True)
      pathlib.Path(path).write_text(f"{text}\n", encoding="utf-8")
  return 0


if __name__ == "__main__":
  sys.exit(main(sys.argv[1:]))
