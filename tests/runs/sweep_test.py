"""Tests of runs/sweep.py.

Every run once, a report after each, growing sweeps.
"""

import json
import shutil
from unittest import mock

import pytest
import toy_sweep
from synthetic_cache import make_cache

import gin
from distill_jax.checkpoint import manager
from distill_jax.config import gin_bindings
from distill_jax.errors import UserError
from distill_jax.experiments import results
from distill_jax.partitioning import mesh as mesh_lib
from distill_jax.run_folder import run_identity, run_record
from distill_jax.runs import prepare, sweep, sweep_report, sweep_results, train
from distill_jax.training import loop

_NAMES = ["plain-4-seed0", "distilled-b-4-seed0"]


def trained(folder, **kwargs):
  """Runs a sweep; returns its exit code and the folders that it trained."""
  seen = []

  def note_and_run(*args, run=train.run):
    seen.append(args[0].model_dir.rpartition("/")[2])
    return run(*args)

  with mock.patch.object(train, "run", side_effect=note_and_run):
    code = toy_sweep.run(folder, **kwargs)
  return code, seen


def read_rows(folder):
  return results.read_results(folder / "results.json")


def answers(folder):
  return [
    (row.arm, row.num_train_examples, row.seed, row.correct_by_id)
    for row in read_rows(folder)
  ]


@pytest.fixture(name="swept", scope="module")
def fixture_swept(tmp_path_factory):
  """A sweep of two runs that is finished; gives its folder and what it did."""
  folder = tmp_path_factory.mktemp("sweep")
  with toy_sweep.toy_data(folder / "cache"):
    found = trained(folder / "out")
  return folder / "out", *found


@pytest.fixture(name="own")
def fixture_own(swept, tmp_path):
  """A copy of the finished sweep, with its data, that a test may change."""
  shutil.copytree(swept[0], tmp_path / "out")
  with toy_sweep.toy_data(tmp_path / "cache"):
    yield tmp_path / "out"


def test_each_run_is_trained_and_scored_on_test(swept):
  folder, code, seen = swept
  assert (code, seen) == (0, _NAMES)
  rows = read_rows(folder)
  assert [row.arm for row in rows] == ["plain", "distilled <b>"]
  # The labels of examples 2 to 4 are blanks, and blanks are no answer.
  assert all(list(row.correct_by_id) == ["toy-0", "toy-1"] for row in rows)
  # Those there were, not those that were asked for.
  assert [row.num_train_examples for row in rows] == [5, 5]
  page = (folder / "report.html").read_text()
  assert "distilled &lt;b&gt;" in page
  assert (folder / "accuracy.png").stat().st_size > 1000


def test_a_finished_sweep_trains_nothing_and_reads_no_parameters(own):
  before = answers(own)
  with mock.patch.object(
    manager.Checkpoints, "restore", side_effect=AssertionError
  ):
    assert trained(own) == (0, [])
  assert answers(own) == before


@pytest.mark.parametrize(
  ("changes", "expected"),
  [
    ({"SEEDS": (0, 1)}, ["plain-4-seed1", "distilled-b-4-seed1"]),
    ({"SIZES": (4, 3)}, ["plain-3-seed0", "distilled-b-3-seed0"]),
    (
      {"ARMS": {**toy_sweep.ARMS, "new": toy_sweep.ARMS["distilled <b>"]}},
      ["new-4-seed0"],
    ),
    (
      {
        "ARMS": {
          **toy_sweep.ARMS,
          "plain": {**toy_sweep.ARMS["plain"], "SEEDS": (0, 7)},
        }
      },
      ["plain-4-seed7"],
    ),
    ({"TITLE": "Other", "NOTES": ("so",), "SEED_SD": 0.03}, []),
    ({"ARMS": {"plain": toy_sweep.ARMS["plain"]}}, []),
    ({"COMPARISONS": (("plain", "distilled <b>"),), "LOG_PERIOD": 7}, []),
    # An arm's setting that says what the sweep says is no other setting.
    (
      {
        "RATIONALE_LOSS_WEIGHT": 0.5,
        "ARMS": {
          "plain": {**toy_sweep.ARMS["plain"], "RATIONALE_LOSS_WEIGHT": 1.0},
          "distilled <b>": {"MIXTURE_OR_TASK_NAME": "toy_distill"},
        },
      },
      [],
    ),
  ],
)
def test_a_finished_sweep_grows_by_what_is_new(own, changes, expected):
  before = answers(own)
  assert trained(own, **changes) == (0, expected)
  after = answers(own)
  arms = changes.get("ARMS", toy_sweep.ARMS)
  assert all(row in after for row in before if row[0] in arms)
  title = changes.get("TITLE", "toy")
  assert f"<h1>{title}</h1>" in (own / "report.html").read_text()


