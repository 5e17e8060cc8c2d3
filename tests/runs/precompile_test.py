"""Tests of precompile: settings in, a report and an exit code out."""

import dataclasses
import json
import math
import os
import pathlib
import re
import subprocess
import sys

import jax
import pytest
import tiny_student
from tpu_compiler import needs_libtpu

import gin
from distill_jax.aot import (
  compilation,
  compile_report,
  hlo_collectives,
  program_costs,
  programs,
  saved_activations,
)
from distill_jax.config import gin_bindings
from distill_jax.errors import UserError
from distill_jax.partitioning import chips
from distill_jax.partitioning import mesh as mesh_lib
from distill_jax.runs import precompile
from distill_jax.training import state as state_lib

_ROOT = pathlib.Path(__file__).parents[2]
_PRESETS = sorted((_ROOT / "gin" / "precompile").glob("*.gin"))
_REPORTS = _ROOT / "tests" / "testdata" / "precompile"
_SETTINGS = precompile.PrecompileRun(
  model_config=tiny_student.CONFIG,
  optimizer=tiny_student.OPTIMIZERS["adafactor"],
  objective=tiny_student.OBJECTIVE,
  feature_lengths={"inputs": 16, "targets": 12},
  batch_rows=8,
  mesh={"fsdp": 4, "model": 2},
  programs=("train",),
)


@pytest.fixture(name="compilations")
def fixture_compilations(monkeypatch):
  """Plans instead of compiling: 10 bytes a row; says what was asked."""
  asked = []

  def lower(student, batch, *arguments):
    del student, arguments
    return next(iter(batch.values())).shape[0]

  def compile_program(lowered, options, platform):
    asked.append((lowered, options, platform))
    return compilation.Compilation(None, 10 * lowered, 1.0, 1.0, 2**20)

  monkeypatch.setattr(precompile.programs, "lower_train_step", lower)
  monkeypatch.setattr(precompile.programs, "lower_decoding", lower)
  monkeypatch.setattr(compilation, "compile_program", compile_program)
  return asked


def _set_limit(monkeypatch, num_bytes):
  monkeypatch.setattr(
    compilation, "find_memory_limit", lambda device, hbm_bytes: num_bytes
  )


def test_the_devices_of_this_machine(tmp_path, capsys):
  path = tmp_path / "new" / "report.json"
  settings = dataclasses.replace(_SETTINGS, output_path=str(path))
  assert precompile.run(settings) == 0
  report = json.loads(path.read_text())
  assert report["devices"]["count"] == 8
  assert report["devices"]["mesh"] == {"data": 1, "fsdp": 4, "model": 2}
  params, _ = state_lib.abstract_params(tiny_student.T5(tiny_student.CONFIG))
  assert report["model"]["num_params"] == state_lib.count_params(params)
  train = report["programs"]["train"]
  # A CPU has no memory of its own and no published peak.
  assert train["memory"]["fits"] is None and train["estimate"] is None
  assert train["memory"]["temporaries_bytes"] > 0
  assert train["memory"]["saved_activations_bytes"] > 0
  # Gradients are summed over the groups that have rows of their own.
  assert train["collectives"]["by_kind"]["all-reduce"]["count"] > 0
  # What is printed is what is written.
  assert compile_report.format_report(report) in capsys.readouterr().out
  with pytest.raises(UserError, match="exists already. Add --overwrite"):
    precompile.run(settings)


@pytest.mark.parametrize("limit, code", [(80, 0), (79, 1)])
def test_the_exit_code(monkeypatch, compilations, capsys, limit, code):
  _set_limit(monkeypatch, limit)
  assert precompile.run(_SETTINGS) == code
  assert ("DOES NOT FIT, by 1.0 B" in capsys.readouterr().out) == bool(code)
  options = compilation.make_effort_options(-1.0)
  assert options
  assert compilations == [(8, options, "cpu")]


def test_decoding_rounds_rows_up_as_evaluation_does(compilations):
  settings = dataclasses.replace(
    _SETTINGS, programs=("decode",), decode_batch_rows=9, compile_effort=None
  )
  assert precompile.run(settings) == 0
  assert compilations == [(12, {}, "cpu")]


