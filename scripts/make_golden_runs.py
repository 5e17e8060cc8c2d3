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
import contextlib
import dataclasses
import hashlib
import http.server
import json
import math
import multiprocessing
import os
import pathlib
import re
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from importlib import metadata
from typing import Any

TRAIN_STEPS = 20
RELATIVE_TOLERANCE = 2e-4
# Without AVX-512 and at another level of XLA's optimization, losses moved by
# 7e-5 at most, gradient norms by 4e-4 and bfloat16's losses by 1e-3.
BFLOAT16_TOLERANCE = 1e-2
# Loaded once, before a process for each command is forked. No backend starts.
PRELOADED = (
  *("jax", "flax.linen", "optax", "orbax.checkpoint", "grain", "seqio"),
  "openai",
)
# Compiles sooner; the programs are the same before XLA optimizes them.
XLA_FLAGS = "--xla_backend_optimization_level=0"
# Clock and machine decide these, and of the token cache the source files.
UNREPEATABLE = re.compile(
  r".*_per_second|.*seconds.*|latency.*|checkpoint|token_cache"
)
# One letter that a student decodes otherwise changes these.
FROM_DECODED_TEXT = re.compile(
  r"label_accuracy.*|num_correct|num_unparsed|num_rationales_right"
)
WORD_PROBLEMS = {
  "num_train_examples": 96,
  "num_validation_examples": 8,
  "num_test_examples": 12,
}
ANIMAL_LEGS = WORD_PROBLEMS | {"num_train_examples": 64}


@dataclasses.dataclass(frozen=True)
class Setting:
  """One training, and what is asked of its student.

  Attributes:
    model: the family's folder in gin/models.
    task: what MIXTURE_OR_TASK_NAME is.
    macros: of training, by name.
    optimizer: "adafactor" or "adamw".
    evaluations: macros of each evaluation on test.
    inferences: macros of each prediction of `QUESTIONS`.
    first_steps: train so far, end, and go on in another process; 0: do not.
    warm_start: macros of a run whose export this one starts from.
    num_devices: of the one processor.
  """

  model: str
  task: str
  macros: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  optimizer: str = "adafactor"
  evaluations: Sequence[Mapping[str, Any]] = ({},)
  inferences: Sequence[Mapping[str, Any]] = ()
  first_steps: int = 0
  warm_start: Mapping[str, Any] | None = None
  num_devices: int = 1


SETTINGS = {
  "t5_1_1_packed_paired_adafactor": Setting(
    "t5_1_1",
    "word_problems_distill",
    {"EVAL_PERIOD": 10},
    evaluations=({}, {"NUM_BEAMS": 3}),
    inferences=(
      {"WITH_RATIONALE": True, "DECODING": "sample", "SEED": 1},
      {"INFER_MODE": "score"},
    ),
  ),
  "t5_1_0_padded_mixed_adamw": Setting(
    "t5_1_0",
    "animal_legs_distill",
    {"PACKED": False, "PAIRING": "mixed", "WEIGHT_DECAY": 0.01},
    optimizer="adamw",
    inferences=({"INFER_MODE": "score"},),
  ),
  "umt5_joint_dropout": Setting(
    "umt5",
    "word_problems_joint",
    {"DROPOUT_RATE": 0.1, "MAX_GRAD_NORM": 1.0},
    inferences=(
      {"DECODING": "sample", "TEMPERATURE": 0.7, "SEED": 3, "NUM_SAMPLES": 2},
    ),
  ),
  "micro_batches_chunks_z_loss": Setting(
    "t5_1_1",
    "word_problems_distill",
    {
      "NUM_MICROBATCHES": 2,
      "LOSS_CHUNK_TOKENS": 32,
      "Z_LOSS": 1e-3,
      "RATIONALE_LOSS_WEIGHT": 0.5,
      "WARMUP_STEPS": 5,
      "LEARNING_RATE": 3e-3,
      "DROPOUT_RATE": 0.1,
    },
    optimizer="adamw",
    evaluations=(),
  ),
  "scan_remat_bfloat16_resumed": Setting(
    "t5_1_1",
    "animal_legs_distill",
    {
      "SCAN_LAYERS": True,
      "REMAT_POLICY": "full",
      "DROPOUT_RATE": 0.1,
      "ACTIVATION_DTYPE": "bfloat16",
    },
    first_steps=10,
  ),
  "eight_devices": Setting(
    "t5_1_1",
    "word_problems_distill",
    {
      "MESH": {"data": 2, "fsdp": 2, "model": 2},
      "DATA_SHARDS": 2,
      "LOSS_CHUNK_TOKENS": 64,
      "NUM_MICROBATCHES": 2,
      "Z_LOSS": 1e-4,
      "DROPOUT_RATE": 0.1,
    },
    num_devices=8,
  ),
  "shuffled_rationales_subsampled": Setting(
    "t5_1_0",
    "animal_legs_distill",
    {"SHUFFLE_RATIONALES": True, "SUBSAMPLE": 0.5, "SUBSAMPLE_SEED": 1},
    evaluations=(),
  ),
  "teacher_labels_paired_adamw": Setting(
    "umt5",
    "word_problems_teacher_distill",
    {"MAX_EXAMPLES_PER_BATCH": 6, "SCHEDULE": "cosine", "LEARNING_RATE": 1e-2},
    optimizer="adamw",
    evaluations=(),
  ),
  "byt5_finetune_scan": Setting(
    "byt5",
    "animal_legs_finetune",
    {
      "VOCAB_PATH": "bytes",
      "SCAN_LAYERS": True,
      "TASK_FEATURE_LENGTHS": {"inputs": 96, "targets": 16},
    },
    evaluations=({"DECODING": "beam", "NUM_BEAMS": 2},),
  ),
  "warm_start_from_hf_adamw": Setting(
    "t5_1_1",
    "animal_legs_finetune",
    {"FIRST_MOMENT_DTYPE": "bfloat16", "PACKED": False},
    optimizer="adamw",
    evaluations=(),
    warm_start={"MIXTURE_OR_TASK_NAME": "animal_legs_span_corruption"},
  ),
}
LABEL = "label"
NAMES = (*SETTINGS, LABEL)
# Relative, of numbers that are not whole; how far processors differ.
TOLERANCES = dict.fromkeys(NAMES, RELATIVE_TOLERANCE) | {
  name: BFLOAT16_TOLERANCE
  for name, setting in SETTINGS.items()
  if "bfloat16" in setting.macros.values()
}
# The tests' default; together they touch most of what may move.
FAST = ("t5_1_1_packed_paired_adafactor", LABEL)

