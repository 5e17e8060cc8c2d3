"""Tests of runs/train.py.

What a run refuses, and where its parameters come from.
"""

import dataclasses
import itertools
import json
import logging
import pathlib
import shutil
import time
from collections.abc import Callable
from unittest import mock

import jax
import numpy as np
import optax
import pytest
import synthetic_cache
from synthetic_cache import make_cache
from tiny_run import (
  CONFIG,
  fixture_model_dir,  # noqa: F401
  fixture_own_model_dir,  # noqa: F401
)

from distill_jax.checkpoint import formats, manager
from distill_jax.checkpoint.stored_model import flatten_params
from distill_jax.data.feed import batch as batch_lib
from distill_jax.data.feed.pipeline import FeedConfig
from distill_jax.data.settings import DataSettings
from distill_jax.errors import UserError
from distill_jax.objective.objective import Objective
from distill_jax.optim import factory, schedules
from distill_jax.partitioning import mesh as mesh_lib
from distill_jax.partitioning import sharding
from distill_jax.run_folder import metric_files, run_identity, run_lock
from distill_jax.runs import convert, prepare, train
from distill_jax.training import hooks
from distill_jax.training import step as step_lib

WORD_PROBLEMS = (
  pathlib.Path(prepare.__file__)
  .parents[1]
  .joinpath("data", "word_problems.model")
)


def make_run(model_dir, **changes):
  rate = schedules.constant(1e-2)
  settings = {
    "model_config": CONFIG,
    "mixture_or_task_name": "toy_distill",
    "model_dir": str(model_dir),
    "train_steps": 1,
    "data": DataSettings(vocab_path="bytes"),
    "feed": FeedConfig({"inputs": 32, "targets": 12}, 8),
    "objective": Objective(),
    "learning_rate": rate,
    "optimizer": factory.adamw(rate),
  }
  return train.TrainRun(**(settings | changes))


@pytest.fixture(name="cache", autouse=True)
def fixture_cache(tmp_path):
  cache = make_cache(tmp_path / "cache", 5)
  with mock.patch.object(prepare, "find_or_prepare", lambda *_: cache):
    yield cache


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"train_steps": 0}, "train_steps is 0"),
    ({"eval_period": 1.5}, "eval_period is 1.5"),
    ({"on_nonfinite_loss": "ignore"}, "on_nonfinite_loss is 'ignore'"),
    ({"max_skipped_steps": -1}, "max_skipped_steps is -1"),
    ({"preemption_save_seconds": 0}, "preemption_save_seconds is 0"),
    ({"num_microbatches": 3}, "BATCH_SIZE is 8; it must divide"),
    ({"mesh": {"data": 3}}, "MESH is"),
    (
      {"model_config": dataclasses.replace(CONFIG, vocab_size=300)},
      "The vocabulary has 384 ids, but the model embeds only 300",
    ),
  ],
)
def test_settings_that_do_not_fit_are_named(tmp_path, changes, message):
  with pytest.raises(UserError, match=message):
    train.run(make_run(tmp_path / "run", **changes))
  assert not (tmp_path / "run").exists()


def test_a_folder_of_other_files_is_left_alone(tmp_path):
  (tmp_path / "run").mkdir()
  (tmp_path / "run" / "thesis.tex").write_text("mine")
  with pytest.raises(UserError, match="has files but no run"):
    train.run(make_run(tmp_path / "run"), overwrite=True)
  assert (tmp_path / "run" / "thesis.tex").read_text() == "mine"


def test_another_run_in_the_folder_is_refused(own_model_dir):
  with pytest.raises(UserError, match="other settings") as raised:
    train.run(make_run(own_model_dir, seed=7))
  assert "seed" in str(raised.value)
  assert manager.find_checkpoint(own_model_dir).name == "2"


def test_attention_without_its_devices_is_refused(tmp_path):
  config = dataclasses.replace(CONFIG, attention_implementation="pallas_tpu")
  with pytest.raises(UserError, match="'pallas_tpu', which runs on a tpu"):
    train.run(make_run(tmp_path / "run", model_config=config))
  assert not (tmp_path / "run").exists()


