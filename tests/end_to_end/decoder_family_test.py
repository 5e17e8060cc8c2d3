"""A family registered by a test: trained, resumed, evaluated, exported.

No line of the package knows it.
"""

import dataclasses
import json
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy_decoder
import toy_run
from synthetic_cache import make_cache

from distill_jax.checkpoint import formats
from distill_jax.data.feed import batch_layout, pipeline
from distill_jax.data.feed.pipeline import FeedConfig
from distill_jax.data.settings import DataSettings
from distill_jax.decoding.cache import start_decoding
from distill_jax.decoding.strategy import DecodingConfig, decode
from distill_jax.errors import UserError
from distill_jax.objective import objective as objective_lib
from distill_jax.run_folder import metric_files
from distill_jax.runs import convert, prepare, train
from distill_jax.runs import eval as eval_mode
from distill_jax.training import state as state_lib
from distill_jax.training import step as step_lib

CONFIG = toy_decoder.ToyConfig(dropout_rate=0.1)
LENGTHS = {"inputs": 12, "targets": 8}
TRAIN_STEPS = 24


def run_training(cache, model_dir, train_steps):
  settings = toy_run.make_run(
    model_dir,
    train_steps,
    model_config=CONFIG,
    feed=FeedConfig(LENGTHS, 8),
    objective=objective_lib.make_step_by_step(0.5),
  )
  with mock.patch.object(prepare, "find_or_prepare", lambda *_: cache):
    return train.run(settings)


@pytest.fixture(name="cache", scope="module")
def fixture_cache(tmp_path_factory):
  folder = tmp_path_factory.mktemp("cache")
  return make_cache(folder, 24, splits=("train", "validation", "test"))


@pytest.fixture(name="run", scope="module")
def fixture_run(cache, tmp_path_factory):
  model_dir = tmp_path_factory.mktemp("runs") / "toy"
  return model_dir, run_training(cache, model_dir, TRAIN_STEPS)


def read_rows(model_dir, split="train"):
  rows = metric_files.read_metrics(model_dir)
  return [row for row in rows if row["split"] == split]


def test_both_losses_fall_and_validation_decodes(run):
  model_dir, _ = run
  rows = read_rows(model_dir)
  for name in ("label_loss", "rationale_loss"):
    assert rows[-1][name] < 0.6 * rows[0][name]
    assert rows[0]["label_tokens"] > 0
  labels = read_rows(model_dir, "validation/toy_label")
  assert [row["step"] for row in labels] == [8, 16, 24]
  identity = json.loads((model_dir / "run.json").read_text())["identity"]
  assert identity["model_config"]["family"] == "toy_decoder"


