"""`--run_mode=precompile`: compiles what a run would, on devices it has not.

Reads gin files and nothing else: no data, no checkpoint, no device of the
machine unless TOPOLOGY is None.

Exit code 0: everything fits, or there is no limit to compare with. 1: something
does not fit, and the report says by how much. 2: a mistake in the settings.
"""

import dataclasses
import importlib.metadata
import json
import logging
import os
import pathlib
import platform
from collections.abc import Mapping, Sequence

import jax
import optax

from distill_jax.aot import (
  batch_search,
  compilation,
  compile_report,
  hlo_collectives,
  program_costs,
  programs,
  saved_activations,
)
from distill_jax.aot import topology as topology_lib
from distill_jax.config import declaration
from distill_jax.config.declaration import field
from distill_jax.decoding import layout as layout_lib
from distill_jax.errors import UserError
from distill_jax.model.config import ModelConfig
from distill_jax.objective.objective import Objective
from distill_jax.partitioning import chips, sharding
from distill_jax.partitioning import mesh as mesh_lib
from distill_jax.runs import shared_settings
from distill_jax.training import nonfinite
from distill_jax.training import state as state_lib

_log = logging.getLogger(__name__)

TRAIN, DECODE = "train", "decode"
# Kept free in a search: its estimate is made before the program is.
_SEARCH_MARGIN = 0.05
_PACKAGES = ("jax", "jaxlib", "flax", "optax")


@dataclasses.dataclass(frozen=True)
class PrecompileRun:
  """Settings of `--run_mode=precompile`."""

  model_config: ModelConfig = field(
    help="the student", gin_text="%MODEL_CONFIG"
  )
  optimizer: optax.GradientTransformation = field(
    help="from `optim.factory`", gin_text="%OPTIMIZER"
  )
  objective: Objective = field(
    help="the terms of the loss", gin_text="@objective.Objective()"
  )
  feature_lengths: Mapping[str, int] = field(
    macro="TASK_FEATURE_LENGTHS",
    gin_text="{'inputs': 256, 'targets': 128}",
    is_common=True,
    help="tokens of a row",
  )
  batch_rows: int = field(
    macro="BATCH_SIZE",
    gin_text="32",
    least=1,
    is_common=True,
    help="rows of a step, over all devices",
  )
  topology: str | None = field(
    None,
    macro="TOPOLOGY",
    is_common=True,
    help="the accelerator: 'v4:2x2x4', 'v4-32', 'v5litepod-64', 'v5p-16',"
    " 'v6e-16', 'h100:1x1x8', ...; None: the devices of this machine",
  )
  num_slices: int = field(
    1,
    macro="NUM_SLICES",
    is_common=True,
    help="how many slices of it, joined by the data center's network",
  )
  mesh: Mapping[str, int] = shared_settings.mesh_field(is_common=True)
  dcn_mesh: Mapping[str, int] | None = shared_settings.dcn_mesh_field()
  num_microbatches: int = field(
    1, macro="NUM_MICROBATCHES", least=1, help="as in training"
  )
  loss_chunk_tokens: int | None = field(
    None, macro="LOSS_CHUNK_TOKENS", least=1, help="as in training"
  )
  on_nonfinite_loss: str = field(
    "stop",
    macro="ON_NONFINITE_LOSS",
    one_of=nonfinite.POLICIES,
    help="as in training",
  )
  decode_batch_rows: int | None = field(
    None,
    macro="EVAL_BATCH_SIZE",
    least=1,
    help="rows that are decoded at once; None: as BATCH_SIZE",
  )
  decode_layout: str = shared_settings.decode_layout_field()
  programs: Sequence[str] = field(
    (TRAIN, DECODE),
    macro="PROGRAMS",
    is_filled=True,
    help="which to compile, of 'train' and 'decode'",
  )
  compile_effort: float | None = field(
    -1.0,
    macro="COMPILE_EFFORT",
    least=-1,
    most=1,
    help="XLA's exec_time_optimization_effort (from JAX 0.11.1 on: the nearest"
    " of the levels O0 to O3); None: XLA's default, about five times slower to"
    " compile",
  )
  searches_batch_size: bool = field(
    False,
    macro="SEARCH_BATCH_SIZE",
    is_common=True,
    help="find the largest BATCH_SIZE that trains",
  )
  output_path: str | None = field(
    None,
    macro="OUTPUT_PATH",
    is_common=True,
    help="JSON file for the report; None: it is only printed",
  )

  def __post_init__(self):
    declaration.check(self)
    lengths = self.feature_lengths
    if set(lengths) != {"inputs", "targets"} or min(lengths.values()) < 1:
      raise UserError(
        f"{declaration.name_of(self, 'feature_lengths')} is {dict(lengths)}; it"
        " gives tokens of a row, as {'inputs': 512, 'targets': 128}."
      )
    if set(self.programs) - {TRAIN, DECODE}:
      raise UserError(
        f"{declaration.name_of(self, 'programs')} is {self.programs!r}; it"
        f" names one or both of ('{TRAIN}', '{DECODE}')."
      )
    if self.topology is None and self.num_slices != 1:
      raise UserError(
        f"{declaration.name_of(self, 'num_slices')} is {self.num_slices} and"
        f" {declaration.name_of(self, 'topology')} was not given. Name the"
        " slices, as 'v5e:4x4'."
      )
    if self.searches_batch_size and TRAIN not in self.programs:
      raise UserError(
        f"{declaration.name_of(self, 'searches_batch_size')} is True and"
        f" {declaration.name_of(self, 'programs')} has no 'train', whose batch"
        " it is. Add it."
      )