def test_a_run_may_go_on_with_another_attention_or_remat(tmp_path, cache):
  """Which compute the same but for rounding."""
  other = dataclasses.replace(
    CONFIG, attention_implementation="pallas_tpu", remat_policy="full"
  )
  mesh = mesh_lib.make_mesh({"data": -1})
  first, second = (
    run_identity.make_record(
      make_run(tmp_path, model_config=config), cache, {}, mesh
    ).identity
    for config in (CONFIG, other)
  )
  assert first == second
  assert type(CONFIG)(**first["model_config"]) == CONFIG


def test_a_run_out_of_memory_goes_on_with_remat(tmp_path):
  folder = tmp_path / "run"
  for steps, policy in enumerate(("none", "full"), start=1):
    config = dataclasses.replace(CONFIG, remat_policy=policy)
    train.run(make_run(folder, model_config=config, train_steps=steps))
  assert manager.find_checkpoint(folder).name == "2"


def test_another_optimizer_or_rate_is_refused(own_model_dir):
  before = (own_model_dir / "config.gin").read_text()
  rate = schedules.constant(0.5)
  with pytest.raises(UserError, match="learning_rates.*0.01.* before.*0.5"):
    train.run(
      make_run(own_model_dir, learning_rate=rate, optimizer=factory.adamw(rate))
    )
  optimizer = factory.adafactor(schedules.constant(1e-2))
  with pytest.raises(UserError, match="optimizer_updates"):
    train.run(make_run(own_model_dir, optimizer=optimizer))
  assert (own_model_dir / "config.gin").read_text() == before


@pytest.mark.parametrize(
  ("path", "message"),
  [("/no/such/run", "no checkpoint"), (".", "lies in the MODEL_DIR")],
)
def test_overwrite_removes_nothing_before_the_new_run_can_start(
  own_model_dir, path, message
):
  initial = own_model_dir / path
  with pytest.raises(UserError, match=message):
    train.run(
      make_run(own_model_dir, seed=7, initial_checkpoint_path=str(initial)),
      overwrite=True,
    )
  assert manager.find_checkpoint(own_model_dir).name == "2"


def test_too_many_bad_teacher_labels_are_refused(tmp_path, cache):
  cache.tasks["toy_label"] = dataclasses.replace(
    cache.tasks["toy_label"],
    uses_teacher_labels=True,
    teacher_counts={"train": {"ok": 1, "truncated": 1}},
  )
  with pytest.raises(UserError, match="50.0% of its 2 training rows"):
    train.run(make_run(tmp_path / "run"))


def _train_at_no_rate(folder, checkpoint):
  """Returns the state of a run that leaves the parameters as it loads them."""
  rate = optax.constant_schedule(0.0)
  return train.run(
    make_run(
      folder,
      initial_checkpoint_path=str(checkpoint),
      learning_rate=rate,
      optimizer=factory.adamw(rate),
    )
  )


def test_parameters_start_from_a_checkpoint(model_dir, tmp_path):
  state = _train_at_no_rate(tmp_path / "run", model_dir)
  loaded = formats.load_params(
    formats.open_checkpoint(model_dir),
    jax.tree.map(
      lambda leaf: jax.ShapeDtypeStruct(
        leaf.shape, leaf.dtype, sharding=leaf.sharding
      ),
      state.params,
    ),
  )
  jax.tree.map(np.testing.assert_array_equal, state.params, loaded)


def test_a_student_starts_from_one_that_learned_spans(tmp_path, caplog):
  pretrained = tmp_path / "pretrained"
  caplog.set_level("INFO", "distill_jax.training")
  spans = synthetic_cache.make_span_cache(tmp_path / "spans")
  with (
    mock.patch.object(prepare, "find_or_prepare", lambda *_: spans),
    mock.patch.object(logging.getLogger("distill_jax"), "propagate", True),
  ):
    small = dataclasses.replace(CONFIG, vocab_size=383)
    with pytest.raises(UserError, match="embeds only 383"):
      train.run(make_run(pretrained, model_config=small))
    run = make_run(
      pretrained, train_steps=3, eval_period=2, checkpoint_period=1
    )
    train.run(run)
  assert "No label was validated, so no step is the best one" in caplog.text
  assert f"Checkpoint: {pretrained}/checkpoints/3" in caplog.text
  rows = metric_files.read_metrics(pretrained)
  (first, second) = (row for row in rows if row["split"] != "train")
  assert first["split"] == "validation/toy_span_corruption"
  assert second["loss"] < first["loss"]
  assert "label_accuracy" not in first
  trained = [row for row in rows if row["split"] == "train"]
  assert all(row["label_loss"] == row["loss"] for row in trained)

  state = _train_at_no_rate(tmp_path / "run", pretrained)
  stored = formats.open_checkpoint(pretrained)
  assert pathlib.Path(stored.path).name == "3"
  for name, leaf in flatten_params(state.params).items():
    np.testing.assert_array_equal(leaf, stored.tensors[name].read())


