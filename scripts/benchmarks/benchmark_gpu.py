"""Measures training T5 1.1 of four sizes on one GPU, and PyTorch beside it.

  OUT=results python scripts/benchmarks/benchmark_gpu.py
  python scripts/benchmarks/benchmark_gpu.py --sizes=large,xl \\
    --token_cache=<folder>
  JAX_PLATFORMS=cpu python scripts/benchmarks/benchmark_gpu.py --sizes=tiny \\
    --steps=2 \\
    --row_inputs=32 --row_targets=16 --no-torch_compile  # GPU cases fail

In bfloat16 with Tokamax' attention, or cuDNN's without Tokamax: rows of 512
encoder and 128 decoder tokens, all full; examples of real lengths (of
--token_cache, else drawn like CQA's), packed; and the full rows with cuDNN's
and with XLA's attention. Where --torch_python has torch and transformers,
`scripts/benchmarks/torch_baseline.py` trains after the first two: autocast,
SDPA, torch.compile of each block, examples made alike, as many as seemed to
fit. Every case is a process of its own; one that runs out of memory is tried
again with half the examples. What takes longer than --case_seconds is ended;
after --max_seconds no more begin, and what was left out is named. Other
arguments go to `scripts/benchmarks/benchmark.py`, e.g. --gin.SCAN_LAYERS=True,
which compiles sooner and trains slower. With JAX_COMPILATION_CACHE_DIR a second
run compiles nothing of ours, and --compile_first=6 compiles that many programs
at a time before anything is measured, torch's of unequal lengths too. XLA times
kernels on the GPU to choose among them, which others may disturb meanwhile.

Prints JSON objects, as `scripts/benchmarks/benchmark.py` does, that say which
`case` they are of, and writes them to $OUT/benchmark_gpu.jsonl if OUT is set.
Needs no TensorFlow and no network.
"""

import argparse
import concurrent.futures
import importlib.util
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from typing import Any, NamedTuple

_SCRIPTS = pathlib.Path(__file__).parent
_CACHE_VARIABLE = "JAX_COMPILATION_CACHE_DIR"
_TURN_STEPS = 5
_MAX_TRIES = 3
_FILE = "benchmark_gpu.jsonl"


class Size(NamedTuple):
  """How a size is trained.

  Attributes:
    examples: pairs a step of full rows.
    packed_examples: of packed rows.
    torch_examples: of torch's full rows.
    torch_padded_examples: of its rows of real lengths.
    run_gin_file: of ours.
    settings: macros of its own.
  """

  examples: int
  packed_examples: int
  torch_examples: int
  torch_padded_examples: int
  run_gin_file: str = "gin/runs/train_adamw.gin"
  settings: Mapping[str, object] = {}


# Guessed by what 80 GB hold. Large and xl come first: time may run out.
_SIZES = {
  "large": Size(48, 384, 18, 64),
  # AdamW's moments would take half of its rows' memory.
  "xl": Size(16, 144, 3, 12, "gin/runs/train.gin", {"LOSS_CHUNK_TOKENS": 2048}),
  "base": Size(64, 768, 64, 192),
  "small": Size(64, 768, 64, 384),
  "tiny": Size(2, 4, 2, 4),
}
_FASTEST_ATTENTION = (
  "tokamax" if importlib.util.find_spec("tokamax") else "cudnn"
)
_ROWS = ("full", "packed", "full_cudnn", "full_xla")
_SHARED_SETTINGS = {
  "ACTIVATION_DTYPE": "bfloat16",
  "REMAT_POLICY": "minimal",
}


class Recorder:
  """Prints results and writes them to the file."""

  def __init__(self, out: str | None):
    """Opens the file, where there is to be one."""
    self._path = None
    if out:
      folder = pathlib.Path(out)
      folder.mkdir(parents=True, exist_ok=True)
      self._path = folder / _FILE
      self._path.write_text("", encoding="utf-8")

  def add(self, report: dict[str, Any]) -> None:
    """Adds one result."""
    line = json.dumps(report)
    print(line, flush=True)
    if self._path is not None:
      with open(self._path, "a", encoding="utf-8") as file:
        file.write(line + "\n")