def test_the_largest_batch(monkeypatch, compilations, tmp_path):
  # 10 bytes a row, 5% of 1000 kept free: 95 rows, in units of 4 times 2.
  _set_limit(monkeypatch, 1000)
  path = tmp_path / "report.json"
  settings = dataclasses.replace(
    _SETTINGS,
    searches_batch_size=True,
    num_microbatches=2,
    output_path=str(path),
    programs=("train", "decode"),
  )
  assert precompile.run(settings) == 0
  report = json.loads(path.read_text())
  assert report["search"]["batch_rows"] == 88
  assert report["settings"]["batch_rows"] == 88
  assert report["programs"]["train"]["batch_rows"] == 88
  assert report["programs"]["decode"]["batch_rows"] == 88
  assert [88, 880] in report["search"]["tried"]
  # Confirmed, and then decoding.
  assert [rows for rows, *_ in compilations[-2:]] == [88, 88]


def test_a_plan_that_was_too_low(monkeypatch, compilations):
  """The largest batch by the plan does not compile: a smaller one does."""
  del compilations
  _set_limit(monkeypatch, 1000 * 2**20)
  planned, confirmed = [], []

  def compile_program(lowered, options, platform):
    del options, platform
    is_confirming = lowered in planned or bool(confirmed)
    (confirmed if is_confirming else planned).append(lowered)
    mib = (15 if is_confirming else 10) * lowered
    return compilation.Compilation(None, mib * 2**20, 1.0, 1.0, 1)

  monkeypatch.setattr(compilation, "compile_program", compile_program)
  settings = dataclasses.replace(_SETTINGS, searches_batch_size=True)
  assert precompile.run(settings) == 0
  # At once, not by units of 4.
  assert confirmed == [92, 64]


def test_not_even_the_smallest_batch_compiles(
  monkeypatch, compilations, capsys
):
  """What is fixed is too much already."""
  del compilations
  _set_limit(monkeypatch, 1000)
  planned = []

  def compile_program(lowered, options, platform):
    del options, platform
    is_confirming = lowered in planned
    planned.append(lowered)
    peak_bytes = 2**20 if is_confirming else 10 * lowered
    return compilation.Compilation(None, peak_bytes, 1.0, 1.0, 1)

  monkeypatch.setattr(compilation, "compile_program", compile_program)
  settings = dataclasses.replace(_SETTINGS, searches_batch_size=True)
  assert precompile.run(settings) == 1
  assert "Largest BATCH_SIZE that fits: none" in capsys.readouterr().out


def test_a_gpu_is_asked_for_the_part_that_jax_takes_of_it(
  monkeypatch, compilations, tmp_path
):
  del compilations
  asked = []
  (h100,) = (chip for chip in chips.CHIPS if chip.name == "H100 SXM")
  monkeypatch.setattr(chips, "find_chip", lambda device_kind: h100)

  def find_memory_limit(device, hbm_bytes):
    asked.append((device, hbm_bytes))
    return 79

  monkeypatch.setattr(compilation, "find_memory_limit", find_memory_limit)
  path = tmp_path / "report.json"
  settings = dataclasses.replace(_SETTINGS, output_path=str(path))
  assert precompile.run(settings) == 1
  assert [hbm_bytes for _, hbm_bytes in asked] == [80 * 2**30]
  memory = json.loads(path.read_text())["programs"]["train"]["memory"]
  assert (memory["limit_bytes"], memory["hbm_bytes"]) == (79, 80 * 2**30)


def test_no_batch_fits(monkeypatch, compilations, capsys):
  del compilations
  _set_limit(monkeypatch, 30)
  settings = dataclasses.replace(_SETTINGS, searches_batch_size=True)
  assert precompile.run(settings) == 1
  out = capsys.readouterr().out
  assert "Largest BATCH_SIZE that fits: none" in out
  assert "DOES NOT FIT, by 10.0 B" in out


@pytest.mark.parametrize(
  "changes, told",
  [
    ({"batch_rows": 6}, "BATCH_SIZE is 6; it must divide by the 4 device gro"),
    ({"batch_rows": 0}, "batch_rows is 0"),
    ({"num_microbatches": 3}, "times the 3 micro-batches, 12"),
    ({"loss_chunk_tokens": "a"}, "loss_chunk_tokens is 'a'"),
    ({"feature_lengths": {"inputs": 3}}, "feature_lengths is"),
    ({"programs": ("eval",)}, "programs is"),
    ({"on_nonfinite_loss": "x"}, "on_nonfinite_loss is 'x'"),
    ({"compile_effort": 2}, "compile_effort is 2"),
    ({"num_slices": 2}, "num_slices is 2 and topology was not given"),
    ({"topology": "v4-3"}, "TOPOLOGY is 'v4-3'"),
    ({"mesh": {"data": 3}}, "MESH is"),
    (
      {
        "model_config": dataclasses.replace(
          tiny_student.CONFIG, attention_implementation="pallas_tpu"
        )
      },
      "'pallas_tpu', which runs on a tpu; the devices are cpus",
    ),
    ({"searches_batch_size": True}, "have no limit to search up to"),
    (
      {"searches_batch_size": True, "programs": ("decode",)},
      "programs has no 'train'",
    ),
  ],
)
def test_mistakes(changes, told):
  with pytest.raises(UserError, match=told):
    precompile.run(dataclasses.replace(_SETTINGS, **changes))


