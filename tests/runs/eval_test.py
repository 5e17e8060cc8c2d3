"""Tests of runs/eval.py: what it writes, where, and what it refuses."""

import dataclasses
import json
import logging
import pathlib
import shutil
from unittest import mock

import pytest
import run_settings
import tiny_run
from synthetic_cache import make_cache
from tiny_run import fixture_model_dir as fixture_model_dir
from tiny_run import fixture_own_model_dir as fixture_own_model_dir

from distill_jax.data import vocab
from distill_jax.data.settings import DataSettings
from distill_jax.decoding.strategy import DecodingConfig
from distill_jax.errors import UserError
from distill_jax.evaluation import result_folder
from distill_jax.runs import convert, prepare, run_data
from distill_jax.runs import eval as eval_mode


def _make_run(**changes):
  settings = {"data": DataSettings(), "mesh": tiny_run.MESH, "batch_rows": 4}
  return eval_mode.EvalRun(**(settings | changes))


def _read_rows(folder):
  lines = (folder / "predictions.jsonl").read_text().split("\n")
  assert lines.pop() == ""
  return [json.loads(line) for line in lines]


def test_metrics_and_predictions_of_every_task(own_model_dir, capsys, caplog):
  results = eval_mode.run(_make_run(model_dir=str(own_model_dir)))
  assert set(results) == {"toy_label/test", "toy_rationale/test"}
  printed = capsys.readouterr().out
  for name, metrics in results.items():
    task, split = name.split("/")
    step_folder = own_model_dir / "eval" / task / split / "2"
    folder = step_folder / "greedy"
    assert json.loads((folder / "metrics.json").read_text()) == metrics
    assert [path.name for path in step_folder.parent.iterdir()] == ["2"]
    assert [path.name for path in step_folder.iterdir()] == ["greedy"]
    rows = _read_rows(folder)
    assert [row["id"] for row in rows] == [f"toy-{i}" for i in range(5)]
    assert [row["input"] for row in rows] == [f"question {i}" for i in range(5)]
    assert metrics["loss"] > 0
    assert f"{name} at step 2" in printed
  labels = _read_rows(
    own_model_dir / "eval" / "toy_label" / "test" / "2" / "greedy"
  )
  # The label of example i is the byte 10 + i - 3.
  assert [row["target"] for row in labels] == [chr(7 + i) for i in range(5)]
  # Those of examples 2 to 4 are blanks, and blanks are no answer.
  assert [row["correct"] is None for row in labels] == [False] * 2 + [True] * 3
  num_correct = sum(row["correct"] for row in labels[:2])
  metrics = results["toy_label/test"]
  assert metrics["num_correct"] == num_correct
  assert metrics["num_examples"] == 2
  assert metrics["num_gold_outside_label_set"] == 3
  assert f"{num_correct} of 2 right" in printed
  assert "left out: 3 gold labels are no answer" in printed
  assert "3 of the 5 gold labels of toy_label/test are no answer" in caplog.text
  assert "words for ROUGE: ascii_words, for BLEU: 13a" in printed

  with pytest.raises(UserError, match="test/2/greedy exists. Add --overwri"):
    eval_mode.run(_make_run(model_dir=str(own_model_dir)))
  limited = _make_run(model_dir=str(own_model_dir), max_examples=1)
  results = eval_mode.run(limited)
  assert results["toy_label/test"]["num_examples"] == 1
  folder = own_model_dir / "eval" / "toy_label" / "test" / "2"
  assert len(_read_rows(folder / "greedy_max1")) == 1
  assert len(_read_rows(folder / "greedy")) == 5
  eval_mode.run(_make_run(model_dir=str(own_model_dir)), overwrite=True)
  assert len(_read_rows(folder / "greedy_max1")) == 1


class _Evaluator:
  """Stands in where only the files around an evaluation are of interest."""

  decoding = decode_layout = None

  def __init__(self, *arguments):
    _Evaluator.decoding, _Evaluator.decode_layout = arguments[-2:]

  def evaluate(self, params, examples, info, choices=None):
    return {"num_examples": len(examples)}, []


@pytest.fixture(name="no_model")
def fixture_no_model(monkeypatch):
  monkeypatch.setattr(eval_mode, "Evaluator", _Evaluator)


