"""Tests of t5x_bridge.py; all but the first need T5X itself."""

import importlib
import importlib.util
import os
import pathlib
import re
import subprocess
import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gin
from distill_jax.data import settings as settings_lib
from distill_jax.data.feed import batch as batch_lib
from distill_jax.errors import UserError
from distill_jax.objective import objective as objective_lib

pytestmark = pytest.mark.tf

_ROOT = pathlib.Path(__file__).parents[1]
_HAS_T5X = importlib.util.find_spec("t5x") is not None
_needs_t5x = pytest.mark.skipif(
  not _HAS_T5X, reason="no T5X here; it is in no package index"
)
_MODEL, _RUN = "gin/t5x/t5_1_1_tiny.gin", "gin/t5x/finetune_distill.gin"
_REQUIRED = {
  "MIXTURE_OR_TASK_NAME": "'word_problems_distill'",
  "TASK_FEATURE_LENGTHS": "{'inputs': 64, 'targets': 48}",
  "MODEL_DIR": "'/nowhere'",
  "INITIAL_CHECKPOINT_PATH": "None",
  "TRAIN_STEPS": "3",
}
_WORD_PROBLEMS = {
  "num_train_examples": 60,
  "num_validation_examples": 2,
  "num_test_examples": 2,
}
_VOCAB_SIZE = 11


def test_without_t5x_its_absence_is_explained(monkeypatch):
  pytest.importorskip("seqio")
  # Imported first, as T5X would be: only T5X shall be missing.
  from distill_jax.data.tf import seqio_feature_converter  # noqa: F401

  monkeypatch.setitem(sys.modules, "t5x", None)
  monkeypatch.delitem(sys.modules, "distill_jax.t5x_bridge", raising=False)
  with pytest.raises(ImportError, match="runs inside T5X.*install it from"):
    importlib.import_module("distill_jax.t5x_bridge")


@pytest.fixture(name="bridge")
def fixture_bridge():
  from distill_jax import t5x_bridge

  yield t5x_bridge
  settings_lib.use_settings(None)


@pytest.fixture(name="batch")
def fixture_batch():
  """Rows of quite different lengths, as T5X gives them: int32 weights."""
  rng = np.random.default_rng(0)
  lengths, task_ids = np.array([[9], [2], [5], [1]]), np.array([2, 1, 2, 1])
  is_target = np.arange(10) < lengths
  targets = np.where(is_target, rng.integers(2, _VOCAB_SIZE, (4, 10)), 0)
  return {
    batch_lib.ENCODER_INPUT_TOKENS: np.ones((4, 3), np.int32),
    batch_lib.DECODER_TARGET_TOKENS: targets.astype(np.int32),
    batch_lib.DECODER_LOSS_WEIGHTS: is_target.astype(np.int32),
    batch_lib.DECODER_TASK_IDS: (is_target * task_ids[:, None]).astype(
      np.int32
    ),
    # Each row its own part of the parameters, wherever it is cut to.
    "row": np.arange(4, dtype=np.int32),
  }


@pytest.fixture(name="params")
def fixture_params():
  logits = np.random.default_rng(1).normal(0, 2, (4, 10, _VOCAB_SIZE))
  return {"logits": jnp.asarray(logits, jnp.float32)}


def _make_model(bridge, **kwargs):
  """A model whose parameters are the logits of each row."""
  module = types.SimpleNamespace(
    config=types.SimpleNamespace(vocab_size=_VOCAB_SIZE)
  )
  vocabulary = types.SimpleNamespace(vocab_size=_VOCAB_SIZE)
  model = bridge.DistillModel(module, vocabulary, vocabulary, None, **kwargs)
  model._compute_logits = lambda params, batch, rng: params["logits"][
    batch["row"]
  ]
  return model


def _compute_in_numpy(params, batch, objective):
  """The objective in ten lines."""
  logits = np.asarray(params["logits"], np.float64)
  log_z = np.log(np.sum(np.exp(logits), axis=-1))
  targets = batch[batch_lib.DECODER_TARGET_TOKENS]
  nll = log_z - np.take_along_axis(logits, targets[..., None], -1)[..., 0]
  task_ids = batch[batch_lib.DECODER_TASK_IDS]
  label, rationale = nll[task_ids == 1].mean(), nll[task_ids == 2].mean()
  z_loss = objective.z_loss * (log_z[task_ids > 0] ** 2).mean()
  loss = label + objective.rationale_loss_weight * rationale + z_loss
  return {
    "loss": loss,
    "label_loss": label,
    "rationale_loss": rationale,
    "z_loss": z_loss,
    "cross_ent_loss": loss - z_loss,
    "label_tokens": np.sum(task_ids == 1),
    "rationale_tokens": np.sum(task_ids == 2),
    "loss_per_nonpadding_target_token": nll[task_ids > 0].mean() + z_loss,
  }