def _run_main(folder, *arguments, program="main.run()"):
  code = f"import sys\nfrom distill_jax import main\n{program}\n"
  return subprocess.run(
    [sys.executable, "-c", code, "--run_mode=precompile", *arguments],
    cwd=folder,
    env=os.environ | {"HOME": str(folder), "XDG_CACHE_HOME": str(folder)},
    capture_output=True,
    text=True,
    timeout=300,
  )


_TINY = (
  "--gin_file=gin/models/t5_1_1/tiny.gin",
  "--gin_file=gin/runs/precompile.gin",
  "--gin.BATCH_SIZE=8",
  "--gin.TASK_FEATURE_LENGTHS={'inputs': 16, 'targets': 8}",
  "--gin.SCAN_LAYERS=True",
)


def test_the_command_without_tensorflow(tmp_path):
  process = _run_main(
    tmp_path,
    *_TINY,
    "--gin.PROGRAMS=('decode',)",
    "--gin.OUTPUT_PATH='report.json'",
    program="for name in ('tensorflow', 'seqio', 'clu'):\n"
    "  sys.modules[name] = None\n"
    "main.run()",
  )
  assert process.returncode == 0, process.stderr
  assert "328,704 parameters on 1 cpu (of this machine)" in process.stdout
  assert json.loads((tmp_path / "report.json").read_text())["programs"]


@pytest.mark.aot
@needs_libtpu
def test_the_command_for_a_tpu_that_is_not_here(tmp_path):
  process = _run_main(
    tmp_path,
    *_TINY,
    "--gin.TOPOLOGY='v5e:2x2'",
    "--gin.MESH={'fsdp': 2, 'model': 2}",
    "--gin.PROGRAMS=('train',)",
    "--gin.OUTPUT_PATH='report.json'",
  )
  assert process.returncode == 0, process.stderr
  # Nothing but our own lines: libtpu is silent.
  lines = process.stderr.splitlines()
  assert all(re.match(r"\d\d:\d\d:\d\d ", line) for line in lines)
  report = json.loads((tmp_path / "report.json").read_text())
  assert report["devices"]["chip"] == "TPU v5e"
  program = report["programs"]["train"]
  assert program["memory"]["fits"] is True
  assert program["collectives"]["loops_counted_once"] == 0
  assert 0 < program["estimate"]["mfu_at_most"] < 1


@pytest.mark.aot
@needs_libtpu
def test_the_largest_batch_for_a_tpu_that_is_not_here(monkeypatch, tmp_path):
  """What is found fits with the margin, and a unit more does not."""
  path = tmp_path / "report.json"
  # So little, and rows so long, that there are few tries.
  limit = 256 * 2**20
  _set_limit(monkeypatch, limit)
  settings = dataclasses.replace(
    _SETTINGS,
    topology="v5e:2x2",
    mesh={"fsdp": 2, "model": 2},
    feature_lengths={"inputs": 2048, "targets": 512},
    searches_batch_size=True,
    output_path=str(path),
  )
  assert precompile.run(settings) == 0
  report = json.loads(path.read_text())
  search, memory = report["search"], report["programs"]["train"]["memory"]
  found, unit = search["batch_rows"], search["unit"]
  tried = dict(search["tried"])
  assert unit == 2 and found > unit
  assert tried[found] <= 0.95 * limit < tried[found + unit]
  # The plan is near what the whole compilation takes.
  assert memory["fits"] is True
  assert memory["peak_bytes"] == pytest.approx(tried[found], rel=0.15)


@pytest.fixture(name="_clean_gin")
def fixture_clean_gin(monkeypatch):
  monkeypatch.setattr(gin.config, "_LOCATION_PREFIXES", [""])
  gin.clear_config()
  yield
  gin.clear_config()


