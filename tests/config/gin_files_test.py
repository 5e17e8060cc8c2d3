"""Every gin file of the project builds, with what its header says it needs."""

import math
import pathlib
import re

import jax
import numpy as np
import pytest

import gin
from distill_jax.config import gin_bindings
from distill_jax.data import datasets
from distill_jax.errors import UserError
from distill_jax.model.t5.config import T5Config
from distill_jax.model.t5.t5 import T5
from distill_jax.partitioning import mesh as mesh_lib
from distill_jax.partitioning import sharding
from distill_jax.runs import eval as eval_mode
from distill_jax.runs import (
  infer,
  label,
  precompile,
  prepare,
  sweep,
  sweep_cells,
  train,
)
from distill_jax.training import state

_ROOT = pathlib.Path(__file__).parents[2]
_MODEL = "gin/models/t5_1_1/tiny.gin"
# A run's file -> its settings, and the settings' macros that must be given.
_RUNS = {
  "eval": (eval_mode.EvalRun, ()),
  "infer": (infer.InferRun, ("INPUT_PATH", "OUTPUT_PATH")),
  "label": (
    label.LabelRun,
    ("INPUT_PATH", "OUTPUT_PATH", "TEACHER_MODEL", "PROMPT"),
  ),
  "precompile": (precompile.PrecompileRun, ()),
  "precompile_adamw": (precompile.PrecompileRun, ()),
  "prepare": (prepare.PrepareRun, ("MIXTURE_OR_TASK_NAME",)),
  "train": (
    train.TrainRun,
    ("MIXTURE_OR_TASK_NAME", "MODEL_DIR", "TRAIN_STEPS"),
  ),
  "train_adamw": (
    train.TrainRun,
    ("MIXTURE_OR_TASK_NAME", "MODEL_DIR", "TRAIN_STEPS"),
  ),
  "sweep": (
    sweep.SweepRun,
    ("ARMS", "SIZES", "SEEDS", "TITLE", "MODEL_DIR", "TRAIN_STEPS"),
  ),
}
_INCLUDED = ("data", "precompile_common", "train_common")
_VALUES = {
  "ARMS": "{'a': {'MIXTURE_OR_TASK_NAME': 'b_label'}}",
  "SIZES": "(10,)",
  "SEEDS": "(0,)",
  "TRAIN_STEPS": "300",
}
_EXPERIMENTS = sorted((_ROOT / "gin" / "experiments").glob("*.gin"))
_MODELS = [
  path
  for path in sorted((_ROOT / "gin" / "models").glob("*/*.gin"))
  if path.stem != "family"
]


@pytest.fixture(autouse=True)
def fixture_clean_gin(monkeypatch):
  monkeypatch.setattr(gin.config, "_LOCATION_PREFIXES", [""])
  gin.clear_config()
  yield
  gin.clear_config()


def _parse(files, required=()):
  bindings = [f"{name} = {_VALUES.get(name, repr('x'))}" for name in required]
  gin_bindings.parse(files, bindings, [str(_ROOT)])


def _build(settings_class):
  if settings_class in (eval_mode.EvalRun, infer.InferRun):
    gin_bindings.set_default("MODEL_CONFIG", "None")  # As `main` does.
  return gin_bindings.build(settings_class)


def _read_header(path):
  lines = path.read_text().splitlines()
  count = next(i for i, line in enumerate(lines) if not line.startswith("#"))
  return "\n".join(line.lstrip("# ") for line in lines[:count])


@pytest.mark.parametrize("name", _RUNS)
def test_a_run_needs_what_it_says_and_no_more(name):
  settings_class, required = _RUNS[name]
  _parse([_MODEL, f"gin/runs/{name}.gin"])
  if required:
    with pytest.raises(UserError) as raised:
      _build(settings_class)
    found = re.findall(r"--gin\.(\w+)=VALUE", str(raised.value))
    assert sorted(found) == sorted(required)
  gin.clear_config()
  model = [] if name in ("eval", "infer", "label", "prepare") else [_MODEL]
  _parse([*model, f"gin/runs/{name}.gin"], required)
  settings = _build(settings_class)
  assert isinstance(settings, settings_class)
  header = _read_header(_ROOT / f"gin/runs/{name}.gin")
  if "REQUIRED" in header:
    assert set(required) <= set(re.findall(r"[A-Z_]+", header))


@pytest.mark.parametrize("name", [*_RUNS, *_INCLUDED])
def test_a_header_names_only_macros_that_exist(name):
  _parse([_MODEL, f"gin/runs/{name}.gin"])
  header = _read_header(_ROOT / f"gin/runs/{name}.gin")
  header = re.sub(r"'[^']*'|gin/\S+", "", header)
  named = set(re.findall(r"\b[A-Z][A-Z_]{3,}\b", header))
  named -= {"REQUIRED", "COMMON", "RARE", "FILTERS", "JSON", "JSONL"}
  named -= {"EVAL_TASK"}  # Of an arm of a sweep.
  named -= {"OPENAI_API_KEY"}  # A variable of the environment.
  assert named <= gin_bindings._macros()