QUESTIONS = [
  {
    "id": f"q{first}",
    "input": f"amy has {first} pens . amy finds {second} more pens . how many"
    " pens does amy have now ?",
    "label": f"{first} + {second}",
    "target": f"{first} + {second}",
  }
  for first, second in zip(range(3, 11), range(20, 4, -2), strict=True)
]


# --- Commands ----------------------------------------------------------------


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
      target: a command's name, or `write_state`.
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


# --- Reading -----------------------------------------------------------------


def hash_bytes(data: bytes) -> str:
  """Returns the SHA-256, in hexadecimal digits."""
  return hashlib.sha256(data).hexdigest()


def keep_repeatable(value: Any) -> Any:
  """Leaves out of JSON what another run on the same machine has otherwise."""
  if isinstance(value, dict):
    return {
      name: keep_repeatable(field)
      for name, field in value.items()
      if not UNREPEATABLE.fullmatch(name)
    }
  if isinstance(value, list):
    return [keep_repeatable(field) for field in value]
  return value


def read_rows(path: pathlib.Path) -> list[Any]:
  """Reads JSON lines."""
  lines = path.read_text(encoding="utf-8").splitlines()
  return [keep_repeatable(json.loads(line)) for line in lines]


def write_state(checkpoint: str, path: str) -> None:
  """Writes what a checkpoint's arrays hash to, whatever they are called.

  Args:
    checkpoint: the folder of a step.
    path: of the JSON list, in order of type, shape and hash.
  """
  os.environ["JAX_PLATFORMS"] = "cpu"
  import jax
  import numpy as np
  import orbax.checkpoint as ocp

  reader = ocp.PyTreeCheckpointer()
  folder = pathlib.Path(checkpoint) / "state"
  tree = reader.metadata(folder).item_metadata.tree
  as_numpy = ocp.RestoreArgs(restore_type=np.ndarray)
  state = reader.restore(
    folder, restore_args=jax.tree.map(lambda _: as_numpy, tree)
  )
  arrays = [np.asarray(leaf) for leaf in jax.tree.leaves(state)]
  described = [
    f"{array.dtype} {array.shape} {hash_bytes(array.tobytes())}"
    for array in arrays
  ]
  pathlib.Path(path).write_text(json.dumps(sorted(described)))


def read_tensors(path: pathlib.Path) -> dict[str, str]:
  """Returns type, shape and hash of each tensor of a safetensors file."""
  data = path.read_bytes()
  start = 8 + int.from_bytes(data[:8], "little")
  header = json.loads(data[8:start])
  header.pop("__metadata__", None)
  described = {}
  for name, entry in sorted(header.items()):
    first, last = (start + offset for offset in entry["data_offsets"])
    hashed = hash_bytes(data[first:last])
    described[name] = f"{entry['dtype']} {entry['shape']} {hashed}"
  return described