def test_a_checkpoint_finds_its_run(own_model_dir, no_model):
  path = str(own_model_dir / "checkpoints" / "2")
  eval_mode.run(_make_run(checkpoint_path=path))
  assert (
    own_model_dir / "eval" / "toy_label" / "test" / "2" / "greedy"
  ).is_dir()


def test_results_stay_with_their_checkpoint_where_both_are_given(
  own_model_dir, tmp_path, no_model
):
  path = str(own_model_dir / "checkpoints" / "2")
  other = tmp_path / "other"
  eval_mode.run(_make_run(checkpoint_path=path, model_dir=str(other)))
  assert (
    own_model_dir / "eval" / "toy_label" / "test" / "2" / "greedy"
  ).is_dir()
  assert not other.exists()


def test_metrics_say_what_they_are_of(own_model_dir, no_model):
  settings = _make_run(
    model_dir=str(own_model_dir),
    decoding=DecodingConfig(num_beams=3),
    decode_layout="replicated",
    max_examples=2,
  )
  eval_mode.run(settings)
  assert _Evaluator.decoding == settings.decoding
  assert _Evaluator.decode_layout == settings.decode_layout
  folder = own_model_dir / "eval/toy_label/test/2/beam3_alpha0.6_max2"
  record = json.loads((own_model_dir / "run.json").read_text())
  assert json.loads((folder / "metrics.json").read_text()) == {
    "num_examples": 2,
    "checkpoint": str(own_model_dir / "checkpoints" / "2"),
    "prediction": "generate",
    "decoding": {
      "strategy": "beam",
      "num_beams": 3,
      "length_penalty": 0.6,
      "max_decode_length": None,
    },
    "max_examples": 2,
    "token_cache": record["identity"]["token_cache"],
    "feature_lengths": {"inputs": 32, "targets": 12},
    "settings": {},
  }


@pytest.fixture(name="change_cache")
def fixture_change_cache(monkeypatch):
  """Returns what changes tasks or identity of the run's token cache."""
  open_cache = run_data.open_cache

  def change(change_fn):
    def open_changed(*arguments):
      cache = open_cache(*arguments)
      change_fn(cache)
      return cache

    monkeypatch.setattr(run_data, "open_cache", open_changed)

  return change


def _close_label_set(cache):
  """Lets labels be chosen from those of examples 0 and 1."""
  cache.tasks["toy_label"] = dataclasses.replace(
    cache.tasks["toy_label"], label_set=(chr(7), chr(8))
  )


def test_labels_are_ranked_and_rationales_decoded(
  own_model_dir, change_cache, capsys
):
  change_cache(_close_label_set)
  settings = _make_run(model_dir=str(own_model_dir), prediction="rank")
  results = eval_mode.run(settings)
  label, rationale = results["toy_label/test"], results["toy_rationale/test"]
  assert (label["prediction"], label["decoding"]) == ("rank", None)
  assert rationale["prediction"] == "generate"
  assert rationale["decoding"]["strategy"] == "greedy"
  assert label["num_unparsed"] == 0
  rows = _read_rows(own_model_dir / "eval/toy_label/test/2/rank")
  for row in rows:
    assert "finish_reason" not in row  # Nothing was decoded.
    assert row["choices"] == [chr(7), chr(8)]
    first, second = row["choice_log_likelihoods"]
    assert row["prediction"] == row["choices"][second > first]
    is_right = row["prediction"] == row["target"]
    assert row["correct"] == (is_right if row["target"] in "\x07\x08" else None)
  assert "toy_label/test at step 2, choices ranked" in capsys.readouterr().out


def test_a_task_without_choices_is_told_before_the_work(
  own_model_dir, monkeypatch
):
  monkeypatch.setattr(eval_mode, "Evaluator", None)
  settings = _make_run(model_dir=str(own_model_dir), prediction="rank")
  with pytest.raises(UserError, match="toy_label has no answer choices"):
    eval_mode.run(settings)