@pytest.mark.parametrize("file_format", ["hf", "t5x", "orbax"])
def test_parameters_start_from_any_form(
  model_dir, tmp_path, file_format, caplog
):
  source = tmp_path / "initial"
  convert.convert(str(model_dir), str(source), destination_format=file_format)
  rate = optax.constant_schedule(0.0)
  caplog.set_level("INFO", "distill_jax.training")
  with mock.patch.object(logging.getLogger("distill_jax"), "propagate", True):
    state = train.run(
      make_run(
        tmp_path / "run",
        initial_checkpoint_path=str(source),
        learning_rate=rate,
        optimizer=factory.adamw(rate),
      )
    )
  expected = formats.open_checkpoint(model_dir).tensors
  for name, leaf in flatten_params(state.params).items():
    np.testing.assert_array_equal(leaf, expected[name].read())
  assert f"Starting from the {file_format} checkpoint {source}" in caplog.text
  assert f": {len(expected)} tensors, " in caplog.text
  assert "0 missing, 0 unexpected" in caplog.text


def test_another_vocabulary_than_the_checkpoints_is_refused(
  model_dir, tmp_path
):
  source = tmp_path / "initial"
  convert.convert(str(model_dir), str(source), destination_format="hf")
  shutil.copyfile(WORD_PROBLEMS, source / "spiece.model")
  (source / "tokenizer_config.json").unlink()
  with pytest.raises(UserError, match=r"was trained with .*spiece.model, the"):
    train.run(make_run(tmp_path / "run", initial_checkpoint_path=str(source)))
  assert not (tmp_path / "run").exists()


def make_long_run(model_dir, train_steps=5, **changes):
  return make_run(
    model_dir,
    train_steps=train_steps,
    checkpoint_period=1,
    log_period=1,
    **changes,
  )


def read_lines(model_dir):
  """The lines of a run, without its speed."""
  return [
    {key: row[key] for key in row if "_per_second" not in key}
    for row in metric_files.read_metrics(model_dir)
  ]


_compiled: dict[bool, Callable] = {}


@pytest.fixture(name="quick_start")
def fixture_quick_start(monkeypatch):
  """One device, and a step that is compiled once for all of these runs."""
  make_mesh = mesh_lib.make_mesh
  compile_step = step_lib.compile_train_step

  def compile_once(*args, skips_nonfinite, **kwargs):
    if skips_nonfinite not in _compiled:
      _compiled[skips_nonfinite] = compile_step(
        *args, skips_nonfinite=skips_nonfinite, **kwargs
      )
    return _compiled[skips_nonfinite]

  monkeypatch.setattr(
    mesh_lib,
    "make_mesh",
    lambda sizes, **_: make_mesh(sizes, jax.devices()[:1]),
  )
  monkeypatch.setattr(step_lib, "compile_train_step", compile_once)


@pytest.mark.usefixtures("quick_start")
def test_a_damaged_newest_checkpoint_costs_its_steps_and_no_more(tmp_path):
  settings = make_long_run(tmp_path / "run")
  state = train.run(settings)
  expected = read_lines(tmp_path / "run")
  folder = tmp_path / "run" / "checkpoints"
  (folder / "5" / "data_iterator" / "metadata").write_text("{}")
  found = train.run(settings)
  jax.tree.map(np.testing.assert_array_equal, found, state)
  assert read_lines(tmp_path / "run") == expected
  superseded = (tmp_path / "run" / "metrics.superseded.jsonl").read_text()
  assert [json.loads(row)["step"] for row in superseded.splitlines()] == [5]
  assert sorted(path.name for path in folder.iterdir()) == [
    "4",
    "5",
    "damaged-5",
  ]


