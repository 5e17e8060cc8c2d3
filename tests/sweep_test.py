"""Tests of sweep.py: every cell once, a report at the end, resumable."""

import dataclasses
import shutil
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


@pytest.fixture(name="own_sweep")
def fixture_own_sweep(swept, tmp_path):
  """A copy of the finished sweep that a test may damage."""
  return shutil.copytree(swept[0], tmp_path / "out")


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
  # The labels of examples 2 to 4 are blanks, and blanks are no answer.
  assert all(row.num_examples == 2 for row in rows)
  assert all(list(row.correct_by_id) == ["toy-0", "toy-1"] for row in rows)


def test_report_and_results_are_written(swept):
  folder, rows, *_ = swept
  page = (folder / "report.html").read_text()
  assert "distilled &lt;b&gt;" in page
  assert "SEED = 0" in page
  assert (folder / "accuracy.png").stat().st_size > 1000
  assert results.read_results(folder / "results.json") == rows


def test_results_name_the_examples_there_were_not_those_asked_for(swept):
  _, rows, *_ = swept
  assert [row.num_train_examples for row in rows] == [5, 5]


def test_config_of_a_run_says_what_is_not_the_sweeps(swept):
  folder, *_ = swept
  text = (folder / "distilled-b-4-seed0" / "config.gin").read_text()
  comments, settings = text.rsplit("\n", 1)
  assert settings == "SEED = 0"
  assert all(line.startswith("#") for line in comments.splitlines())
  for part in ("'toy_distill'", "SEED = 0", "BATCH_SIZE = 8", "  4 training"):
    assert part in comments


@pytest.mark.parametrize(
  ("batch_rows", "config"), [(8, "SEED = 0\nTRAIN_STEPS = 9"), (6, "SEED = 0")]
)
def test_results_of_other_settings_are_not_reported(swept, batch_rows, config):
  settings = make_sweep(swept[0])
  methods = [(*method[:3], batch_rows) for method in settings.methods]
  settings = dataclasses.replace(settings, methods=methods)
  with pytest.raises(UserError, match=r"plain-4-seed0 holds .* --overwrite"):
    sweep.run(settings, config)


def test_a_sweep_killed_in_evaluation_goes_on(own_sweep, swept):
  run = own_sweep / "plain-4-seed0"
  (run / "result.json").unlink()
  results_folder = run / "eval" / "toy_label" / "test"
  (step,) = results_folder.iterdir()
  leftover = step.rename(results_folder / ".writing-0a")
  (leftover / "predictions.jsonl").write_text('{"id": ')
  cache = make_cache(own_sweep / "cache", 5, splits=("train", "test"))
  with (
    mock.patch.object(prepare, "find_or_prepare", lambda *_: cache),
    mock.patch.object(sweep, "_resize", lambda data, *_: data),
  ):
    rows = sweep.run(make_sweep(own_sweep), "SEED = 0")
  assert [row.correct_by_id for row in rows] == [
    row.correct_by_id for row in swept[1]
  ]


def test_overwrite_that_is_killed_leaves_no_old_result(own_sweep):
  with (
    mock.patch.object(train, "run", side_effect=KeyboardInterrupt),
    mock.patch.object(sweep, "_resize", lambda data, *_: data),
    pytest.raises(KeyboardInterrupt),
  ):
    sweep.run(make_sweep(own_sweep), "SEED = 0", overwrite=True)
  assert not (own_sweep / "plain-4-seed0" / "result.json").exists()


def test_predictions_are_those_of_the_chosen_checkpoint(own_sweep):
  run = own_sweep / "plain-4-seed0"
  results_folder = run / "eval" / "toy_label" / "test"
  (step,) = results_folder.iterdir()
  shutil.copytree(step, results_folder / "999")
  (step / "greedy" / "predictions.jsonl").write_text('{"id": "a\u2028b"}\n')
  (step / "predictions.jsonl").write_text('{"id": "b"}\n')
  assert sweep._read_predictions(run, "toy_label") == [{"id": "a\u2028b"}]
  # An older version wrote no folder of its own for how it decoded.
  shutil.rmtree(step / "greedy")
  assert sweep._read_predictions(run, "toy_label") == [{"id": "b"}]