@pytest.mark.parametrize(
  "tasks, decoding, told",
  [
    (["toy_rationale"], DecodingConfig(), "no labels to evaluate"),
    (
      ["toy_label"],
      DecodingConfig(num_beams=3),
      "nothing reads.*'num_beams': 3",
    ),
  ],
)
def test_what_ranking_would_ignore(
  own_model_dir, change_cache, no_model, tasks, decoding, told
):
  def change(cache):
    _close_label_set(cache)
    for name in cache.tasks.keys() - set(tasks):
      del cache.tasks[name]

  change_cache(change)
  settings = _make_run(
    model_dir=str(own_model_dir), prediction="rank", decoding=decoding
  )
  with pytest.raises(UserError, match=told):
    eval_mode.run(settings)


@pytest.mark.parametrize(
  "changes, told",
  [
    ({"prediction": "choose"}, "prediction is 'choose'; .*'rank'"),
    (
      {"decoding": DecodingConfig("sample", num_samples=2)},
      "2 samples of each input.*eval takes one",
    ),
  ],
)
def test_settings_that_cannot_be(changes, told):
  with pytest.raises(UserError, match=told):
    _make_run(**changes)


def _set_settings(cache):
  cache.identity["settings"] |= {"subsample": 0.5, "splits": ["train", "test"]}


def test_data_settings_that_are_not_the_runs_are_refused(
  own_model_dir, no_model, change_cache
):
  change_cache(_set_settings)
  for data, told in (
    (DataSettings(subsample=0.25), "not trained with SUBSAMPLE = 0.25"),
    (
      DataSettings(label_prefix="L:", vocab_path="bytes"),
      "not trained with LABEL_PREFIX = 'L:'\\. .* Add MIXTURE_OR_TASK_NAME",
    ),
    # The vocabulary that ships, by its path.
    (
      DataSettings(vocab_path=vocab.load_vocabulary(None).path),
      "not trained with VOCAB_PATH",
    ),
  ):
    with pytest.raises(UserError, match=told):
      eval_mode.run(_make_run(model_dir=str(own_model_dir), data=data))


def test_data_settings_of_the_run_may_be_repeated(
  own_model_dir, no_model, change_cache, caplog
):
  change_cache(_set_settings)
  data = DataSettings(
    subsample=0.5, splits=("train", "test"), vocab_path="bytes"
  )
  path = json.loads((own_model_dir / "run.json").read_text())[
    "token_cache_path"
  ]
  eval_mode.run(
    _make_run(
      model_dir=str(own_model_dir),
      data=data,
      cache_dir=str(pathlib.Path(path).parent),
    )
  )
  assert "nothing reads" not in caplog.text


def test_what_only_says_where_files_lie_is_named(
  own_model_dir, no_model, caplog, monkeypatch
):
  with caplog.at_level(logging.WARNING):
    eval_mode.run(
      _make_run(
        model_dir=str(own_model_dir),
        data=DataSettings(data_dir="/data"),
        cache_dir="/caches",
        task_module="my_tasks",
      )
    )
  assert (
    "nothing reads DATA_DIR, CACHE_DIR, MIXTURE_OR_TASK_MODULE:" in caplog.text
  )
  # From the environment it was not given to this command.
  caplog.clear()
  monkeypatch.setenv("DISTILL_JAX_DATA_DIR", "/data")
  eval_mode.run(_make_run(model_dir=str(own_model_dir)), overwrite=True)
  assert "nothing reads" not in caplog.text


def test_what_cannot_be_written_is_told_before_the_work(
  own_model_dir, monkeypatch
):
  monkeypatch.setattr(eval_mode, "Evaluator", None)
  (own_model_dir / "eval").write_text("a file where a folder should be")
  with pytest.raises(UserError, match="test/2/greedy cannot be written"):
    eval_mode.run(_make_run(model_dir=str(own_model_dir)))


def test_what_a_killed_evaluation_left_is_removed(own_model_dir, no_model):
  folder = own_model_dir / "eval" / "toy_label" / "test" / "2"
  left = folder / ".writing-greedy"
  left.mkdir(parents=True)
  (left / "predictions.jsonl").write_text("half a li")
  eval_mode.run(_make_run(model_dir=str(own_model_dir)))
  assert [path.name for path in folder.iterdir()] == ["greedy"]


