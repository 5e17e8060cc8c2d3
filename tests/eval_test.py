"""Tests of eval.py: what it writes, where, and what it refuses."""

import dataclasses
import json
import logging
import pathlib
from unittest import mock

import pytest
import run_settings
import tiny_run
from synthetic_cache import make_cache
from tiny_run import fixture_model_dir as fixture_model_dir
from tiny_run import fixture_own_model_dir as fixture_own_model_dir

from distill_jax import eval as eval_mode
from distill_jax import prepare, run_loading
from distill_jax.data import vocab
from distill_jax.data.settings import DataSettings
from distill_jax.decoding.strategy import DecodingConfig
from distill_jax.errors import UserError


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
    folder = own_model_dir / "eval" / task / split / str(tiny_run.TRAIN_STEPS)
    assert json.loads((folder / "metrics.json").read_text()) == metrics
    assert sorted(path.name for path in folder.parent.iterdir()) == ["2"]
    rows = _read_rows(folder)
    assert [row["id"] for row in rows] == [f"toy-{i}" for i in range(5)]
    assert [row["input"] for row in rows] == [f"question {i}" for i in range(5)]
    assert metrics["loss"] > 0
    assert f"{name} at step 2" in printed
  labels = _read_rows(own_model_dir / "eval" / "toy_label" / "test" / "2")
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
  assert "3 of the 5 gold labels of toy_label test are no answer" in caplog.text
  assert "words for ROUGE: ascii_words, for BLEU: 13a" in printed

  with pytest.raises(UserError, match="toy_label/test/2 exists. Add --overwri"):
    eval_mode.run(_make_run(model_dir=str(own_model_dir)))
  limited = _make_run(model_dir=str(own_model_dir), max_examples=1)
  results = eval_mode.run(limited, overwrite=True)
  assert results["toy_label/test"]["num_examples"] == 1
  folder = own_model_dir / "eval" / "toy_label" / "test" / "2"
  assert len(_read_rows(folder)) == 1


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
  assert (own_model_dir / "eval" / "toy_label" / "test" / "2").is_dir()


def test_results_stay_with_their_checkpoint_where_both_are_given(
  own_model_dir, tmp_path, no_model
):
  path = str(own_model_dir / "checkpoints" / "2")
  other = tmp_path / "other"
  eval_mode.run(_make_run(checkpoint_path=path, model_dir=str(other)))
  assert (own_model_dir / "eval" / "toy_label" / "test" / "2").is_dir()
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
  folder = own_model_dir / "eval" / "toy_label" / "test" / "2"
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
  }


@pytest.fixture(name="change_cache")
def fixture_change_cache(monkeypatch):
  """Returns what changes tasks or identity of the run's token cache."""
  open_cache = run_loading.LoadedRun.open_cache

  def change(change_fn):
    def open_changed(self):
      cache = open_cache(self)
      change_fn(cache)
      return cache

    monkeypatch.setattr(run_loading.LoadedRun, "open_cache", open_changed)

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
  rows = _read_rows(own_model_dir / "eval" / "toy_label" / "test" / "2")
  for row in rows:
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
    (["toy_rationale"], DecodingConfig(), "only rationales to evaluate"),
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
    ({"prediction": "choose"}, "EVAL_PREDICTION is 'choose'; .*'rank'"),
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
  with pytest.raises(UserError, match="toy_label/test/2 cannot be written"):
    eval_mode.run(_make_run(model_dir=str(own_model_dir)))


def test_what_a_killed_evaluation_left_is_removed(own_model_dir, no_model):
  folder = own_model_dir / "eval" / "toy_label" / "test"
  left = folder / ".writing-2"
  left.mkdir(parents=True)
  (left / "predictions.jsonl").write_text("half a li")
  eval_mode.run(_make_run(model_dir=str(own_model_dir)))
  assert [path.name for path in folder.iterdir()] == ["2"]


def test_a_disk_that_is_full_in_the_end(own_model_dir, no_model, monkeypatch):
  def fail(*_):
    raise OSError("No space left on device")

  monkeypatch.setattr(eval_mode.os, "replace", fail)
  with pytest.raises(UserError, match="cannot be written: No space left"):
    eval_mode.run(_make_run(model_dir=str(own_model_dir)))


@pytest.mark.parametrize(
  "field, macro",
  [
    ("batch_rows", "BATCH_SIZE"),
    ("max_examples", "MAX_EVAL_EXAMPLES"),
  ],
)
def test_numbers_below_one(field, macro):
  with pytest.raises(UserError, match=f"{macro} is 0; it must be"):
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
    with pytest.raises(
      UserError, match="another vocab.*VOCAB_PATH=\"'bytes'\""
    ):
      eval_mode.run(settings)


def test_a_cache_that_is_gone_is_named(own_model_dir, monkeypatch, no_model):
  record = own_model_dir / "run.json"
  fields = json.loads(record.read_text())
  fields["token_cache_path"] = "/absent"
  record.write_text(json.dumps(fields))
  with pytest.raises(UserError, match="/absent is not a readable token cache"):
    eval_mode.run(_make_run(model_dir=str(own_model_dir)))


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
  assert build("EVAL_PREDICTION = 'rank'").prediction == "rank"