def _read_preset(path):
  """Returns the settings of a preset, and the report that is kept of it."""
  gin_bindings.parse([str(path)], [], [str(_ROOT)])
  settings = gin_bindings.build(precompile.PrecompileRun)
  report = json.loads((_REPORTS / f"{path.stem}.json").read_text())
  return settings, report


def _as_json(value):
  return json.loads(json.dumps(value))


def _make_abstract_student(settings, report):
  """Returns the student on the report's mesh, which has no devices here."""
  mesh = mesh_lib.make_abstract_mesh(report["devices"]["mesh"])
  return programs.make_student(settings.model_config, settings.optimizer, mesh)


@pytest.mark.usefixtures("_clean_gin")
@pytest.mark.parametrize("path", _PRESETS, ids=lambda path: path.stem)
def test_a_preset_is_what_its_report_is_of(path):
  header = path.read_text()
  assert f"--gin_file=gin/precompile/{path.name}\n" in header
  settings, report = _read_preset(path)
  config = dataclasses.asdict(settings.model_config)
  assert report["model"]["config"] == _as_json(config)
  devices = report["devices"]
  parsed = precompile.topology_lib.parse(settings.topology, settings.num_slices)
  assert devices["topology"] == parsed.name
  assert devices["num_slices"] == settings.num_slices
  assert devices["dcn_mesh"] == settings.dcn_mesh
  assert math.prod(devices["mesh"].values()) == parsed.num_chips
  for axis, size in settings.mesh.items():
    dcn_size = (settings.dcn_mesh or {}).get(axis, 1)
    assert size == -1 or devices["mesh"][axis] == size * dcn_size
  assert devices["count"] == parsed.num_chips
  stored = dict(report["settings"])
  rows = stored.pop("batch_rows")
  if settings.searches_batch_size:
    assert rows == report["search"]["batch_rows"]
  else:
    assert rows == settings.batch_rows and report["search"] is None
  assert stored == {
    "feature_lengths": settings.feature_lengths,
    "num_microbatches": settings.num_microbatches,
    "loss_chunk_tokens": settings.loss_chunk_tokens,
    "on_nonfinite_loss": settings.on_nonfinite_loss,
    "objective": _as_json(settings.objective.describe()),
  }
  assert set(report["programs"]) == set(settings.programs)


@pytest.mark.usefixtures("_clean_gin")
@pytest.mark.parametrize("path", _PRESETS, ids=lambda path: path.stem)
def test_a_report_has_the_figures_of_this_code(path):
  """All that needs no compiler."""
  settings, report = _read_preset(path)
  student = _make_abstract_student(settings, report)
  num_params = precompile.state_lib.count_params(student.state.params)
  assert report["model"]["num_params"] == num_params
  chip = chips.find_chip(report["devices"]["kind"])
  assert chip is not None and report["devices"]["chip"] == chip.name
  for name, program in report["programs"].items():
    memory = program["memory"]
    sizes = (student, program["batch_rows"], settings.feature_lengths)
    if name == "train":
      parts, work = program_costs.measure_training(
        *sizes, settings.num_microbatches, settings.loss_chunk_tokens
      )
    else:
      layout = programs.make_decoder_layout(
        student, settings.decode_layout, memory["hbm_bytes"]
      )
      assert program["layout"] == layout.name
      parts, work = program_costs.measure_decoding(*sizes, layout)
    assert program["work"] == dataclasses.asdict(work)
    assert memory["hbm_bytes"] == chip.hbm_bytes // chip.devices_per_chip
    expected = compile_report.report_memory(
      parts,
      memory["peak_bytes"],
      memory["limit_bytes"],
      chip,
      memory["saved_activations_bytes"],
    )
    assert memory == expected
    if program["estimate"] is not None:
      traffic = hlo_collectives.ProgramTraffic(
        {
          kind: hlo_collectives.Traffic(**one)
          for kind, one in program["collectives"]["by_kind"].items()
        },
        program["collectives"]["loops_counted_once"],
        settings.num_slices,
      )
      assert program["estimate"] == compile_report.estimate_time(
        work, traffic, chip, report["devices"]["count"]
      )
      assert program["collectives"]["loops_counted_once"] == 0


def test_no_report_has_decoding_gather_at_every_token():
  for path in _REPORTS.glob("*.json"):
    report = json.loads(path.read_text())
    if program := report["programs"].get("decode"):
      gathers = program["collectives"]["by_kind"].get("all-gather")
      num_layers = report["model"]["config"]["num_decoder_layers"]
      num_tokens = report["settings"]["feature_lengths"]["targets"]
      # The encoder's are some twenty a layer.
      assert gathers is None or gathers["count"] < num_layers * num_tokens / 4