def test_a_disk_that_is_full_in_the_end(own_model_dir, no_model, monkeypatch):
  def fail(*_):
    raise OSError("No space left on device")

  monkeypatch.setattr(result_folder.os, "replace", fail)
  with pytest.raises(UserError, match="cannot be written: No space left"):
    eval_mode.run(_make_run(model_dir=str(own_model_dir)))


@pytest.mark.parametrize("field", ["batch_rows", "max_examples"])
def test_numbers_below_one(field):
  with pytest.raises(UserError, match=f"{field} is 0; it must be"):
    _make_run(**{field: 0})


def test_other_splits(own_model_dir, no_model):
  settings = _make_run(model_dir=str(own_model_dir), splits=("train", "test"))
  assert len(eval_mode.run(settings)) == 4
  for splits in ((), ("test", "dev")):
    settings = _make_run(model_dir=str(own_model_dir), splits=splits)
    with pytest.raises(
      UserError, match=r"EVAL_SPLITS is .*\['test', 'train'\]"
    ):
      eval_mode.run(settings)


def test_a_string_is_one_split(own_model_dir, no_model):
  results = eval_mode.run(
    _make_run(model_dir=str(own_model_dir), splits="test")
  )
  assert set(results) == {"toy_label/test", "toy_rationale/test"}


def test_another_task_is_prepared_with_the_settings_given(
  own_model_dir, tmp_path, no_model
):
  cache = make_cache(tmp_path, 2, splits=("test",))
  asked = []

  def find(*arguments):
    asked.append(arguments)
    return cache

  data = DataSettings(subsample=0.5)
  settings = _make_run(
    model_dir=str(own_model_dir),
    mixture_or_task_name="other_task",
    data=data,
    task_module="my_tasks",
    cache_dir="caches",
  )
  with mock.patch.object(prepare, "find_or_prepare", find):
    results = eval_mode.run(settings)
  # In the run's vocabulary, unless another is given.
  data = dataclasses.replace(data, vocab_path="bytes")
  assert asked == [("other_task", data, "my_tasks", "caches")]
  assert results["toy_label/test"]["num_examples"] == 2


def test_tokens_of_another_vocabulary_are_refused(
  own_model_dir, tmp_path, no_model
):
  cache = make_cache(tmp_path, 2, splits=("test",))
  cache.identity["vocabulary_sha256"] = "0"
  settings = _make_run(
    model_dir=str(own_model_dir), mixture_or_task_name="other_task"
  )
  with mock.patch.object(prepare, "find_or_prepare", lambda *_: cache):
    with pytest.raises(UserError, match="another vocabulary than.* bytes"):
      eval_mode.run(settings)


def test_neither_run_nor_checkpoint():
  with pytest.raises(UserError, match="Neither CHECKPOINT_PATH nor MODEL_DIR"):
    eval_mode.run(_make_run())


@pytest.fixture(name="build")
def fixture_build(monkeypatch):
  """Returns what builds the run's settings from its gin file and bindings."""
  yield from run_settings.make_builder(
    monkeypatch, "gin/runs/eval.gin", eval_mode.EvalRun
  )


def test_the_macros_arrive(build):
  run_settings.check_decoding_macros(build)
  assert build("CHECKPOINTS = 'all'").checkpoints == "all"
  assert build("MIXTURE_OR_TASK_NAME = ('a', 'b')").task_names == ["a", "b"]
  lengths = {"inputs": 8, "targets": 4}
  built = build(f"TASK_FEATURE_LENGTHS = {lengths}")
  assert built.feature_lengths == lengths
  assert build("EVAL_PREDICTION = 'rank'").prediction == "rank"