# --- A training --------------------------------------------------------------


def run_setting(setting: Setting, workplace: Workplace, xla_flags: str) -> Any:
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
    "WORD_PROBLEMS": WORD_PROBLEMS,
    "ANIMAL_LEGS": ANIMAL_LEGS,
  }
  suffix = "_adamw" if setting.optimizer == "adamw" else ""
  train_options = options | {"run_file": f"train{suffix}"}
  defaults = data | {
    "TASK_FEATURE_LENGTHS": {"inputs": 64, "targets": 64},
    "BATCH_SIZE": 8,
    "LEARNING_RATE": 5e-3,
    "LOG_PERIOD": 1,
    "EVAL_PERIOD": TRAIN_STEPS,
    "TRAIN_STEPS": TRAIN_STEPS,
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
    found["first_train"] = read_rows(first_dir / "metrics.jsonl")
    exported = _export(workplace, first_dir)
    macros["INITIAL_CHECKPOINT_PATH"] = str(exported)
  if setting.first_steps:
    part = macros | {"TRAIN_STEPS": setting.first_steps}
    workplace.run_mode("train", part, model, **train_options)
  workplace.run_mode("train", macros, model, **train_options)
  found["train"] = read_rows(model_dir / "metrics.jsonl")

  state_path = workplace.folder / "state.json"
  last = model_dir / "checkpoints" / str(TRAIN_STEPS)
  workplace.start(write_state, str(last), str(state_path))
  found["state"] = json.loads(state_path.read_text())
  exported = _export(workplace, model_dir)
  found["parameters"] = read_tensors(exported / "model.safetensors")

  for changes in setting.evaluations:
    evaluation = {"MODEL_DIR": str(model_dir), "CHECKPOINTS": "last"}
    workplace.run_mode("eval", evaluation | dict(changes), **options)
  found["eval"] = {
    str(path.parent.relative_to(model_dir)): {
      "metrics": keep_repeatable(
        json.loads((path.parent / "metrics.json").read_text())
      ),
      "predictions": read_rows(path),
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
    found["infer"].append(read_rows(output))
  return found


def _export(workplace: Workplace, model_dir: pathlib.Path) -> pathlib.Path:
  folder = model_dir.with_name(f"{model_dir.name}_hf")
  names = ("--from=orbax", "--to=hf", str(model_dir), str(folder))
  workplace.start("distill-jax-convert", *names)
  return folder


def _write_questions(path: pathlib.Path) -> None:
  path.write_text("".join(json.dumps(line) + "\n" for line in QUESTIONS))


# --- A teacher ---------------------------------------------------------------


def answer_question(prompt: str, seed: int) -> str:
  """Returns what the teacher says: right, wrong, bare or no answer."""
  first, second = re.findall(r"amy has (\d+) [^?]* (\d+) more", prompt)[-1]
  number = int(first) + seed
  if number % 4 == 0:
    return "amy has pens and i do not know"
  if number % 4 == 1:
    return f"the answer is {first} + {second} ."
  sign = "-" if number % 4 == 2 else "+"
  return (
    f"amy starts with {first} pens . amy gets {second} more . {first} {sign}"
    f" {second} . the answer is {first} {sign} {second} ."
  )


class _Teacher(http.server.BaseHTTPRequestHandler):
  """Answers as OpenAI's API does, and keeps what it was asked."""

  protocol_version = "HTTP/1.1"
  asked: list[str]

  def do_POST(self):
    asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
    is_chat = "messages" in asked
    prompt = json.dumps(asked["messages"]) if is_chat else asked["prompt"]
    text = answer_question(prompt, asked.get("seed", 0))
    choice: dict[str, Any] = {"index": 0, "finish_reason": "stop"}
    if is_chat:
      choice["message"] = {"role": "assistant", "content": text}
    else:
      choice["text"] = text
    body = json.dumps(
      {
        "id": "answer",
        "object": "chat.completion" if is_chat else "text_completion",
        "created": 1,
        "model": asked["model"],
        "choices": [choice],
        "usage": {
          "prompt_tokens": len(prompt.split()),
          "completion_tokens": len(text.split()),
          "total_tokens": len(prompt.split()) + len(text.split()),
        },
      }
    ).encode()
    self.asked.append(
      f"{self.path} {hash_bytes(json.dumps(asked, sort_keys=True).encode())}"
    )
    self.send_response(200)
    self.send_header("content-type", "application/json")
    self.send_header("content-length", str(len(body)))
    self.end_headers()
    self.wfile.write(body)

  def log_message(self, *_):
    """Says nothing."""


@contextlib.contextmanager
def _serve() -> Iterator[tuple[str, list[str]]]:
  """Yields a teacher's address, and what it was asked until then."""
  asked: list[str] = []
  handler = type("Teacher", (_Teacher,), {"asked": asked})
  with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
      yield f"http://127.0.0.1:{server.server_address[1]}", asked
    finally:
      server.shutdown()
      thread.join()


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
  with _serve() as (address, asked):
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
        path.name: read_rows(path)
        if path.suffix == ".jsonl"
        else keep_repeatable(json.loads(path.read_text()))
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


# --- All of them -------------------------------------------------------------


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
        if name == LABEL
        else run_setting(SETTINGS[name], workplace, xla_flags)
      )
      print(f"{name}: {time.monotonic() - start:.0f} s", flush=True)
      return found

    with concurrent.futures.ThreadPoolExecutor(num_jobs) as pool:
      return dict(zip(names, pool.map(run, names), strict=True))


def make_portable(found: Any) -> Any:
  """Keeps what every processor gives, but for a last digit or two.

  Sums are rounded in another order elsewhere: checksums differ then, and so may
  a decoded text, where two tokens are nearly as likely.
  """
  if isinstance(found, dict):
    return {
      name: make_portable(value)
      for name, value in found.items()
      if name not in ("state", "parameters", "predictions")
      and not re.fullmatch(r"predict.*|.*finish_reasons?", name)
      and not FROM_DECODED_TEXT.fullmatch(name)
    }
  if isinstance(found, list):
    return [make_portable(value) for value in found]
  return float(f"{found:.7g}") if isinstance(found, float) else found


def find_differences(
  first: Any, second: Any, tolerance: float = 0.0, where: str = ""
) -> list[str]:
  """Returns a line for each value that differs.

  Args:
    first: JSON.
    second: JSON.
    tolerance: relative, of numbers that are not whole; whole ones are counts.
    where: the path so far.
  """
  if isinstance(first, dict) and isinstance(second, dict):
    lines = [
      f"{where}/{name}: only in the {number}"
      for number, one, other in (
        ("first", first, second),
        ("second", second, first),
      )
      for name in one
      if name not in other
    ]
    for name in first:
      if name in second:
        lines += find_differences(
          first[name], second[name], tolerance, f"{where}/{name}"
        )
    return lines
  if isinstance(first, list) and isinstance(second, list):
    lines = []
    if len(first) != len(second):
      lines = [f"{where}: {len(first)} entries and {len(second)}"]
    for index, (one, other) in enumerate(zip(first, second, strict=False)):
      lines += find_differences(one, other, tolerance, f"{where}[{index}]")
    return lines
  if isinstance(first, float) and isinstance(second, float) and tolerance:
    if where.endswith("gradient_norm"):
      tolerance *= 10  # It moves more than losses do.
    if not first.is_integer() and math.isclose(
      first, second, rel_tol=tolerance
    ):
      return []
  if type(first) is type(second) and first == second:
    return []
  return [f"{where}: {first!r:.200} and {second!r:.200}"]


def compare(first_path: str, second_path: str) -> int:
  """Prints how two results differ; returns the exit code."""
  first, second = (
    json.loads(pathlib.Path(path).read_text())
    for path in (first_path, second_path)
  )
  lines = find_differences(first, second)
  for line in lines[:40]:
    print(line)
  count = len(re.findall(r"[\d.]+|\"", json.dumps(first)))
  print(
    f"{len(lines)} differences"
    if lines
    else f"Identical: {', '.join(first)}; {count} numbers and texts."
  )
  return 1 if lines else 0


def main(arguments: Sequence[str]) -> int:
  """Runs the script; returns its exit code."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("--output", help="a JSON file of everything")
  parser.add_argument("--portable", help="a JSON file of what tests compare")
  parser.add_argument("--only", nargs="+", choices=NAMES, default=NAMES)
  parser.add_argument("--compare", nargs=2, metavar=("OLD", "NEW"))
  parser.add_argument("--jobs", type=int, default=2, help="settings at a time")
  parser.add_argument("--xla_flags", default=XLA_FLAGS)
  given = parser.parse_args(arguments)
  if given.compare:
    return compare(*given.compare)
  if not given.output and not given.portable:
    parser.error("give --output, --portable or --compare")
  os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
  start = time.monotonic()
  found = make(given.only, given.jobs, given.xla_flags)
  print(f"{len(found)} settings: {time.monotonic() - start:.0f} s")
  for path, content in (
    (given.output, found),
    (given.portable, make_portable(found)),
  ):
    if path:
      text = json.dumps(content, indent=1, sort_keys=True)
      pathlib.Path(path).write_text(f"{text}\n", encoding="utf-8")
  return 0


if __name__ == "__main__":
  sys.exit(main(sys.argv[1:]))