def test_decoding_11b_on_16_chips_takes_no_longer_than_its_products():
  report = json.loads((_REPORTS / "t5_1_1_xxl_v4-32.json").read_text())
  estimate = report["programs"]["decode"]["estimate"]
  assert estimate["at_least_seconds"] == estimate["seconds"]["compute"] < 0.25


@pytest.mark.usefixtures("_clean_gin")
def test_a_report_has_the_activations_of_this_code():
  """Of one preset: the model is traced for it."""
  (path,) = (path for path in _PRESETS if path.stem == "t5_1_1_xxl_v4-32")
  settings, report = _read_preset(path)
  memory = report["programs"]["train"]["memory"]
  saved_bytes = saved_activations.count_saved_bytes(
    _make_abstract_student(settings, report),
    settings.batch_rows,
    settings.feature_lengths,
    settings.objective,
    settings.num_microbatches,
    settings.loss_chunk_tokens,
  )
  assert memory["saved_activations_bytes"] == saved_bytes
  assert 0 < saved_bytes < memory["temporaries_bytes"]


@pytest.mark.usefixtures("_clean_gin")
def test_the_first_moment_may_be_smaller():
  def count_optimizer_bytes(*bindings):
    gin.clear_config()
    gin_bindings.parse(
      ["gin/models/t5_1_1/tiny.gin", "gin/runs/precompile_adamw.gin"],
      bindings,
      [str(_ROOT)],
    )
    settings = gin_bindings.build(precompile.PrecompileRun)
    student = programs.make_student(
      settings.model_config,
      settings.optimizer,
      mesh_lib.make_abstract_mesh({}),
    )
    return programs.count_device_bytes(student.state.opt_state)

  saved = count_optimizer_bytes("WEIGHT_DECAY = 0.1") - count_optimizer_bytes(
    "FIRST_MOMENT_DTYPE = 'bfloat16'"
  )
  # Two bytes a parameter.
  assert saved == 2 * 328_704


# A line of MESHES in a model's gin file; "~": planned, without a report.
_FIGURE = re.compile(
  r"^#   (?:(\d) x )?(\S+) +(gin/meshes/\S+) +(\d+) rows, (\w+) +(~?)"
  r"([\d.]+) of ([\d.]+)$",
  re.MULTILINE,
)
_MODELS = _ROOT / "gin" / "models" / "t5_1_1"


@pytest.mark.usefixtures("_clean_gin")
@pytest.mark.parametrize("size", ["xl", "xxl"])
def test_a_figure_that_has_a_report_is_that_of_the_report(size):
  expected = {}
  for path in _PRESETS:
    gin.clear_config()
    text = path.read_text()
    settings, report = _read_preset(path)
    if f"t5_1_1/{size}.gin" in text and not settings.searches_batch_size:
      (mesh,) = re.findall(r"gin/meshes/\S+\.gin", text)
      memory = report["programs"]["train"]["memory"]
      optimizer = "AdamW" if "precompile_adamw.gin" in text else "Adafactor"
      place = precompile.topology_lib.parse(settings.topology)
      key = (settings.num_slices, place, mesh, settings.batch_rows, optimizer)
      expected[key] = (
        f"{memory['peak_bytes'] / 2**30:.1f}",
        f"{memory['limit_bytes'] / 2**30:.2f}",
      )
  figures = _FIGURE.findall((_MODELS / f"{size}.gin").read_text())
  found, planned = {}, set()
  for slices, place, mesh, rows, optimizer, mark, *figure in figures:
    place = precompile.topology_lib.parse(place)
    key = (int(slices or 1), place, mesh, int(rows), optimizer)
    if mark:
      planned.add(key)
    else:
      found[key] = tuple(figure)
  assert found == expected
  assert planned and not planned & expected.keys()


def test_every_report_has_a_preset():
  names = {path.stem for path in _REPORTS.glob("*.json")}
  assert names == {path.stem for path in _PRESETS}


def test_the_table_is_made_of_the_reports():
  reports = {
    path.stem: json.loads(path.read_text())
    for path in sorted(_REPORTS.glob("*.json"))
  }
  text = (_ROOT / "docs" / "precompile.md").read_text()
  folder = "../tests/testdata/precompile"
  assert f"\n{compile_report.format_summary(reports, folder)}\n" in text
  assert jax.__version__ in text