def test_ways_to_measure_do_not_replace_each_other(
  own_model_dir, change_cache, no_model
):
  change_cache(_close_label_set)
  ways = {
    "greedy": {},
    "beam3_alpha0.6": {"decoding": DecodingConfig(num_beams=3)},
    "sample_temperature1_seed0": {"decoding": DecodingConfig("sample")},
    "greedy_length3": {"decoding": DecodingConfig(max_decode_length=3)},
    "greedy_max2": {"max_examples": 2},
    "rank": {"prediction": "rank"},
    "greedy_inputs32_targets5": {
      "feature_lengths": {"inputs": 32, "targets": 5}
    },
    "greedy_dtype-bfloat16": {
      "model_config": dataclasses.replace(tiny_run.CONFIG, dtype="bfloat16")
    },
  }
  label = own_model_dir / "eval" / "toy_label" / "test" / "2"
  for key, changes in ways.items():
    if key == "rank":  # Rationales are decoded as before.
      shutil.rmtree(own_model_dir / "eval" / "toy_rationale")
    eval_mode.run(_make_run(model_dir=str(own_model_dir), **changes))
  assert {path.name for path in label.iterdir()} == set(ways)
  # What does not change the numbers is the same way to measure.
  with pytest.raises(UserError, match="greedy exists"):
    eval_mode.run(
      _make_run(
        model_dir=str(own_model_dir), mesh={"data": 4, "model": 2}, batch_rows=8
      )
    )


def test_other_data_of_the_same_task_has_a_key_of_its_own(
  own_model_dir, tmp_path, no_model
):
  eval_mode.run(_make_run(model_dir=str(own_model_dir)))
  cache = make_cache(tmp_path, 2, splits=("test",))
  cache.identity["settings"] = {"label_prefix": "L:"}
  settings = _make_run(
    model_dir=str(own_model_dir), mixture_or_task_name="toy_distill"
  )
  with mock.patch.object(prepare, "find_or_prepare", lambda *_: cache):
    results = eval_mode.run(settings)
  label = own_model_dir / "eval" / "toy_label" / "test" / "2"
  key = f"greedy_data-{cache.fingerprint[:8]}"
  assert {path.name for path in label.iterdir()} == {"greedy", key}
  assert results["toy_label/test"]["token_cache"] == cache.fingerprint


@pytest.mark.usefixtures("any_type")
def test_several_tasks_in_one_evaluation(own_model_dir, tmp_path, no_model):
  caches = {}
  for name in ("a_task", "b_task"):
    caches[name] = make_cache(tmp_path / name, 2, splits=("test",))
    tasks = caches[name].tasks
    caches[name].tasks = {name: tasks["toy_label"]}
  open_split = mock.Mock(side_effect=lambda task, split: [task, split])
  for cache in caches.values():
    cache.open_split = open_split
  settings = _make_run(
    model_dir=str(own_model_dir), mixture_or_task_name=("a_task", "b_task")
  )
  with mock.patch.object(
    prepare, "find_or_prepare", lambda name, *_: caches[name]
  ):
    assert set(eval_mode.run(settings)) == {"a_task/test", "b_task/test"}
  assert {path.name for path in (own_model_dir / "eval").iterdir()} == {
    "a_task",
    "b_task",
  }
  with mock.patch.object(
    prepare, "find_or_prepare", lambda name, *_: caches["a_task"]
  ):
    with pytest.raises(UserError, match="names a_task more than once"):
      eval_mode.run(settings, overwrite=True)


@pytest.mark.parametrize("names", [(), "", ["a", 1], 3])
def test_tasks_that_cannot_be(names):
  with pytest.raises(UserError, match="must be a text or a list of texts"):
    _make_run(mixture_or_task_name=names)


def test_all_kept_checkpoints(own_model_dir):
  folder = own_model_dir / "checkpoints"
  shutil.copytree(folder / "2", folder / "1")
  settings = _make_run(
    model_dir=str(own_model_dir), checkpoints="all", max_examples=2
  )
  with mock.patch.object(
    eval_mode, "Evaluator", wraps=eval_mode.Evaluator
  ) as made:
    results = eval_mode.run(settings)
  assert made.call_count == 1  # Compiled once.
  assert set(results) == {
    f"{task}/test/{step}"
    for task in ("toy_label", "toy_rationale")
    for step in (1, 2)
  }
  first, second = (results[f"toy_label/test/{step}"] for step in (1, 2))
  assert first["checkpoint"] == str(folder / "1")
  assert first["loss"] == second["loss"]
  for step in (1, 2):
    assert _read_rows(own_model_dir / f"eval/toy_label/test/{step}/greedy_max2")