@_needs_t5x
def test_the_loss_is_the_objective(bridge, batch, params):
  objective = objective_lib.make_step_by_step(
    rationale_loss_weight=0.3, z_loss=0.01
  )
  model = _make_model(bridge, objective=objective)
  loss, metrics = model.loss_fn(params, batch, None)
  expected = _compute_in_numpy(params, batch, objective)
  np.testing.assert_allclose(loss, expected["loss"], rtol=1e-6)
  for name, value in expected.items():
    found = metrics[name].compute()
    np.testing.assert_allclose(found, value, rtol=1e-6, err_msg=name)


@_needs_t5x
@pytest.mark.parametrize("num_microbatches", [None, 2, 4])
def test_micro_batches_change_nothing(bridge, batch, params, num_microbatches):
  """The trainer's step with T5X's own accumulation, no optimizer, no mesh."""
  objective = objective_lib.make_step_by_step(
    rationale_loss_weight=0.3, z_loss=0.01
  )
  trainer = bridge.DistillTrainer.__new__(bridge.DistillTrainer)
  trainer._model = _make_model(bridge, objective=objective)
  trainer._num_microbatches = num_microbatches
  trainer._weight_metrics_computer = None
  trainer._learning_rate_fn = lambda step: jnp.float32(1.0)
  trainer._base_rng = jax.random.key(0)
  trainer._train_state_axes = None
  trainer._partitioner = types.SimpleNamespace(
    data_partition_spec=jax.sharding.PartitionSpec("data"),
    partition=lambda step_fn, **_: step_fn,
  )
  state = types.SimpleNamespace(
    step=0,
    params=params,
    flax_mutables=None,
    apply_gradient=lambda gradient, learning_rate: gradient,
  )
  gradient, metrics = trainer._partitioned_train_step(state, batch)
  counts = objective_lib.count_tokens(batch, objective)

  def compute_loss(params):
    whole = {**batch, batch_lib.DECODER_LOSS_WEIGHTS: weights}
    return objective_lib.compute_loss(
      params["logits"], whole, counts, objective
    )[0]

  weights = batch[batch_lib.DECODER_LOSS_WEIGHTS].astype(np.float32)
  wanted = jax.grad(compute_loss)(params)["logits"]
  np.testing.assert_allclose(gradient["logits"], wanted, rtol=1e-5, atol=1e-7)
  for name, value in _compute_in_numpy(params, batch, objective).items():
    metric = metrics[name]
    if hasattr(metric, "replace_steps"):
      metric = metric.replace_steps(1)  # As T5X does before it writes.
    np.testing.assert_allclose(metric.compute(), value, rtol=1e-6, err_msg=name)


@_needs_t5x
@pytest.mark.parametrize(
  "setting", [{"label_smoothing": 0.1}, {"loss_normalizing_factor": 100.0}]
)
def test_settings_of_another_loss_are_refused(bridge, setting):
  with pytest.raises(UserError, match="has neither"):
    _make_model(bridge, **setting)


@_needs_t5x
def test_a_network_smaller_than_the_vocabulary_is_refused(bridge):
  module = types.SimpleNamespace(config=types.SimpleNamespace(vocab_size=10))
  vocabulary = types.SimpleNamespace(vocab_size=11)
  with pytest.raises(UserError, match="vocab_size 10, the vocabulary 11 ids"):
    bridge.DistillModel(module, vocabulary, vocabulary, None)


@_needs_t5x
def test_the_vocabulary_puts_the_settings_in_force(bridge):
  settings = settings_lib.DataSettings(vocab_path="bytes", subsample=0.5)
  vocabulary = bridge.configure_data(settings)
  assert settings_lib.current_settings() is settings
  assert vocabulary.encode("a") == [100]


@pytest.fixture(name="parse")
def fixture_parse(monkeypatch):
  """Parses files and bindings as t5x.main does."""
  import t5x
  from t5x import gin_utils, train

  monkeypatch.setattr(gin.config, "_LOCATION_PREFIXES", [""])
  gin.clear_config()
  main = sys.modules["__main__"]
  monkeypatch.setattr(main, "train", train.train, raising=False)
  gin.register(train.train, "__main__")
  paths = [str(_ROOT), str(pathlib.Path(t5x.__file__).parents[1])]

  def parse(files, bindings):
    gin_utils.parse_gin_flags(
      paths, files, [f"{name} = {value}" for name, value in bindings.items()]
    )

  yield parse
  gin.clear_config()


