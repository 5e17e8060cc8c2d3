"""Tests of precompile: settings in, a report and an exit code out."""

import dataclasses
import json
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
from distill_jax import precompile
from distill_jax.aot import compilation, compile_report
from distill_jax.config import gin_bindings
from distill_jax.errors import UserError
from distill_jax.training import state as state_lib

_ROOT = pathlib.Path(__file__).parents[1]
_PRESETS = sorted((_ROOT / "gin" / "precompile").glob("*.gin"))
_REPORTS = _ROOT / "docs" / "precompile"
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
    compilation, "find_memory_limit", lambda device: num_bytes
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
  assert compilations == [(8, {"exec_time_optimization_effort": -1.0}, "cpu")]


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
  """The largest batch by the plan does not compile: the next smaller does."""
  del compilations
  _set_limit(monkeypatch, 1000)
  planned = []

  def compile_program(lowered, options, platform):
    del options, platform
    is_confirming = bool(planned) and lowered in planned
    planned.append(lowered)
    factor = 11.5 if is_confirming else 10
    return compilation.Compilation(None, int(factor * lowered), 1.0, 1.0, 1)

  monkeypatch.setattr(compilation, "compile_program", compile_program)
  settings = dataclasses.replace(_SETTINGS, searches_batch_size=True)
  assert precompile.run(settings) == 0
  assert planned[-1] == 84 < max(rows for rows in planned if 10 * rows <= 950)


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
    ({"batch_rows": 0}, "BATCH_SIZE is 0"),
    ({"num_microbatches": 3}, "times the 3 micro-batches, 12"),
    ({"loss_chunk_tokens": "a"}, "LOSS_CHUNK_TOKENS is 'a'"),
    ({"feature_lengths": {"inputs": 3}}, "TASK_FEATURE_LENGTHS is"),
    ({"programs": ("eval",)}, "PROGRAMS is"),
    ({"on_nonfinite_loss": "x"}, "ON_NONFINITE_LOSS is 'x'"),
    ({"compile_effort": 2}, "COMPILE_EFFORT is 2"),
    ({"num_slices": 2}, "NUM_SLICES is 2 and TOPOLOGY was not given"),
    ({"topology": "v4-3"}, "TOPOLOGY is 'v4-3'"),
    ({"mesh": {"data": 3}}, "MESH is"),
    ({"searches_batch_size": True}, "have no limit to search up to"),
    (
      {"searches_batch_size": True, "programs": ("decode",)},
      "PROGRAMS has no 'train'",
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


@pytest.fixture(name="_clean_gin")
def fixture_clean_gin(monkeypatch):
  monkeypatch.setattr(gin.config, "_LOCATION_PREFIXES", [""])
  gin.clear_config()
  yield
  gin.clear_config()


@pytest.mark.usefixtures("_clean_gin")
@pytest.mark.parametrize("path", _PRESETS, ids=lambda path: path.stem)
def test_a_preset_is_what_its_report_is_of(path):
  header = path.read_text()
  assert f"--gin_file=gin/precompile/{path.name}\n" in header
  gin_bindings.parse([str(path)], [], [str(_ROOT)])
  settings = gin_bindings.build(precompile.PrecompileRun)
  report = json.loads((_REPORTS / f"{path.stem}.json").read_text())
  assert report["model"]["config"] == json.loads(
    json.dumps(dataclasses.asdict(settings.model_config))
  )
  devices = report["devices"]
  parsed = precompile.topology_lib.parse(settings.topology, settings.num_slices)
  assert devices["topology"] == parsed.name
  assert devices["num_slices"] == settings.num_slices
  for axis, size in settings.mesh.items():
    dcn_size = (settings.dcn_mesh or {}).get(axis, 1)
    assert devices["mesh"][axis] == size * dcn_size
  assert devices["count"] == parsed.num_chips
  stored = report["settings"]
  assert stored["feature_lengths"] == settings.feature_lengths
  if not settings.searches_batch_size:
    assert stored["batch_rows"] == settings.batch_rows
  assert set(report["programs"]) == set(settings.programs)


def test_every_report_has_a_preset():
  names = {path.stem for path in _REPORTS.glob("*.json")}
  assert names == {path.stem for path in _PRESETS}


def test_the_table_is_made_of_the_reports():
  reports = {
    path.stem: json.loads(path.read_text())
    for path in sorted(_REPORTS.glob("*.json"))
  }
  text = (_REPORTS / "README.md").read_text()
  assert f"\n{compile_report.format_summary(reports)}\n" in text
  assert jax.__version__ in text