@pytest.mark.usefixtures("quick_start")
def test_without_a_whole_checkpoint_a_run_does_not_begin_anew(tmp_path):
  settings = make_long_run(tmp_path / "run", 2)
  train.run(settings)
  lines = read_lines(tmp_path / "run")
  for path in tmp_path.glob("run/checkpoints/*/state/_METADATA"):
    path.write_text("")
  for _ in range(2):
    with pytest.raises(UserError, match="No checkpoint in .* is whole"):
      train.run(settings)
  assert read_lines(tmp_path / "run") == lines


class _Broken:
  """Puts batches on the mesh, one of them so that its loss is NaN."""

  def __init__(self, step):
    self._step, self._tokens, self._calls = step, None, 0
    self._to_global = sharding.to_global

  def __call__(self, batch, mesh):
    self._calls += 1
    tokens = batch[batch_lib.ENCODER_INPUT_TOKENS]
    if self._calls == self._step:
      self._tokens = tokens.tobytes()
    # By what it holds, so that it is the same one after a restart.
    if tokens.tobytes() == self._tokens:
      weights = batch[batch_lib.DECODER_LOSS_WEIGHTS] * np.float32(np.nan)
      batch = batch | {batch_lib.DECODER_LOSS_WEIGHTS: weights}
    return self._to_global(batch, mesh)


@pytest.mark.usefixtures("quick_start")
def test_a_loss_that_is_no_number_stops_the_run(tmp_path):
  settings = make_long_run(tmp_path / "run")
  with mock.patch.object(sharding, "to_global", _Broken(3)):
    with pytest.raises(UserError, match="loss is nan.* at step 3.*/3.json"):
      train.run(settings)
  rows = read_lines(tmp_path / "run")
  assert [row["step"] for row in rows] == [1, 2, 3]
  assert manager.find_checkpoint(tmp_path / "run").name == "2"
  record = json.loads((tmp_path / "run" / "nonfinite" / "3.json").read_text())
  ids = {name for row in record["example_ids"] for name in row}
  assert ids == {f"toy-{index}" for index in range(5)}
  with np.load(tmp_path / "run" / "nonfinite" / "3.npz") as batch:
    assert set(batch.files) == set(batch_lib.DTYPES)
  # The same command goes on from the step before, and may do so without it.
  with mock.patch.object(sharding, "to_global", _Broken(1)):
    train.run(dataclasses.replace(settings, on_nonfinite_loss="skip"))
  assert [row["step"] for row in read_lines(tmp_path / "run")] == [
    1,
    2,
    3,
    4,
    5,
  ]


@pytest.mark.usefixtures("quick_start")
def test_a_run_that_skips_a_step_resumes_as_if_never_stopped(tmp_path):
  def run(name, broken, *all_train_steps):
    for train_steps in all_train_steps:
      with mock.patch.object(sharding, "to_global", broken):
        state = train.run(
          make_long_run(tmp_path / name, train_steps, on_nonfinite_loss="skip")
        )
    return state

  expected = run("whole", _Broken(2), 5)
  found = run("parts", _Broken(2), 3, 5)
  jax.tree.map(np.testing.assert_array_equal, found, expected)
  rows = read_lines(tmp_path / "whole")
  assert rows == read_lines(tmp_path / "parts")
  assert [row["loss"] is None for row in rows] == [False, True] + 3 * [False]
  assert [row["skipped_steps"] for row in rows] == [0, 1, 1, 1, 1]
  # Adam has counted the updates that were made.
  counts = [
    int(leaf)
    for path, leaf in jax.tree_util.tree_leaves_with_path(expected.opt_state)
    if jax.tree_util.keystr(path).endswith("count")
  ]
  assert counts and set(counts) == {4}
  assert int(expected.step) == 5


@pytest.mark.usefixtures("quick_start")
def test_too_many_skipped_steps_end_the_run(tmp_path):
  with mock.patch.object(sharding, "to_global", _Broken(2)):
    with pytest.raises(UserError, match="MAX_SKIPPED_STEPS allows 0"):
      train.run(
        make_long_run(
          tmp_path / "run", on_nonfinite_loss="skip", max_skipped_steps=0
        )
      )
  assert manager.find_checkpoint(tmp_path / "run").name == "1"