class CaseError(Exception):
  """A case that gave no result, and why."""


def run(command: list[str], seconds: float, env: Mapping[str, str]) -> str:
  """Returns what a command printed.

  Raises:
    CaseError: it failed, with the end of what it wrote to standard error; or
      took too long.
  """
  try:
    process = subprocess.run(
      command,
      env=os.environ | env,
      capture_output=True,
      text=True,
      timeout=max(seconds, 1),
    )
  except subprocess.TimeoutExpired as error:
    raise CaseError(f"it took longer than {seconds:.0f} s") from error
  if process.returncode:
    raise CaseError(process.stderr[-2000:])
  return process.stdout


def is_out_of_memory(error: CaseError) -> bool:
  """Whether less memory would have helped."""
  message = str(error)
  return "RESOURCE_EXHAUSTED" in message or "out of memory" in message.lower()


class Case(NamedTuple):
  """One size with one kind of rows."""

  size: str
  rows: str  # of `_ROWS`

  @property
  def is_full(self) -> bool:
    """Whether examples are as long as a row."""
    return self.rows != "packed"

  @property
  def examples(self) -> int:
    """Pairs a step of ours."""
    size = _SIZES[self.size]
    return size.examples if self.is_full else size.packed_examples

  @property
  def torch_examples(self) -> int:
    """Pairs a step of torch's."""
    size = _SIZES[self.size]
    return size.torch_examples if self.is_full else size.torch_padded_examples

  @property
  def attention(self) -> str:
    """What attends in ours."""
    _, _, named = self.rows.partition("_")
    return named or _FASTEST_ATTENTION

  @property
  def has_torch(self) -> bool:
    """Whether torch does the same: ours is not with another attention."""
    return self.rows in ("full", "packed")

  def make_arguments(
    self, options: argparse.Namespace, others: list[str], examples: int
  ) -> list[str]:
    """Returns the arguments of benchmark.py."""
    settings = {
      **_SHARED_SETTINGS,
      "ATTENTION_IMPLEMENTATION": self.attention,
      **_SIZES[self.size].settings,
    }
    arguments = [
      f"--gin_file=gin/models/t5_1_1/{self.size}.gin",
      f"--run_gin_file={_SIZES[self.size].run_gin_file}",
      *(f"--gin.{name}={value!r}" for name, value in settings.items()),
      f"--examples={examples}",
      f"--row_inputs={options.row_inputs}",
    ]
    if self.is_full:
      arguments += ["--full_rows", f"--row_targets={options.row_targets}"]
    else:
      arguments += [f"--row_targets={options.packed_targets}"]
      if options.token_cache:
        arguments.append(f"--token_cache={options.token_cache}")
    return [*arguments, *others]