@pytest.mark.parametrize(
  ("changes", "named"),
  [
    ({"LEARNING_RATE": 2e-2}, "learning_rates: .*0.01.* before, .*0.02.* now"),
    (
      {"TRAIN_STEPS": 2, "SCHEDULE": "constant"},
      "train_steps: 1 before, 2 now",
    ),
    ({"EVAL_PERIOD": 50}, "eval_period: 1000 before, 50 now"),
    ({"SPLIT": "validation"}, "split: test before, validation now"),
    (
      {
        "ARMS": {
          **toy_sweep.ARMS,
          "plain": {**toy_sweep.ARMS["plain"], "BATCH_SIZE": 16},
        },
        "SEEDS": (0, 1),
      },
      "plain-4-seed0: feed.batch_rows: 8 before, 16 now\nNothing",
    ),
  ],
)
def test_a_run_of_other_settings_is_refused_before_any_trains(
  own, changes, named
):
  before = answers(own)
  with pytest.raises(UserError, match=named) as raised:
    trained(own, **changes)
  assert "--overwrite" in str(raised.value)
  assert answers(own) == before
  assert not (own / "plain-4-seed1").exists()


def test_all_runs_of_other_settings_are_named(own):
  with pytest.raises(UserError, match="(?s)plain-4-seed0: .*distilled-b-4-see"):
    trained(own, MAX_GRAD_NORM=0.01)


def test_a_begun_run_of_other_settings_is_refused_too(own):
  (own / "plain-4-seed0" / "result.json").unlink()
  with pytest.raises(UserError, match="plain-4-seed0: objective.z_loss: 0.0"):
    trained(own, Z_LOSS=0.1)


def test_results_of_an_earlier_version_are_named(own):
  path = own / "plain-4-seed0" / "result.json"
  content = json.loads(path.read_text())
  path.write_text(json.dumps({**content, "settings": "SEED = 0"}))
  with pytest.raises(UserError, match="plain-4-seed0: .*earlier version"):
    trained(own)
  path.write_text("{}")
  with pytest.raises(UserError, match="result.json is no result of a run"):
    trained(own)


def test_overwrite_trains_all_again(own):
  assert trained(own, overwrite=True, LEARNING_RATE=2e-2) == (0, _NAMES)


def test_overwrite_that_is_killed_leaves_no_old_result(own):
  with (
    mock.patch.object(train, "run", side_effect=KeyboardInterrupt),
    pytest.raises(KeyboardInterrupt),
  ):
    toy_sweep.run(own, overwrite=True)
  # Whatever the order of the runs: what is trained now takes nothing old.
  assert not list(own.glob("*/result.json"))
  assert trained(own) == (0, _NAMES)
  assert "was_resumed" not in read_rows(own)[-1].metrics


def test_a_sweep_killed_in_evaluation_goes_on(own, swept):
  run = own / "plain-4-seed0"
  (run / "result.json").unlink()
  results_folder = run / "eval" / "toy_label" / "test"
  (step,) = results_folder.iterdir()
  leftover = step.rename(results_folder / ".writing-0a")
  (leftover / "predictions.jsonl").write_text('{"id": ')
  assert trained(own) == (0, ["plain-4-seed0"])
  assert answers(own) == answers(swept[0])


def test_the_config_of_a_run_is_that_run_by_itself(own):
  found = run_record.read_record(own / _NAMES[1])
  gin.clear_config()
  gin_bindings.parse(
    [str(own / _NAMES[1] / "config.gin")], [], [str(toy_sweep.ROOT)]
  )
  settings = gin_bindings.build(train.TrainRun)
  cache = prepare.find_or_prepare("toy_distill")
  wanted = run_identity.make_record(
    settings, cache, {}, mesh_lib.make_mesh(settings.mesh)
  )
  run_record.check_resumable(found, wanted, own)
  assert wanted.identity == found.identity
  # The recorded folder is that of the fixture this one is a copy of.
  assert settings.model_dir.endswith(f"/{_NAMES[1]}")
  assert (settings.data.subsample, settings.train_steps) == (0.04, 1)