def run(
  settings: PrecompileRun, operative_config: str = "", overwrite: bool = False
) -> int:
  """Compiles, prints the report, and writes it.

  Args:
    settings: see `PrecompileRun`.
    operative_config: not kept; the report holds the settings.
    overwrite: replace a report.

  Returns:
    The exit code: 1 where a program does not fit.

  Raises:
    UserError: the settings do not fit each other or the devices, a compiler is
      not installed, or the report would replace another.
  """
  del operative_config
  path = _check_output(settings.output_path, overwrite)
  topology = None
  if settings.topology is not None:
    topology = topology_lib.parse(settings.topology, settings.num_slices)
    topology_lib.prepare_environment(topology)
    devices = topology_lib.make_devices(topology)
    # What is compiled for devices elsewhere cannot be loaded here.
    jax.config.update("jax_enable_compilation_cache", False)
  else:
    devices = jax.devices()
  mesh = mesh_lib.make_mesh(settings.mesh, devices, settings.dcn_mesh)
  report = _Compiler(settings, mesh, topology).make_report()
  print(compile_report.format_report(report))
  if path is not None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    _log.info("Wrote %s", path)
  found = [program["memory"]["fits"] for program in report["programs"].values()]
  return 1 if False in found else 0


class _Compiler:
  """Compiles the programs of one run."""

  def __init__(self, settings: PrecompileRun, mesh, topology):
    self._settings, self._mesh, self._topology = settings, mesh, topology
    device = mesh.devices.flat[0]
    settings.model_config.check_platform(device.platform)
    self._device = device
    self._num_slices = len(
      {getattr(device, "slice_index", 0) for device in mesh.devices.flat}
    )
    self._chip = chips.find_chip(device.device_kind)
    self._student = programs.make_student(
      settings.model_config, settings.optimizer, mesh
    )
    self._limit_bytes = compilation.find_memory_limit(
      device, self._chip and self._chip.hbm_bytes // self._chip.devices_per_chip
    )
    self._options = compilation.make_effort_options(settings.compile_effort)
    # Rows that training divides among device groups and micro-batches.
    self._unit = sharding.count_batch_shards(mesh) * settings.num_microbatches

  def make_report(self) -> compile_report.Json:
    """Compiles and reports, see `docs/precompile.md`."""
    settings, student = self._settings, self._student
    topology = self._topology
    rows, search = settings.batch_rows, None
    reports = {}
    if settings.searches_batch_size:
      search, train_report = self._search()
      reports[TRAIN] = train_report
      rows = search["batch_rows"] or self._unit
    elif TRAIN in settings.programs:
      reports[TRAIN] = self._report_training(rows)
    if DECODE in settings.programs:
      reports[DECODE] = self._report_decoding(
        settings.decode_batch_rows or rows
      )
    lengths = dict(settings.feature_lengths)
    return {
      "model": {
        "num_params": state_lib.count_params(student.state.params),
        "config": settings.model_config.list_fields(),
      },
      "devices": {
        "count": self._mesh.size,
        "kind": self._device.device_kind,
        "chip": self._chip and self._chip.name,
        "chip_source": self._chip and self._chip.source,
        "topology": topology and topology.name,
        "num_slices": self._num_slices,
        "mesh": dict(self._mesh.shape),
        "dcn_mesh": settings.dcn_mesh and dict(settings.dcn_mesh),
      },
      "settings": {
        "batch_rows": rows,
        "feature_lengths": lengths,
        "num_microbatches": settings.num_microbatches,
        "loss_chunk_tokens": settings.loss_chunk_tokens,
        "on_nonfinite_loss": settings.on_nonfinite_loss,
        "objective": {
          name: "a schedule" if callable(value) else value
          for name, value in settings.objective.describe().items()
        },
      },
      "programs": reports,
      "search": search,
      "compiler_options": self._options,
      "versions": _describe_versions(self._device.platform),
    }

  def _report_training(self, rows: int) -> compile_report.Json:
    settings, student = self._settings, self._student
    if rows % self._unit:
      raise UserError(
        f"BATCH_SIZE is {rows}; it must divide by the"
        f" {self._unit // settings.num_microbatches} device groups that share"
        f" its rows times the {settings.num_microbatches} micro-batches,"
        f" {self._unit}."
      )
    parts, work = program_costs.measure_training(
      student,
      rows,
      settings.feature_lengths,
      settings.num_microbatches,
      settings.loss_chunk_tokens,
    )
    saved_bytes = saved_activations.count_saved_bytes(
      student,
      rows,
      settings.feature_lengths,
      settings.objective,
      settings.num_microbatches,
      settings.loss_chunk_tokens,
    )
    lowered = self._lower_training(rows)
    return self._report(TRAIN, rows, lowered, parts, work, saved_bytes)

  def _lower_training(self, rows: int):
    settings = self._settings
    return programs.lower_train_step(
      self._student,
      programs.make_batch(self._student, rows, settings.feature_lengths),
      settings.objective,
      settings.num_microbatches,
      settings.loss_chunk_tokens,
      settings.on_nonfinite_loss == "skip",
    )

  def _report_decoding(self, rows: int) -> compile_report.Json:
    settings, student = self._settings, self._student
    shards = sharding.count_batch_shards(self._mesh)
    rows = -(-rows // shards) * shards  # As evaluation rounds up.
    lengths = settings.feature_lengths
    layout = programs.make_decoder_layout(
      student, settings.decode_layout, layout_lib.find_memory(self._mesh)
    )
    parts, work = program_costs.measure_decoding(student, rows, lengths, layout)
    batch = programs.make_batch(student, rows, lengths)
    lowered = programs.lower_decoding(
      student, batch, lengths["targets"], layout
    )
    # What the copy was made of is no argument, and is there for scoring.
    idle_bytes = programs.count_device_bytes(
      student.state.params["decoder"] if layout.shardings else ()
    )
    report = self._report(
      DECODE, rows, lowered, parts, work, idle_bytes=idle_bytes
    )
    return {"layout": layout.name, **report}

  def _report(
    self, name, rows, lowered, parts, work, saved_bytes=None, idle_bytes=0
  ) -> compile_report.Json:
    _log.info("Compiling %s of %d rows", name, rows)
    done = compilation.compile_program(
      lowered, self._options, self._device.platform
    )
    report: compile_report.Json = {
      "batch_rows": rows,
      "parts": list(parts),
      "memory": compile_report.report_memory(
        parts,
        done.peak_bytes + idle_bytes,
        self._limit_bytes,
        self._chip,
        saved_bytes,
      ),
      "work": dataclasses.asdict(work),
      "hlo_bytes_accessed": None,
      "collectives": None,
      "estimate": None,
      "compile": {
        "seconds": done.seconds,
        "cpu_seconds": done.cpu_seconds,
        "host_peak_bytes": done.host_peak_bytes,
      },
    }
    if done.compiled is None:
      return report
    costs = done.compiled.cost_analysis() or {}
    traffic = hlo_collectives.read_traffic(
      done.compiled.as_text(), self._mesh.size, self._num_slices
    )
    report["hlo_bytes_accessed"] = costs.get("bytes accessed")
    report["collectives"] = compile_report.report_traffic(traffic)
    if self._chip is not None:
      report["estimate"] = compile_report.estimate_time(
        work, traffic, self._chip, self._mesh.size
      )
    return report

  def _search(self) -> tuple[compile_report.Json, compile_report.Json]:
    """Finds the largest batch that trains, and compiles it whole."""
    limit = self._limit_bytes
    if limit is None:
      raise UserError(
        f"SEARCH_BATCH_SIZE is True, and {self._device.device_kind!r} devices"
        " have no limit to search up to. Give a TOPOLOGY."
      )
    platform = self._device.platform
    tried: dict[int, int] = {}

    def fits(rows: int) -> bool:
      lowered = self._lower_training(rows)
      if platform == "tpu":
        tried[rows] = compilation.plan_memory(lowered, self._options)
      else:
        done = compilation.compile_program(lowered, self._options, platform)
        tried[rows] = done.peak_bytes
      _log.info("%d rows would take %.2f GiB", rows, tried[rows] / 2**30)
      return tried[rows] <= limit * (1 - _SEARCH_MARGIN)

    found = batch_search.find_largest(fits, self._unit)
    report = self._report_training(found or self._unit)
    # The plan may err by more than the margin.
    while found and not report["memory"]["fits"]:
      found = self._shrink(found, report["memory"])
      report = self._report_training(found or self._unit)
    return {
      "batch_rows": found,
      "unit": self._unit,
      "margin": _SEARCH_MARGIN,
      "tried": sorted(tried.items()),
    }, report

  def _shrink(self, rows: int, memory: compile_report.Json) -> int | None:
    """Returns fewer rows, as many as fit if memory grows evenly with them.

    Taking one unit off at a time might compile a large program many times.
    """
    fixed = memory["parameters_bytes"] + memory["optimizer_bytes"]
    share = (memory["limit_bytes"] - fixed) / (memory["peak_bytes"] - fixed)
    fitting = min(int(rows * max(share, 0)), rows - self._unit)
    return fitting // self._unit * self._unit or None


def _check_output(output_path: str | None, overwrite: bool):
  if output_path is None:
    return None
  path = pathlib.Path(output_path).expanduser().absolute()
  if path.exists() and not overwrite:
    raise UserError(
      f"OUTPUT_PATH {path} exists already. Add --overwrite to replace it, or"
      " give another."
    )
  return path


def _describe_versions(device_platform: str) -> dict[str, str | None]:
  versions: dict[str, str | None] = {
    name: importlib.metadata.version(name) for name in _PACKAGES
  }
  versions["python"] = platform.python_version()
  compiler = {"tpu": "libtpu", "gpu": "jax-cuda12-plugin"}.get(device_platform)
  if compiler is not None:
    versions[compiler] = _find_version(compiler)
  return versions


def _find_version(compiler: str) -> str | None:
  """Returns a compiler's version, that of TPU_LIBRARY_PATH if it is used."""
  library = os.environ.get("TPU_LIBRARY_PATH")
  folders = {}
  if compiler == "libtpu" and library:
    folders["path"] = [str(pathlib.Path(library).absolute().parents[1])]
  found = importlib.metadata.distributions(name=compiler, **folders)
  return next((package.version for package in found), None)