def test_a_resumed_run_is_the_run(run, cache, tmp_path):
  model_dir, state = run
  run_training(cache, tmp_path / "run", TRAIN_STEPS // 2)
  resumed = run_training(cache, tmp_path / "run", TRAIN_STEPS)
  jax.tree.map(np.testing.assert_array_equal, resumed.params, state.params)
  losses = [
    [row["loss"] for row in read_rows(folder)]
    for folder in (model_dir, tmp_path / "run")
  ]
  assert losses[0] == losses[1]


def make_eval_run(model_dir, **changes):
  return eval_mode.EvalRun(
    data=DataSettings(),
    model_dir=str(model_dir),
    mesh=toy_run.make_run(model_dir, 1).mesh,
    batch_rows=8,
    **changes,
  )


def test_it_is_evaluated_and_exported(run, tmp_path):
  model_dir, _ = run
  results = eval_mode.run(make_eval_run(model_dir))
  assert set(results) == {"toy_label/test", "toy_rationale/test"}
  beams = make_eval_run(model_dir, decoding=DecodingConfig("beam", num_beams=2))
  eval_mode.run(beams)
  kept = formats.open_checkpoint(model_dir)
  for form in ("orbax", "hf", "t5x"):
    convert.convert(
      str(model_dir), str(tmp_path / form), destination_format=form
    )
    stored = formats.open_checkpoint(tmp_path / form)
    assert stored.config == kept.config
    assert stored.tensors.keys() == kept.tensors.keys()
    for name, tensor in stored.tensors.items():
      np.testing.assert_array_equal(tensor.read(), kept.tensors[name].read())
    gin_text = (tmp_path / form / "model.gin").read_text()
    assert "\nimport toy_decoder\n" in gin_text
    assert "\nMODEL_CONFIG = @toy_decoder.ToyConfig()\n" in gin_text
  assert "AutoModelForCausalLM" in (tmp_path / "hf" / "README.md").read_text()


def test_a_family_that_is_not_registered_is_named(run, monkeypatch):
  monkeypatch.delitem(toy_decoder.registry._families, "toy_decoder")
  with pytest.raises(UserError, match="'toy_decoder'; known are t5"):
    eval_mode.run(make_eval_run(run[0]))


@pytest.fixture(name="model", scope="module")
def fixture_model(run):
  config = dataclasses.replace(CONFIG, dropout_rate=0.0)
  return toy_decoder.ToyDecoder(config), jax.device_get(run[1].params)


def take_examples(cache):
  """Returns examples of unequal inputs, of both tasks, by task."""
  return {
    name: pipeline.take(cache.open_split(name, "test"), 6)
    for name in cache.tasks
  }


def test_packed_equals_not_packed(model, cache):
  module, params = model

  def compute(packed):
    iterator = pipeline.make_train_iterator(
      cache,
      FeedConfig(
        {"inputs": 24, "targets": 16},
        8,
        packed=packed,
        max_examples_per_batch=4,
      ),
      layout=batch_layout.DECODER,
    )
    batch = next(iterator)
    iterator.close()
    batch = jax.tree.map(jnp.asarray, batch)
    objective = objective_lib.Objective()
    counts = objective_lib.count_tokens(batch, objective)
    loss_fn = jax.value_and_grad(
      lambda params: step_lib.compute_loss(
        params,
        batch,
        jax.random.key(0),
        model=module,
        token_counts=counts,
        objective=objective,
        term_weights=objective.find_weights(0),
        loss_chunk_tokens=None,
      )[0]
    )
    return batch, counts, jax.jit(loss_fn)(params)

  (packed, packed_counts, found), (_, counts, expected) = (
    compute(packed) for packed in (True, False)
  )
  assert packed["decoder_segment_ids"].max() > 1
  assert {k: float(v) for k, v in packed_counts.items()} == {
    k: float(v) for k, v in counts.items()
  }
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5), found, expected
  )


def test_cached_decoding_equals_the_whole_model(model, cache):
  """Greedy decoding chooses what a forward pass over its own choices does."""
  module, params = model
  layout = batch_layout.DECODER
  num_decoded = 6
  for name, examples in take_examples(cache).items():
    prompts = [
      dataclasses.replace(example, targets=np.asarray([1], np.int32))
      for example in examples
    ]
    info = cache.tasks[name]
    ((batch, _),) = pipeline.make_eval_batches(
      prompts, info, LENGTHS | {"targets": 1}, 6, layout
    )
    step_fn, start = start_decoding(
      module,
      params,
      jax.tree.map(jnp.asarray, layout.select_inputs(batch)),
      num_decoded,
    )
    (tokens,) = np.asarray(
      decode(
        DecodingConfig(),
        step_fn,
        start,
        jnp.arange(6),
        max_decode_length=num_decoded,
      )
    ).swapaxes(0, 1)
    decoded = [
      dataclasses.replace(
        example, targets=np.asarray([*row[row != 0]], np.int32)
      )
      for example, row in zip(examples, tokens, strict=True)
    ]
    ((batch, _),) = pipeline.make_eval_batches(
      decoded, info, LENGTHS, 6, layout
    )
    arrays = jax.tree.map(jnp.asarray, batch)
    logits = step_lib.apply_model(module, params, arrays, enable_dropout=False)
    is_target = batch["decoder_loss_weights"] > 0
    np.testing.assert_array_equal(
      np.argmax(logits, -1)[is_target],
      batch["decoder_target_tokens"][is_target],
    )
    assert is_target.sum() >= 12


def test_parameters_name_their_axes():
  abstract, axes = state_lib.abstract_params(toy_decoder.ToyDecoder(CONFIG))
  assert axes["head"]["kernel"] == ("embed", "vocab")
  assert abstract["embedding"].shape == (384, 32)