def test_a_label_task_that_was_not_evaluated_is_named(swept):
  with pytest.raises(UserError, match="no test results of tow_label, only of"):
    sweep._read_predictions(swept[0] / "plain-4-seed0", "tow_label")


def test_methods_on_the_same_task_have_their_own_folders(tmp_path):
  folders = {
    sweep._cell_folder(tmp_path, sweep.Method(name, "toy", "toy", rows), 4, 0)
    for name, rows in (("Few rows", 2), ("many rows", 8))
  }
  assert {folder.name for folder in folders} == {
    "few-rows-4-seed0",
    "many-rows-4-seed0",
  }


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"methods": ()}, r"METHODS is \(\)"),
    ({"methods": ("plain", "toy", "toy", 8)}, "METHODS has 'plain'; .* four"),
    ({"methods": [("plain", "toy", 8)]}, "METHODS has .* four values"),
    ({"methods": [("A b", "x", "x", 8), ("a-B", "y", "y", 8)]}, "METHODS has"),
    ({"sizes": ()}, r"SIZES is \(\)"),
    ({"sizes": 250}, "SIZES is 250; it must be a list"),
    ({"sizes": (4, 4)}, "SIZES has .* twice"),
    ({"seeds": []}, r"SEEDS is \[\]"),
  ],
)
def test_settings_that_make_no_sweep_are_named(tmp_path, changes, message):
  with pytest.raises(UserError, match=message):
    dataclasses.replace(make_sweep(tmp_path), **changes)


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


def test_a_data_set_of_ones_own_is_registered_before_its_size_is_asked(
  tmp_path, monkeypatch
):
  (tmp_path / "own_sweep_tasks.py").write_text(
    "from distill_jax.data import datasets\n"
    "from distill_jax.data.records import Record\n"
    "def load(split, settings):\n"
    "  return [Record(str(i), 'q', 'yes', 'so') for i in range(10)]\n"
    "datasets.register_dataset(datasets.DatasetSpec(\n"
    "  'own_sweep', load, 'exact_match', lambda _: []))\n"
  )
  monkeypatch.syspath_prepend(tmp_path)
  settings = make_sweep(tmp_path / "out")
  settings = dataclasses.replace(
    settings,
    base=dataclasses.replace(settings.base, task_module="own_sweep_tasks"),
    methods=[("plain", "own_sweep_finetune", "own_sweep_label", 8)],
  )
  with (
    mock.patch.object(train, "run", side_effect=KeyboardInterrupt) as trained,
    pytest.raises(KeyboardInterrupt),
  ):
    sweep.run(settings, "SEED = 0")
  assert trained.call_args.args[0].data.subsample == 0.4


def test_a_task_module_that_is_not_there_is_named(tmp_path):
  settings = make_sweep(tmp_path / "out")
  settings = dataclasses.replace(
    settings, base=dataclasses.replace(settings.base, task_module="nowhere")
  )
  with pytest.raises(UserError, match="MODULE 'nowhere' cannot be imported"):
    sweep.run(settings, "SEED = 0")


def test_that_the_data_of_runs_differ_is_no_news(caplog):
  logger = sweep.logging.getLogger(prepare.__name__)
  caplog.set_level("INFO", logger.name)
  with mock.patch.object(logger.parent, "propagate", True):
    with sweep._expecting_other_data():
      logger.info(prepare.STALE, "/cache", "settings.subsample: 1.0 -> 0.5")
      logger.info("Preparing it")
      logger.warning(prepare.STALE, "/cache", "sources.train.jsonl: a -> b")
    logger.info(prepare.STALE, "/other", "settings.subsample: 1.0 -> 0.5")
  shown = [record.getMessage() for record in caplog.records]
  assert [text.split("(")[-1][:8] for text in shown] == [
    "Preparin", "sources.", "settings"
  ]  # fmt: skip