@_needs_t5x
def test_the_gin_files_bind_the_objective(bridge, parse):
  given = {"RATIONALE_LOSS_WEIGHT": "0.3", "Z_LOSS": "0.01"}
  parse([_MODEL, _RUN], _REQUIRED | given | {"VOCAB_PATH": "'bytes'"})
  model = gin.query_parameter("%MODEL").scoped_configurable_fn()
  assert isinstance(model, bridge.DistillModel)
  assert model._objective == objective_lib.make_step_by_step(0.3, 0.01)
  assert model.module.config.vocab_size == 1024
  assert settings_lib.current_settings().vocab_path == "bytes"
  assert model.output_vocabulary.encode("a") == [100]
  trainer = gin.query_parameter("__main__.train.trainer_cls")
  assert trainer.scoped_configurable_fn.__name__ == "DistillTrainer"


@_needs_t5x
@pytest.mark.parametrize("missing", _REQUIRED)
def test_the_run_needs_what_its_header_says(bridge, parse, missing):
  given = {k: v for k, v in _REQUIRED.items() if k != missing}
  with pytest.raises(ValueError, match=f"{missing}/macro.value set to"):
    parse([_MODEL, _RUN], given)
  header = (_ROOT / _RUN).read_text().partition("from __gin__")[0]
  assert missing in header.partition("REQUIRED")[2].partition("COMMON")[0]


@_needs_t5x
@pytest.mark.slow
def test_t5x_trains_and_writes_both_losses(tmp_path):
  from tensorboard.backend.event_processing import event_accumulator
  from tensorboard.util import tensor_util

  bindings = _REQUIRED | {
    "MODEL_DIR": f"'{tmp_path}/run'",
    "RESTORE": "None",
    "WORD_PROBLEMS": str(_WORD_PROBLEMS),
    "BATCH_SIZE": "4",
    "DROPOUT_RATE": "0.0",
    "RANDOM_SEED": "0",
    "NUM_MICROBATCHES": "2",
    "EVAL_PERIOD": "0",
    "CHECKPOINT_PERIOD": "3",
  }
  process = subprocess.run(
    [sys.executable, "-m", "t5x.main", "--run_mode=train"]
    + [f"--gin_file={file}" for file in (_MODEL, _RUN)]
    + [f"--gin.{name}={value}" for name, value in bindings.items()],
    cwd=_ROOT,
    env=os.environ | {"HOME": str(tmp_path)},
    capture_output=True,
    text=True,
    timeout=300,
  )
  assert process.returncode == 0, process.stderr[-5000:]
  assert (tmp_path / "run" / "checkpoint_3").is_dir()
  events = event_accumulator.EventAccumulator(str(tmp_path / "run" / "train"))
  events.Reload()
  values = {}
  for name in ("loss", "label_loss", "rationale_loss", "label_tokens"):
    (event,) = events.Tensors(name)
    values[name] = float(tensor_util.make_ndarray(event.tensor_proto))
  assert values["label_tokens"] > 1
  # Before it has learnt anything, each is about the logarithm of 1024.
  assert 5 < values["label_loss"] < 9 > values["rationale_loss"] > 5
  np.testing.assert_allclose(
    values["loss"], values["label_loss"] + values["rationale_loss"], rtol=1e-6
  )


def test_headers_name_only_macros_that_exist():
  macros = set()
  for path in (_ROOT / "gin" / "t5x").glob("*.gin"):
    macros |= set(re.findall(r"^([A-Z_]+) =", path.read_text(), re.MULTILINE))
  macros |= set(
    re.findall(r"^([A-Z_]+) =", (_ROOT / "gin/runs/data.gin").read_text(), re.M)
  )
  upstream = {"MIXTURE_OR_TASK_NAME", "TASK_FEATURE_LENGTHS", "MODEL_DIR"}
  upstream |= {"INITIAL_CHECKPOINT_PATH", "TRAIN_STEPS", "TRAIN_STEPS_RELATIVE"}
  upstream |= {"DROPOUT_RATE", "EVAL_PERIOD", "EVAL_STEPS", "RANDOM_SEED"}
  upstream |= {"LABEL_SMOOTHING", "LOSS_NORMALIZING_FACTOR"}
  for path in (_ROOT / "gin" / "t5x").glob("*.gin"):
    header = path.read_text().partition("from __gin__")[0]
    named = set(re.findall(r"\b[A-Z][A-Z_]{3,}\b", header))
    named -= {"REQUIRED", "COMMON", "RARE", "None", "DISTILL_JAX_DATA_DIR"}
    assert named <= macros | upstream, path