@pytest.mark.parametrize("kind", ["loss", "crash"])
def test_a_run_that_fails_is_listed_and_the_others_go_on(
  tmp_path, kind, caplog, capsys
):
  arms = {
    **toy_sweep.ARMS,
    "bad": {
      **toy_sweep.ARMS["distilled <b>"],
      # A rate at which no number is left.
      "LEARNING_RATE": 1e38 if kind == "loss" else 1e-2,
      "TRAIN_STEPS": 3 if kind == "loss" else 1,
    },
    "last": toy_sweep.ARMS["distilled <b>"],
  }
  run_loop = loop.run_loop

  def crash(*args):
    if kind == "crash" and calls.append(1) is None and len(calls) == 3:
      raise ValueError("no such row")
    return run_loop(*args)

  calls = []
  logger = sweep.logging.getLogger("distill_jax")
  with (
    toy_sweep.toy_data(tmp_path / "cache"),
    mock.patch.object(loop, "run_loop", crash),
    mock.patch.object(logger, "propagate", True),
  ):
    code, seen = trained(tmp_path / "out", ARMS=arms)
    assert code == sweep.SOME_FAILED == 1
    assert seen[2:] == ["bad-4-seed0", "last-4-seed0"]
    arms_there = [row.arm for row in read_rows(tmp_path / "out")]
    assert arms_there == ["plain", "distilled <b>", "last"]
    reason = {"loss": "is nan at step", "crash": "ValueError: no such row"}[
      kind
    ]
    page = (tmp_path / "out" / "report.html").read_text()
    shown, told = capsys.readouterr()
    assert "1 of 4 runs failed; the same command tries" in told
    assert "  bad, 4 examples, seed 0: " in told
    for text in (page, shown, told, caplog.text):
      assert reason in text
    if kind == "crash":
      # It is tried again by the same command, and nothing else is.
      assert trained(tmp_path / "out", ARMS=arms) == (0, ["bad-4-seed0"])
      assert len(read_rows(tmp_path / "out")) == 4


def test_a_data_set_that_does_not_load_fails_its_own_runs(own):
  def resize(data, task, size):
    if task == "broken_label":
      raise ValueError("row 3 has no question")
    return toy_sweep.dataclasses.replace(data, subsample=size / 100)

  arms = {"broken": {"MIXTURE_OR_TASK_NAME": "broken_label"}, **toy_sweep.ARMS}
  with mock.patch.object(sweep.sweep_cells, "_resize", resize):
    assert trained(own, ARMS=arms) == (1, [])
  assert "row 3 has no question" in (own / "report.html").read_text()


def test_a_result_outlives_data_that_are_out_of_reach_for_once(own):
  with mock.patch.object(prepare, "find_or_prepare") as find:
    find.side_effect = UserError("The folder of data is not mounted.")
    assert trained(own)[0] == 1
  assert trained(own) == (0, [])


def test_a_report_that_cannot_be_written_stops_no_run(own):
  with mock.patch.object(
    sweep_report.SweepReport, "write", side_effect=ValueError("no such glyph")
  ):
    assert trained(own, SEEDS=(0, 1))[0] == 0
  assert len(read_rows(own)) == 4


def test_a_pretrained_student_that_was_replaced_makes_other_runs(own):
  with mock.patch.object(
    sweep_results, "describe_initial", side_effect=lambda _: described
  ):
    described = "run a"
    (own / _NAMES[0] / "result.json").unlink()
    assert trained(own) == (0, [_NAMES[0]])
    described = "run b"
    with pytest.raises(UserError, match="initial_checkpoint: run a before"):
      trained(own)
    # One that is not here now is not compared.
    described = None
    assert trained(own) == (0, [])


@pytest.mark.parametrize(
  "content", ['{"settings": {}, "result": {}}', '{"settings": [], "result": 1}']
)
def test_a_broken_result_is_named(own, content):
  (own / _NAMES[0] / "result.json").write_text(content)
  with pytest.raises(UserError, match="result.json is no result of a run"):
    trained(own)


def test_a_pair_that_is_compared_twice_is_refused_before_any_run(own):
  pairs = (("plain", "distilled <b>"), ("distilled <b>", "plain"))
  with pytest.raises(UserError, match="compared twice"):
    toy_sweep.build(own, COMPARISONS=pairs)