@pytest.mark.usefixtures("quick_start")
def test_data_changed_under_the_run_stops_it(tmp_path, cache):
  save = hooks.CheckpointHook.save

  def change(hook, step, *arguments):
    if step == 3:
      (cache.path / "toy_label-train.array_record").unlink()
    save(hook, step, *arguments)

  with mock.patch.object(hooks.CheckpointHook, "save", change):
    with pytest.raises(UserError, match="changed under the running job"):
      train.run(make_long_run(tmp_path / "run"))
  assert manager.find_checkpoint(tmp_path / "run").name == "2"


@pytest.mark.usefixtures("quick_start")
def test_a_run_is_not_resumed_on_other_data(tmp_path, cache):
  train.run(make_long_run(tmp_path / "run", 2))
  # The same settings, names and sizes; other bytes.
  make_example = synthetic_cache.make_example

  def change(*arguments):
    example = make_example(*arguments)
    return dataclasses.replace(example, targets_text="another")

  with mock.patch.object(synthetic_cache, "make_example", change):
    other = make_cache(tmp_path / "other", 5)
  assert other.fingerprint == cache.fingerprint
  with mock.patch.object(prepare, "find_or_prepare", lambda *_: other):
    with pytest.raises(UserError, match="other bytes than those the run was"):
      train.run(make_long_run(tmp_path / "run"))


@pytest.mark.usefixtures("quick_start")
def test_a_clock_that_runs_backwards_changes_nothing(tmp_path, monkeypatch):
  expected = train.run(make_long_run(tmp_path / "whole"))
  seconds = itertools.count(2_000_000_000, -1000)
  monkeypatch.setattr(time, "time", lambda: float(next(seconds)))
  monkeypatch.setattr(time, "time_ns", lambda: next(seconds) * 10**9)
  for train_steps in (2, 5):
    found = train.run(make_long_run(tmp_path / "run", train_steps))
  jax.tree.map(np.testing.assert_array_equal, found, expected)
  assert read_lines(tmp_path / "run") == read_lines(tmp_path / "whole")
  rates = [
    row["examples_per_second"]
    for row in metric_files.read_metrics(tmp_path / "run")
  ]
  assert min(rates) > 0


def test_a_mesh_that_cannot_be_is_found_before_data_is_prepared(tmp_path):
  with (
    mock.patch.object(prepare, "find_or_prepare") as prepares,
    pytest.raises(UserError, match="MESH is"),
  ):
    train.run(make_run(tmp_path / "run", mesh={"data": 3}))
  prepares.assert_not_called()


def test_validation_lays_the_decoder_out_and_training_goes_on(tmp_path):
  cache = make_cache(tmp_path / "validated", 5, splits=("train", "validation"))

  def validate(layout):
    run = make_run(
      tmp_path / layout,
      mesh={"data": 4, "fsdp": 2},
      train_steps=4,
      eval_period=2,
      decode_layout=layout,
    )
    with mock.patch.object(prepare, "find_or_prepare", lambda *_: cache):
      train.run(run)
    lines = (tmp_path / layout / "metrics.jsonl").read_text().splitlines()
    found = [json.loads(line) for line in lines]
    return [
      {key: value for key, value in line.items() if "accuracy" in key}
      | {"step": line.get("step")}
      for line in found
      if any("accuracy" in key for key in line)
    ]

  expected = validate("as_trained")
  assert [line["step"] for line in expected] == [2, 4]
  assert validate("split") == validate("replicated") == expected


@pytest.mark.usefixtures("quick_start")
def test_a_second_run_in_the_folder_is_refused(tmp_path):
  settings = make_long_run(tmp_path / "run", 2)
  check = hooks.CheckpointHook.after_step

  def start_another(hook, step, *arguments):
    with pytest.raises(UserError, match=r"run is in use: process \d+ on host"):
      train.run(settings)
    check(hook, step, *arguments)

  with mock.patch.object(hooks.CheckpointHook, "after_step", start_another):
    train.run(settings)
  # Freed at its end.
  train.run(make_long_run(tmp_path / "run", 3))
  assert not (tmp_path / "run" / run_lock.FILE).exists()
  assert [row["step"] for row in read_lines(tmp_path / "run")] == [1, 2, 3]


