"""Tests of runs/run_data.py.

A token cache that is gone is made again, or refused.

SeqIO makes the caches, of a generated data set.
"""

import dataclasses
import json
import logging
import pathlib
import shutil
import types

import pytest

from distill_jax.data import token_cache, vocab
from distill_jax.data.settings import DataSettings
from distill_jax.errors import UserError
from distill_jax.run_folder import run_record
from distill_jax.runs import prepare, run_data

_NAME = "word_problems_distill"
_SIZES = {
  "num_train_examples": 6,
  "num_validation_examples": 2,
  "num_test_examples": 3,
}
_SETTINGS = DataSettings(
  word_problems=_SIZES, subsample=0.5, label_prefix="L: ", splits=("test",)
)


@pytest.fixture(name="cache")
def fixture_cache(tmp_path):
  return prepare.find_or_prepare(
    _NAME, _SETTINGS, cache_dir=str(tmp_path / "caches")
  )


def _make_record(cache, **changes):
  data = {
    "settings": dataclasses.asdict(_SETTINGS),
    "task_module": prepare.DEFAULT_TASK_MODULE,
    "identity": cache.identity,
    "files": cache.file_hashes,
  }
  return run_record.RunRecord(
    identity={
      "task": _NAME,
      "tasks": dict.fromkeys(cache.tasks),
      "token_cache": cache.fingerprint,
    },
    token_cache_path=str(cache.path),
    num_params=0,
    mesh="",
    environment={},
    data=json.loads(json.dumps(data | changes)),
  )


def _open(record, given=None, **kwargs):
  vocabulary = vocab.load_vocabulary(None)
  return run_data.open_cache(
    record, vocabulary, given or DataSettings(), **kwargs
  )


def test_a_cache_that_is_there_is_opened(cache, monkeypatch):
  monkeypatch.setattr(prepare, "find_or_prepare", None)
  assert _open(_make_record(cache)).path == cache.path


def test_a_cache_that_is_gone_is_made_again_where_it_was(cache, caplog):
  shutil.rmtree(cache.path)
  with caplog.at_level(logging.WARNING):
    found = _open(_make_record(cache))
  assert found.path == cache.path
  assert found.file_hashes == cache.file_hashes
  assert f"{cache.path}, is gone; it is made again" in caplog.text
  texts = [row.inputs_text for row in found.open_split(
    "word_problems_label", "test")]  # fmt: skip
  assert len(texts) == 3 and all(text.startswith("L: ") for text in texts)


def test_it_is_made_elsewhere_where_asked(cache, tmp_path):
  shutil.rmtree(cache.path.parent)
  found = _open(_make_record(cache), cache_dir=str(tmp_path / "other"))
  assert found.path == tmp_path / "other" / cache.path.name


def test_of_an_older_run_the_settings_given_must_make_the_same(cache):
  shutil.rmtree(cache.path)
  record = dataclasses.replace(_make_record(cache), data=None)
  with pytest.raises(UserError, match="older version, which did not record"):
    _open(record)
  assert not cache.path.exists()
  found = _open(record, _SETTINGS, cache_dir=str(cache.path.parent))
  assert found.fingerprint == cache.fingerprint


def test_what_would_not_be_the_same_is_refused_before_the_work(cache):
  shutil.rmtree(cache.path)
  identity = {**cache.identity, "sources": {"data.json": "0123"}}
  identity["settings"] = {**identity["settings"], "subsample": 0.25}
  with pytest.raises(
    UserError, match=r"not be the same.*subsample: 0.25 -> 0.5; .*0123 -> None"
  ):
    _open(_make_record(cache, identity=identity))
  assert not cache.path.exists()


def test_source_files_that_were_not_compared_then_are_not_now(cache):
  shutil.rmtree(cache.path)
  identity = {**cache.identity, "sources": None, "data_sets": None}
  found = _open(_make_record(cache, identity=identity))
  assert found.file_hashes == cache.file_hashes


def test_another_version_may_make_the_same(cache):
  shutil.rmtree(cache.path)
  identity = {**cache.identity, "distill_jax": "0.0.1"}
  found = _open(_make_record(cache, identity=identity))
  assert found.file_hashes == cache.file_hashes


def test_other_examples_of_the_same_settings_are_refused(cache):
  shutil.rmtree(cache.path)
  files = dict.fromkeys(cache.file_hashes, "0")
  with pytest.raises(UserError, match="gone, and what the same settings make"):
    _open(_make_record(cache, files=files))


def test_source_files_that_are_not_here_are_asked_for(cache, monkeypatch):
  record = _make_record(
    cache, identity={**cache.identity, "sources": {"a": "0"}}
  )
  shutil.rmtree(cache.path)
  monkeypatch.setattr(
    prepare, "identify", lambda *_: {**cache.identity, "sources": None}
  )
  with pytest.raises(UserError, match="made from are not here. Add DATA_DIR"):
    _open(record)


def test_where_files_lie_now_counts(cache, monkeypatch):
  """The folder of data, the module and the vocabulary may have moved."""
  asked = types.SimpleNamespace()
  shutil.rmtree(cache.path)
  monkeypatch.setattr(prepare, "identify", lambda *_: cache.identity)

  def find(name, settings, module, cache_dir):
    asked.__dict__.update(settings=settings, module=module)
    return types.SimpleNamespace(file_hashes=cache.file_hashes)

  monkeypatch.setattr(prepare, "find_or_prepare", find)
  settings = dataclasses.asdict(_SETTINGS)
  settings |= {"data_dir": "/before", "vocab_path": "/before/spiece.model"}
  record = _make_record(cache, settings=settings, task_module="tasks_before")
  _open(record)
  assert asked.settings.data_dir == "/before"
  assert asked.module == "tasks_before"
  shipped = vocab.load_vocabulary(None).path
  assert asked.settings.vocab_path == shipped
  _open(record, DataSettings(data_dir="/now"), task_module="tasks_now")
  assert asked.settings.data_dir == "/now"
  assert asked.module == "tasks_now"


def test_a_damaged_cache_is_not_made_again(cache):
  record = _make_record(cache)
  next(pathlib.Path(cache.path).glob("*.array_record")).write_bytes(b"")
  with pytest.raises(UserError, match="token cache is damaged"):
    _open(record)
  assert token_cache.read_identity(cache.path)