@pytest.mark.parametrize("name", ["train", "train_adamw", "eval", "infer"])
def test_a_mesh_within_slices_and_over_them(name):
  bindings = ["MESH = {'fsdp': 4}", "DCN_MESH = {'data': 2}"]
  bindings += [
    f"{macro} = {_VALUES.get(macro, repr('x'))}" for macro in _RUNS[name][1]
  ]
  gin_bindings.parse([_MODEL, f"gin/runs/{name}.gin"], bindings, [str(_ROOT)])
  settings = _build(_RUNS[name][0])
  assert settings.mesh == {"fsdp": 4}
  assert settings.dcn_mesh == {"data": 2}


def test_the_first_moment_has_a_type_by_gin():
  def init(*bindings):
    gin.clear_config()
    required = _RUNS["train_adamw"][1]
    bindings += tuple(f"{m} = {_VALUES.get(m, repr('x'))}" for m in required)
    files = [_MODEL, "gin/runs/train_adamw.gin"]
    gin_bindings.parse(files, bindings, [str(_ROOT)])
    state = _build(train.TrainRun).optimizer.init({"kernel": np.ones((2, 2))})
    return {str(leaf.dtype) for leaf in jax.tree.leaves(state)} - {"int32"}

  assert init() == {"float32"}
  assert init("FIRST_MOMENT_DTYPE = 'bfloat16'") == {"float32", "bfloat16"}
  with pytest.raises(UserError, match="FIRST_MOMENT_DTYPE is 'float16'"):
    init("FIRST_MOMENT_DTYPE = 'float16'")


@pytest.mark.parametrize(
  "name,size,num_devices",
  [
    ("fsdp", "large", 8),
    ("fsdp", "xl", 8),
    ("fsdp", "xxl", 16),
    ("fsdp", "xxl", 4),
    ("fsdp4_model4", "xxl", 16),
    ("fsdp8_model8", "xxl", 64),
    ("fsdp16_model8", "xxl", 128),
    ("fsdp16_model16", "xxl", 256),
  ],
)
def test_a_mesh_divides_the_models_it_is_meant_for(name, size, num_devices):
  model = f"gin/models/t5_1_1/{size}.gin"
  files = [model, "gin/runs/train.gin", f"gin/meshes/{name}.gin"]
  _parse(files, _RUNS["train"][1])
  settings = _build(train.TrainRun)
  config = settings.model_config
  assert (config.scan_layers, config.remat_policy) == (True, "full")
  assert config.dtype == "bfloat16"
  sizes = {**settings.mesh}
  if -1 in sizes.values():
    sizes["fsdp"] = num_devices
  assert math.prod(sizes.values()) == num_devices
  shapes, logical_axes = state.abstract_params(T5(config))
  mesh = mesh_lib.make_abstract_mesh(sizes)
  sharding.shard_params(logical_axes, shapes, mesh)
  assert f"gin/meshes/{name}.gin" in _read_header(_ROOT / model)


def test_no_mesh_is_untested():
  names = {path.stem for path in (_ROOT / "gin" / "meshes").glob("*.gin")}
  (meshes,) = test_a_mesh_divides_the_models_it_is_meant_for.pytestmark
  assert names == {name for name, _, _ in meshes.args[1]}


def test_no_run_is_untested():
  names = {path.stem for path in (_ROOT / "gin" / "runs").glob("*.gin")}
  assert names == {*_RUNS, *_INCLUDED}


@pytest.mark.parametrize("path", _EXPERIMENTS, ids=lambda path: path.stem)
def test_an_experiment_builds_from_the_command_in_its_header(path, monkeypatch):
  header = _read_header(path)
  files = re.findall(r"--gin_file=(\S+)", header)
  assert files[-1] == str(path.relative_to(_ROOT))
  bindings = re.findall(r"--gin\.(\w+)=\"(.*?)\"", header)
  (mode,) = re.findall(r"--run_mode=(\w+)", header)
  if "DATA_DIR" in dict(bindings):
    # The release is not part of the checkout.
    monkeypatch.setattr(datasets, "resize", lambda data, *_: data)
  gin_bindings.parse(
    files, [f"{name} = {value}" for name, value in bindings], [str(_ROOT)]
  )
  settings = _build(_RUNS[mode][0])
  arms = sweep_cells.read_arms(settings.arms, settings.sizes, settings.seeds)
  cells = sweep_cells.make_cells(arms, settings.base.model_dir)
  assert all(cell.settings and cell.eval_task for cell in cells)


@pytest.mark.parametrize(
  "path", _MODELS, ids=lambda path: f"{path.parent.name}/{path.stem}"
)
def test_a_model_trains(path):
  _parse([str(path), "gin/runs/train.gin"], _RUNS["train"][1])
  assert isinstance(_build(train.TrainRun).model_config, T5Config)
