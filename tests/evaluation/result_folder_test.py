"""Tests of evaluation/result_folder.py: no result takes another's place."""

import json

import pytest

from distill_jax.decoding.strategy import DecodingConfig
from distill_jax.errors import UserError
from distill_jax.evaluation import result_folder


@pytest.mark.parametrize(
  "arguments, key",
  [
    ((DecodingConfig(),), "greedy"),
    ((DecodingConfig(num_beams=4),), "beam4_alpha0.6"),
    (
      (DecodingConfig("beam", 1, 1.0, max_decode_length=5), 200),
      "beam1_alpha1_length5_max200",
    ),
    (
      (DecodingConfig("sample", top_k=40, top_p=0.9, seed=7),),
      "sample_temperature1_top_k40_top_p0.9_seed7",
    ),
    ((None, 10), "rank_max10"),
    (
      (DecodingConfig(), None, {"inputs": 8, "act": ("a", "b/..")}),
      "greedy_inputs8_act--a-b-..-",
    ),
  ],
)
def test_what_decides_the_numbers_is_in_the_key(arguments, key):
  assert result_folder.make_key(*arguments) == key


def test_every_setting_of_decoding_gives_another_key():
  configs = [
    DecodingConfig(),
    DecodingConfig(max_decode_length=3),
    DecodingConfig(num_beams=2),
    DecodingConfig(num_beams=3),
    DecodingConfig(num_beams=2, length_penalty=0.60000001),
    DecodingConfig("sample"),
    DecodingConfig("sample", seed=1),
    DecodingConfig("sample", temperature=0.5),
    DecodingConfig("sample", temperature=1e-7),
    DecodingConfig("sample", top_k=1),
    DecodingConfig("sample", top_p=1.0),
  ]
  keys = {result_folder.make_key(config) for config in configs}
  assert len(keys) == len(configs)
  assert result_folder.make_key(
    DecodingConfig("beam", 2, 1)
  ) == result_folder.make_key(DecodingConfig("beam", 2, 1.0))


def test_what_was_written_before_there_were_keys_is_found(tmp_path):
  old = tmp_path / "predictions.jsonl"
  assert result_folder.find_predictions(tmp_path, "greedy") == old
  folder = tmp_path / "greedy"
  result_folder.check_writable(folder)
  result_folder.write_results(folder, {"loss": 1.0}, [{"id": "ä"}])
  new = folder / "predictions.jsonl"
  assert result_folder.find_predictions(tmp_path, "greedy") == new
  assert json.loads(new.read_text("utf-8")) == {"id": "ä"}
  assert json.loads((folder / "metrics.json").read_text()) == {"loss": 1.0}
  assert [path.name for path in tmp_path.iterdir()] == ["greedy"]


def test_what_cannot_be_written_is_a_users_mistake(tmp_path):
  (tmp_path / "file").write_text("")
  with pytest.raises(UserError, match="file/greedy cannot be written"):
    result_folder.check_writable(tmp_path / "file" / "greedy")


def test_a_folder_that_is_not_complete_is_cleared(tmp_path):
  left = tmp_path / ".writing-greedy"
  left.mkdir()
  (left / "predictions.jsonl").write_text('{"id": ')
  result_folder.check_writable(tmp_path / "greedy")
  assert list(tmp_path.iterdir()) == []


def test_results_are_replaced_as_a_whole(tmp_path):
  folder = tmp_path / "rank"
  result_folder.write_results(folder, {"loss": 1.0}, [{"id": "a"}])
  (folder / "mine.txt").write_text("")
  result_folder.write_results(folder, {"loss": 2.0}, [])
  assert sorted(path.name for path in folder.iterdir()) == [
    "metrics.json",
    "predictions.jsonl",
  ]
  assert json.loads((folder / "metrics.json").read_text()) == {"loss": 2.0}
