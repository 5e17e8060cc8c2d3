"""Tests of sweep.py: every cell once, a report at the end, resumable."""

from unittest import mock

import pytest
from synthetic_cache import make_cache
from train_test import make_run

from distill_jax import prepare, sweep, train
from distill_jax.data.settings import DataSettings
from distill_jax.errors import UserError
from distill_jax.experiments import results


def make_sweep(folder):
  return sweep.SweepRun(
    base=make_run(folder, mixture_or_task_name="none"),
    methods=[
      ("plain", "toy_finetune", "toy_label", 8),
      ("distilled <b>", "toy_distill", "toy_label", 8),
    ],
    sizes=(4,),
    seeds=(0,),
    title="toy",
  )


@pytest.fixture(name="swept", scope="module")
def fixture_swept(tmp_path_factory):
  """A sweep of two runs, run twice; counts the trainings of each time."""
  folder = tmp_path_factory.mktemp("sweep")
  cache = make_cache(folder / "cache", 5, splits=("train", "test"))
  trained = []
  with (
    mock.patch.object(prepare, "find_or_prepare", lambda *_: cache),
    mock.patch.object(sweep, "_resize", lambda data, *_: data),
    mock.patch.object(
      train,
      "run",
      side_effect=lambda *args, run=train.run: (
        trained.append(args[0].mixture_or_task_name),
        run(*args),
      ),
    ),
  ):
    rows = sweep.run(make_sweep(folder / "out"), "SEED = 0")
    first = list(trained)
    again = sweep.run(make_sweep(folder / "out"), "SEED = 0")
  return folder / "out", rows, again, first, trained


def test_each_cell_is_trained_once_and_scored_on_test(swept):
  _, rows, again, first, trained = swept
  assert first == trained == ["toy_finetune", "toy_distill"]
  assert again == rows
  assert [row.method for row in rows] == ["plain", "distilled <b>"]
  assert all(row.num_examples == 5 for row in rows)
  assert all(len(row.correct_by_id) == 5 for row in rows)


def test_report_and_results_are_written(swept):
  folder, rows, *_ = swept
  page = (folder / "report.html").read_text()
  assert "distilled &lt;b&gt;" in page
  assert "SEED = 0" in page
  assert (folder / "accuracy.png").stat().st_size > 1000
  assert results.read_results(folder / "results.json") == rows


def test_word_problems_are_resized_by_their_own_setting():
  data = DataSettings(word_problems={"seed": 3})
  resized = sweep._resize(data, "word_problems_distill", 40)
  assert resized.word_problems == {"seed": 3, "num_train_examples": 40}


def test_more_examples_than_there_are_is_an_error():
  with (
    mock.patch.object(sweep.datasets, "load_records", lambda *_: [None] * 10),
    pytest.raises(UserError, match="asks for 11 .* has 10"),
  ):
    sweep._resize(DataSettings(), "svamp_distill", 11)


def test_a_smaller_set_is_a_share_of_the_examples():
  with mock.patch.object(sweep.datasets, "load_records", lambda *_: [None] * 8):
    assert sweep._resize(DataSettings(), "svamp_distill", 2).subsample == 0.25