def test_a_report_is_written_after_each_run(tmp_path):
  seen = []
  write = sweep_report.SweepReport.write

  def note(self, cells, rows, failures):
    write(self, cells, rows, failures)
    page = (tmp_path / "out" / "report.html").read_text()
    seen.append((len(rows), page.count("distilled &lt;b&gt;") > 0))

  with (
    toy_sweep.toy_data(tmp_path / "cache"),
    mock.patch.object(sweep_report.SweepReport, "write", note),
  ):
    toy_sweep.run(tmp_path / "out")
  assert [count for count, _ in seen] == [1, 2, 2]


def test_killed_twice_and_finished_it_is_as_one_never_stopped(tmp_path):
  changes = {"SEEDS": (0, 1), "TRAIN_STEPS": 3, "CHECKPOINT_PERIOD": 1}
  stop_at = []
  run_loop = loop.run_loop

  def run_and_die(state, batches, *args):
    def dying():
      for batch in batches:
        if stop_at and stop_at[0] == 0:
          raise SystemExit(143)
        if stop_at:
          stop_at[0] -= 1
        yield batch

    return run_loop(state, dying(), *args)

  with toy_sweep.toy_data(tmp_path / "cache"):
    toy_sweep.run(tmp_path / "whole", **changes)
    with mock.patch.object(loop, "run_loop", run_and_die):
      for steps in (5, 3):
        stop_at[:] = [steps]
        with pytest.raises(SystemExit):
          toy_sweep.run(tmp_path / "out", **changes)
      stop_at[:] = []
      assert toy_sweep.run(tmp_path / "out", **changes) == 0
  assert answers(tmp_path / "out") == answers(tmp_path / "whole")
  resumed = [
    bool(row.metrics.get(results.RESUMED))
    for row in read_rows(tmp_path / "out")
  ]
  assert resumed.count(True) == 2


def test_validation_is_scored_and_test_left_unread(tmp_path):
  splits = ("train", "validation", "test")
  with toy_sweep.toy_data(tmp_path / "cache", splits):
    toy_sweep.run(
      tmp_path / "out",
      SPLIT="validation",
      ARMS={"distilled": toy_sweep.ARMS["distilled <b>"]},
    )
  (row,) = read_rows(tmp_path / "out")
  folders = (tmp_path / "out" / "distilled-4-seed0" / "eval").glob("*/*")
  assert {path.name for path in folders} == {"validation"}
  assert row.num_examples == 2
  metrics = row.metrics
  assert metrics["validation_accuracy"] == row.num_correct / 2
  assert metrics["best_step"] == metrics["last_step"] == 1
  assert metrics["validation_rationale_loss"] > 0
  assert metrics["tokens"] > 0
  assert metrics["rationale_accuracy"] == 0


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
  monkeypatch.setattr(gin.config, "_LOCATION_PREFIXES", [""])
  cache = make_cache(tmp_path / "cache", 5)
  monkeypatch.setattr(prepare, "find_or_prepare", lambda *_: cache)
  with (
    mock.patch.object(train, "run", side_effect=KeyboardInterrupt) as called,
    mock.patch.object(sweep.sweep_results, "find_eval_task"),
    pytest.raises(KeyboardInterrupt),
  ):
    toy_sweep.run(
      tmp_path / "out",
      ARMS={
        "plain": {"MIXTURE_OR_TASK_NAME": "own_sweep_finetune"},
      },
      MIXTURE_OR_TASK_MODULE="own_sweep_tasks",
    )
  assert called.call_args.args[0].data.subsample == 0.4


def test_a_task_module_that_is_not_there_is_named(own):
  with pytest.raises(UserError, match="MODULE 'nowhere' cannot be imported"):
    toy_sweep.run(own, MIXTURE_OR_TASK_MODULE="nowhere")


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"SPLIT": "train"}, "SPLIT is 'train'; it must be one of"),
    ({"SEED_SD": 3.0}, "SEED_SD is 3.0; it must be .*: a share"),
    ({"COMPARISONS": (("plain",),)}, r"COMPARISONS has \('plain',\); .* pair"),
    ({"COMPARISONS": ("plain",)}, "COMPARISONS"),
    ({"COMPARISONS": (("plain", "plian"),)}, "has 'plian', and no arm"),
    ({"METHODS": (("a", "b", "b", 8),)}, "METHODS is no setting any more"),
  ],
)
def test_settings_that_make_no_sweep_are_named(own, changes, message):
  with pytest.raises(UserError, match=message):
    toy_sweep.build(own, **changes)
