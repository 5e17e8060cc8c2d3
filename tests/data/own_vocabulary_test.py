"""Tests of data/own_vocabulary.py."""

import dataclasses
import pathlib

import pytest

from distill_jax.data import datasets, own_vocabulary, vocab
from distill_jax.data.settings import DataSettings

_OWN = pathlib.Path(datasets.__file__).with_name("animal_legs.model")


@pytest.mark.parametrize("name", ["animal_legs_distill", "animal_legs_label"])
def test_a_vocabulary_that_ships_with_a_data_set_is_filled_in(name):
  settings = own_vocabulary.fill_in(name, DataSettings(subsample=0.5))
  assert settings == DataSettings(subsample=0.5, vocab_path=str(_OWN))


@pytest.mark.parametrize(
  "name, path",
  [
    ("word_problems_distill", None),
    ("svamp_label", None),
    ("of_no_data_set", None),
    ("my_animal_legs_label", None),
    ("animal_legs_distill", vocab.BYTES),
    ("animal_legs_distill", "/mine/spiece.model"),
  ],
)
def test_nothing_else_is_changed(name, path):
  settings = DataSettings(vocab_path=path)
  assert own_vocabulary.fill_in(name, settings) is settings


def test_the_vocabulary_of_ones_own_data_set_is_a_path(monkeypatch, tmp_path):
  monkeypatch.setattr(datasets, "_specs", dict(datasets._specs))
  spec = datasets.jsonl_dataset("mine", "{split}.jsonl", "exact_match")
  path = str(tmp_path / "mine.model")
  datasets.register_dataset(dataclasses.replace(spec, vocabulary=path))
  settings = own_vocabulary.fill_in("mine_label", DataSettings())
  assert settings.vocab_path == path