@pytest.fixture(name="foreign")
def fixture_foreign(model_dir, tmp_path):
  """Returns what evaluates a checkpoint of no run on made-up tokens."""
  cache = make_cache(tmp_path / "cache", 3, splits=("test",))

  def evaluate(path, **changes):
    settings = {
      "checkpoint_path": str(path),
      "model_dir": str(tmp_path / "baseline"),
      "mixture_or_task_name": "toy_distill",
      "feature_lengths": {"inputs": 32, "targets": 12},
    }
    asked = []

    def find(*arguments):
      asked.append(arguments)
      return cache

    with mock.patch.object(prepare, "find_or_prepare", find):
      results = eval_mode.run(_make_run(**(settings | changes)))
    (call,) = asked
    return results, call[1]

  return evaluate


@pytest.mark.parametrize("file_format", ["orbax", "hf", "t5x"])
def test_a_checkpoint_of_no_run_is_evaluated(
  foreign, model_dir, tmp_path, file_format, capsys
):
  source = tmp_path / "student"
  convert.convert(str(model_dir), str(source), destination_format=file_format)
  files = sorted(source.rglob("*"))
  results, data = foreign(source)
  assert sorted(source.rglob("*")) == files  # Nothing is written there.
  assert data.vocab_path == "bytes"
  fingerprint = results["toy_label/test"]["token_cache"]
  key = f"greedy_inputs32_targets12_data-{fingerprint[:8]}"
  name = "checkpoint_0" if file_format == "t5x" else "student"
  folder = tmp_path / "baseline" / "eval" / "toy_label" / "test" / name / key
  rows = _read_rows(folder)
  of_run = eval_mode.run(
    _make_run(model_dir=str(shutil.copytree(model_dir, tmp_path / "run")))
  )
  expected = _read_rows(tmp_path / "run/eval/toy_label/test/2/greedy")[:3]
  assert [row["prediction"] for row in rows] == [
    row["prediction"] for row in expected
  ]
  assert of_run.keys() == results.keys()
  assert f"toy_label/test of {name}" in capsys.readouterr().out


def test_two_checkpoints_of_one_name_keep_their_results_apart(
  foreign, model_dir, tmp_path
):
  for folder in ("a", "b"):
    convert.convert(str(model_dir), str(tmp_path / folder / "student"))
  foreign(tmp_path / "a" / "student")
  files = sorted((tmp_path / "baseline").rglob("*"))
  with pytest.raises(UserError, match="another checkpoint of the same name"):
    foreign(tmp_path / "b" / "student")
  assert sorted((tmp_path / "baseline").rglob("*")) == files
  foreign(tmp_path / "b" / "student", model_dir=str(tmp_path / "other"))


def test_results_of_a_checkpoint_of_no_run_need_a_folder(
  foreign, model_dir, own_model_dir, tmp_path
):
  source = tmp_path / "student"
  convert.convert(str(model_dir), str(source))
  with pytest.raises(UserError) as error:
    foreign(
      source, model_dir=None, mixture_or_task_name=None, feature_lengths=None
    )
  for macro in ("MODEL_DIR", "MIXTURE_OR_TASK_NAME", "TASK_FEATURE_LENGTHS"):
    assert f"--gin.{macro}=" in str(error.value)
  with pytest.raises(UserError, match="holds a run, and the checkpoint"):
    foreign(source, model_dir=str(own_model_dir))
  assert not (own_model_dir / "eval").exists()


def test_a_cache_that_is_gone_is_made_again(own_model_dir, tmp_path, no_model):
  path = own_model_dir / "run.json"
  record = json.loads(path.read_text())
  record["token_cache_path"] = str(tmp_path / "gone")
  path.write_text(json.dumps(record))
  cache = make_cache(tmp_path / "again", 5, splits=("train", "test"))
  recorded = record["data"]
  assert recorded["files"] == cache.file_hashes
  assert recorded["task_module"] == prepare.DEFAULT_TASK_MODULE
  with (
    mock.patch.object(prepare, "find_or_prepare", lambda *_: cache),
    mock.patch.object(prepare, "identify", lambda *_: cache.identity),
  ):
    results = eval_mode.run(_make_run(model_dir=str(own_model_dir)))
  assert results["toy_label/test"]["num_examples"] == 5