@pytest.mark.parametrize("path", ["/proc/run", "/dev/null/run"])
def test_a_folder_that_cannot_be_written_is_found_before_the_data(path):
  with (
    mock.patch.object(prepare, "find_or_prepare") as prepares,
    pytest.raises(UserError, match=f"MODEL_DIR {path} cannot be written"),
  ):
    train.run(make_run(path))
  prepares.assert_not_called()


@pytest.fixture(name="validated")
def fixture_validated(tmp_path, monkeypatch):
  """Runs whose evaluations give the scores that a test puts in by step."""
  cache = make_cache(tmp_path / "valid", 5, splits=("train", "validation"))
  monkeypatch.setattr(prepare, "find_or_prepare", lambda *_: cache)
  scores: dict[int, float] = {}

  def make_evaluate_fn(*_):
    return lambda params, step: {"toy_label": {"label_accuracy": scores[step]}}

  monkeypatch.setattr(train.validation, "make_evaluate_fn", make_evaluate_fn)
  return scores


@pytest.mark.usefixtures("quick_start")
def test_a_run_that_gets_no_better_ends_early(tmp_path, validated):
  validated |= {2: 0.25, 4: 0.5, 6: 0.5, 8: 0.25, 10: 0.75, 12: 0.0}
  changes = {"eval_period": 2, "early_stopping_evals": 2, "log_period": 1}
  settings = make_run(tmp_path / "run", train_steps=12, **changes)
  state = train.run(settings)
  assert int(state.step) == 8
  assert manager.find_checkpoint(tmp_path / "run").name == "6"
  saved = {path.name for path in (tmp_path / "run" / "checkpoints").iterdir()}
  assert saved == {"6", "8"}
  # The same command does not go on, unless it is asked to.
  lines = read_lines(tmp_path / "run")
  assert int(train.run(settings).step) == 8
  assert read_lines(tmp_path / "run") == lines
  go_on = dataclasses.replace(settings, early_stopping_evals=None)
  assert int(train.run(go_on).step) == 12
  assert manager.find_checkpoint(tmp_path / "run").name == "10"


@pytest.mark.usefixtures("quick_start")
def test_a_killed_run_ends_early_where_a_whole_one_does(tmp_path, validated):
  validated |= {2: 0.25, 4: 0.5, 6: 0.5, 8: 0.25}
  changes = {"eval_period": 2, "early_stopping_evals": 2, "log_period": 1}
  whole = make_run(tmp_path / "whole", train_steps=12, **changes)
  parts = make_run(tmp_path / "parts", train_steps=12, **changes)
  expected = train.run(whole)
  with mock.patch.object(sharding, "to_global", _Broken(7)):
    with pytest.raises(UserError, match="loss is nan"):
      train.run(parts)
  found = train.run(parts)
  jax.tree.map(np.testing.assert_array_equal, found, expected)
  assert read_lines(tmp_path / "parts") == read_lines(tmp_path / "whole")


@pytest.mark.usefixtures("quick_start")
def test_the_best_step_is_kept_where_the_periods_do_not_meet(
  tmp_path, validated
):
  validated |= {2: 0.25, 4: 0.75, 6: 0.5, 7: 0.5}
  train.run(
    make_run(
      tmp_path / "run",
      train_steps=7,
      eval_period=2,
      checkpoint_period=3,
      keep_checkpoints=1,
    )
  )
  assert manager.find_checkpoint(tmp_path / "run").name == "4"
  saved = {path.name for path in (tmp_path / "run" / "checkpoints").iterdir()}
  assert saved == {"4", "7"}


def test_early_stopping_needs_something_to_stop_by(tmp_path):
  with pytest.raises(UserError, match="EARLY_STOPPING_EVALS is 2, and no task"):
    train.run(make_run(tmp_path / "run", early_stopping_evals=2))
  assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
  "changes",
  [
    {"early_stopping_evals": 0},
    {"early_stopping_evals": True},
    {"early_stopping_evals": 1, "early_stopping_min_delta": -0.1},
    {"early_stopping_evals": 1, "early_stopping_min_delta": 1.0},
    {"early_stopping_min_delta": 0.1},
    {"eval_period": True},
    {"seed": True},
  ],
)
def test_numbers_that_cannot_be_are_named(changes):
  name = next(reversed(changes))
  with pytest.raises(UserError, match=f"^{name} is "):
    make_run("run", **changes)
