"""Tests of runs/sweep_results.py: what a run wrote, read back."""

import dataclasses
import logging
import shutil
import types
from unittest import mock

import pytest
import synthetic_cache
from tiny_run import fixture_model_dir, fixture_own_model_dir  # noqa: F401

from distill_jax.data.feed.pipeline import FeedConfig
from distill_jax.data.settings import DataSettings
from distill_jax.errors import UserError
from distill_jax.run_folder import run_record
from distill_jax.runs import eval as eval_mode
from distill_jax.runs import prepare, sweep_cells, sweep_results

ARM = sweep_cells.Arm("a", {}, {4: (0,)})


def make_infos(**kinds):
  return {
    name: synthetic_cache.make_task_info(kind) for name, kind in kinds.items()
  }


def test_the_scored_task_is_that_of_the_arm_or_the_only_one():
  infos = make_infos(toy_label="label", toy_rationale="rationale")
  find = sweep_results.find_eval_task
  assert find(sweep_cells.Cell(ARM, 4, 0), infos) == "toy_label"
  cell = sweep_cells.Cell(ARM, 4, 0, eval_task="toy_label")
  assert find(cell, infos) == "toy_label"
  for eval_task in ("tow_label", "toy_rationale"):
    cell = sweep_cells.Cell(ARM, 4, 0, eval_task=eval_task)
    with pytest.raises(UserError, match=f"'a': EVAL_TASK is '{eval_task}'"):
      find(cell, infos)
  with pytest.raises(UserError, match="are: none"):
    find(sweep_cells.Cell(ARM, 4, 0), make_infos(r="rationale"))


def test_predictions_are_those_of_the_chosen_checkpoint(own_model_dir):
  run = own_model_dir
  eval_mode.run(eval_mode.EvalRun(DataSettings(), str(run)))
  results_folder = run / "eval" / "toy_label" / "test"
  (step,) = results_folder.iterdir()
  shutil.copytree(step, results_folder / "999")
  (step / "greedy" / "predictions.jsonl").write_text('{"id": "a\u2028b"}\n')
  (step / "predictions.jsonl").write_text('{"id": "b"}\n')
  read = sweep_results.read_predictions
  assert read(run, "toy_label", "test") == [{"id": "a\u2028b"}]
  # An older version wrote no folder of its own for how it decoded.
  shutil.rmtree(step / "greedy")
  assert read(run, "toy_label", "test") == [{"id": "b"}]
  with pytest.raises(UserError, match="no test results of tow_label, only of"):
    read(run, "tow_label", "test")


def test_tokens_are_counted_without_padding():
  feed = FeedConfig({"inputs": 6, "targets": 4}, 2)
  lines = [
    {"step": 2, "padding_share": 0.25},
    {"step": 3, "padding_share": 0.5},
  ]
  assert sweep_results._count_tokens(feed, lines) == 2 * 15 + 10
  assert sweep_results._count_tokens(feed, []) is None
  assert sweep_results._count_tokens(feed, [{"step": 2}]) is None


def test_the_teachers_accuracy_is_of_its_rows_where_there_is_a_teacher():
  counts = {"ok": 8, "empty": 2, "labels_right": 7, "labels_wrong": 1}
  info = types.SimpleNamespace(teacher_counts={"train": counts})
  with mock.patch.object(sweep_results, "STATUSES", ("ok", "empty")):
    assert sweep_results._find_teacher_accuracy(info) == 0.7
  none = types.SimpleNamespace(teacher_counts={})
  assert sweep_results._find_teacher_accuracy(none) is None


def test_that_the_data_of_runs_differ_is_no_news(caplog):
  logger = logging.getLogger(prepare.__name__)
  caplog.set_level("INFO", logger.name)
  with mock.patch.object(logger.parent, "propagate", True):
    with sweep_results.expecting_other_data():
      logger.info(prepare.STALE, "/cache", "settings.subsample: 1.0 -> 0.5")
      logger.info(prepare.FOUND, "/cache")
      logger.info("Preparing it")
      logger.warning(prepare.STALE, "/cache", "sources.train.jsonl: a -> b")
    logger.info(prepare.STALE, "/other", "settings.subsample: 1.0 -> 0.5")
  shown = [record.getMessage() for record in caplog.records]
  assert [text.split("(")[-1][:8] for text in shown] == [
    "Preparin", "sources.", "settings"
  ]  # fmt: skip


def test_a_run_to_start_from_is_told_from_another_in_its_place(own_model_dir):
  describe = sweep_results.describe_initial
  first = describe(str(own_model_dir))
  (step,) = (own_model_dir / "checkpoints").iterdir()
  assert first == describe(str(step))
  record = run_record.read_record(own_model_dir)
  identity = {**record.identity, "seed": record.identity["seed"] + 1}
  dataclasses.replace(record, identity=identity).write(own_model_dir)
  assert describe(str(own_model_dir)) not in (None, first)
  assert describe(None) is None
  assert describe("gs://bucket/elsewhere") is None