class Session:
  """The cases, within the time there is."""

  def __init__(
    self, options: argparse.Namespace, others: list[str], folder: str
  ):
    """Looks whether torch is there.

    Args:
      options: the command line's.
      others: arguments of benchmark.py.
      folder: for files between the programs.
    """
    self._options, self._others = options, others
    self._folder = pathlib.Path(folder)
    self._deadline = time.monotonic() + options.max_seconds
    self._recorder = Recorder(os.environ.get("OUT"))
    try:
      run(
        [options.torch_python, "-c", "import torch, transformers"],
        self._remaining,
        {},
      )
      self._has_torch = True
    except (CaseError, OSError):
      self._has_torch = False
      self._recorder.add({"torch": "not importable: no comparison"})

  @property
  def _remaining(self) -> float:
    return self._deadline - time.monotonic()

  @property
  def _limit(self) -> float:
    """Seconds that a program may take."""
    return min(self._remaining, self._options.case_seconds)

  def compile_first(self, cases: list[Case]) -> None:
    """Compiles ours, writes torch's examples, compiles its packed cases.

    What fails is recorded, and tried again when it is measured.
    """
    started = time.monotonic()
    with concurrent.futures.ThreadPoolExecutor(
      self._options.compile_first
    ) as executor:
      jobs = [
        ("distill_jax", case, executor.submit(self._compile, case))
        for case in cases
      ]
      if self._has_torch:
        jobs += [
          ("torch", case, executor.submit(self._prepare_torch, case))
          for case in cases
          if case.has_torch
        ]
      for program, case, job in jobs:
        try:
          job.result()
        except CaseError as error:
          label = {"case": case._asdict(), "program": program}
          self._recorder.add(label | {"not_compiled_first": str(error)})
    seconds = time.monotonic() - started
    self._recorder.add({"compiled_first_seconds": seconds})

  def measure_feed(self) -> None:
    """Records how fast this host makes batches, which short turns hide."""
    options = self._options
    command = [
      sys.executable,
      str(_SCRIPTS / "benchmark_feed.py"),
      f"--row_inputs={options.row_inputs}",
      f"--row_targets={options.packed_targets}",
      "--examples=384",
    ]
    if options.token_cache:
      command.append(f"--token_cache={options.token_cache}")
    label = {"program": "benchmark_feed"}
    try:
      lines = run(command, self._limit, {"JAX_PLATFORMS": "cpu"}).splitlines()
    except CaseError as error:
      self._recorder.add(label | {"failed": str(error)})
      return
    for line in lines:
      self._recorder.add(label | json.loads(line))

  def measure(self, case: Case) -> None:
    """Runs a case of ours, then torch's, once each."""
    ours = self._try("distill_jax", case, self._run_ours, case.examples)
    if not (self._has_torch and case.has_torch):
      return
    theirs = self._try("torch", case, self._run_torch, case.torch_examples)
    if ours and theirs:
      keys = ["examples_per_second", "sequences_per_second"]
      if ours["examples_per_step"] == theirs["examples_per_step"]:
        keys.append("peak_bytes")
      ratios = {f"{key}_ratio": ours[key] / theirs[key] for key in keys}
      self._recorder.add({"case": case._asdict(), **ratios})

  def _try(
    self, program, case: Case, run_fn, examples: int
  ) -> dict[str, Any] | None:
    """Records a result, or why there is none; None then."""
    label = {"case": case._asdict(), "program": program}
    for _ in range(_MAX_TRIES):
      if self._remaining <= 0:
        self._recorder.add(label | {"left_out": "the time was over"})
        return None
      try:
        report = json.loads(run_fn(case, examples).splitlines()[-1])
      except CaseError as error:
        failed = {"failed": str(error), "examples": examples}
        self._recorder.add(label | failed)
        if not is_out_of_memory(error) or examples == 1:
          return None
        examples //= 2
        continue
      self._recorder.add(label | report)
      return report
    return None

  def _benchmark(self, case: Case, examples: int, *arguments: str) -> list[str]:
    """Returns the command of benchmark.py."""
    return [
      sys.executable,
      str(_SCRIPTS / "benchmark.py"),
      *arguments,
      *case.make_arguments(self._options, self._others, examples),
    ]

  def _benchmark_ours(
    self, case: Case, examples: int, *arguments: str
  ) -> list[str]:
    """Returns the command that measures ours, or compiles the same programs."""
    steps = self._options.steps
    return self._benchmark(
      case,
      examples,
      f"--steps={steps}",
      f"--turn_steps={min(_TURN_STEPS, steps)}",
      *([] if case.is_full else ["--layout=packed"]),
      *arguments,
    )

  def _compile(self, case: Case) -> None:
    run(
      self._benchmark_ours(case, case.examples, "--compile_only"),
      self._remaining,  # Others compile beside it.
      {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"},
    )

  def _run_ours(self, case: Case, examples: int) -> str:
    return run(
      self._benchmark_ours(case, examples),
      self._limit,
      {"XLA_PYTHON_CLIENT_MEM_FRACTION": "0.92"},
    )

  def _export(self, case: Case, examples: int) -> pathlib.Path:
    """Returns the file of torch's examples, which is written once."""
    file = self._folder / f"{case.size}_{case.rows}_{examples}.jsonl"
    if not file.exists():
      unfinished = file.with_suffix(".unfinished")
      run(
        self._benchmark(
          case,
          examples,
          f"--steps={self._options.steps + 1}",
          f"--export_examples={unfinished}",
        ),
        self._limit,
        {"JAX_PLATFORMS": "cpu"},
      )
      unfinished.rename(file)
    return file

  def _torch_baseline(
    self, case: Case, examples: int, *arguments: str
  ) -> list[str]:
    """Returns the command of torch_baseline.py."""
    return [
      self._options.torch_python,
      str(_SCRIPTS / "torch_baseline.py"),
      f"--examples_file={self._export(case, examples)}",
      "--dtype=bfloat16",
      *arguments,
    ]

  def _prepare_torch(self, case: Case) -> None:
    """Writes its examples, and compiles if any number of them would do."""
    examples = case.torch_examples
    self._export(case, examples)
    if self._options.torch_compile and not case.is_full:
      command = self._torch_baseline(case, examples, "--compile_only")
      run(command, self._remaining, {})

  def _run_torch(self, case: Case, examples: int) -> str:
    command = self._torch_baseline(
      case,
      examples,
      f"--steps={self._options.steps}",
      # Lengths change from step to step: torch compiles more than once.
      "--warmup_steps=3",
      *(["--compile"] if self._options.torch_compile else []),
    )
    return run(command, self._limit, {})


def parse_options() -> tuple[argparse.Namespace, list[str]]:
  """Returns the options, and the arguments that are benchmark.py's alone."""
  parser = argparse.ArgumentParser(
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
    allow_abbrev=False,
  )
  parser.add_argument(
    "--sizes",
    default="large,xl,base,small",
    help=f"of {', '.join(_SIZES)} (%(default)s)",
  )
  parser.add_argument(
    "--rows",
    default=",".join(_ROWS),
    help="what is measured of each size (%(default)s)",
  )
  parser.add_argument("--token_cache", help="examples of real lengths")
  parser.add_argument("--steps", type=int, default=20, help="measured steps")
  parser.add_argument("--row_inputs", type=int, default=512)
  parser.add_argument("--row_targets", type=int, default=128, help="full rows")
  parser.add_argument(
    "--packed_targets", type=int, default=192, help="of packed rows"
  )
  parser.add_argument("--torch_python", default=sys.executable)
  parser.add_argument(
    "--torch_compile", action=argparse.BooleanOptionalAction, default=True
  )
  parser.add_argument("--case_seconds", type=float, default=240)
  parser.add_argument("--max_seconds", type=float, default=3600)
  parser.add_argument(
    "--compile_first",
    type=int,
    default=0,
    help="programs compiled at a time before any is measured (0: none)",
  )
  options, others = parser.parse_known_args()
  options.sizes = options.sizes.split(",")
  if unknown := set(options.sizes) - set(_SIZES):
    parser.error(f"--sizes names {sorted(unknown)}; there are {list(_SIZES)}.")
  options.rows = options.rows.split(",")
  if unknown := set(options.rows) - set(_ROWS):
    parser.error(f"--rows names {sorted(unknown)}; there are {list(_ROWS)}.")
  if options.compile_first and not os.environ.get(_CACHE_VARIABLE):
    parser.error(f"--compile_first needs {_CACHE_VARIABLE}, a folder to keep.")
  return options, others


def main() -> None:
  """Measures every case."""
  options, others = parse_options()
  with tempfile.TemporaryDirectory() as folder:
    session = Session(options, others, folder)
    cases = [
      case
      for rows in options.rows
      for case in [Case(size, rows) for size in options.sizes]
      # Without Tokamax cuDNN has had its turn.
      if case.has_torch or case.attention != _FASTEST_ATTENTION
    ]
    if options.compile_first:
      session.compile_first(cases)
    if "packed" in options.rows:
      session.measure_feed()
    for case in cases:
      session.measure(case)


if __name__ == "__main__":
  main()
