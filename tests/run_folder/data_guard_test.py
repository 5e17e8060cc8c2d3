"""Tests of run_folder/data_guard.py: the same data, or none."""

import collections
import itertools
import os
import shutil

import process_fakes
import pytest
from synthetic_cache import make_cache

from distill_jax.data.feed import pipeline
from distill_jax.errors import UserError
from distill_jax.hosts import distributed
from distill_jax.run_folder import data_guard

_CONFIG = pipeline.FeedConfig({"inputs": 24, "targets": 16}, 4)


class _Place:
  """An iterator that is nothing but its place."""

  def __init__(self):
    self.state = {"at": 0}

  def get_state(self):
    return self.state

  def set_state(self, state):
    self.state = state


@pytest.fixture(name="cache")
def fixture_cache(tmp_path):
  return make_cache(tmp_path / "cache", 5)


def _file(cache):
  return cache.path / "toy_label-train.array_record"


def test_a_place_is_saved_and_found_again(cache):
  batches = pipeline.make_train_iterator(cache, _CONFIG)
  guard = data_guard.DataGuard(cache, batches)
  list(itertools.islice(batches, 3))
  state = guard.get_state()
  expected = next(batches)["encoder_input_tokens"]
  batches.close()
  batches = pipeline.make_train_iterator(cache, _CONFIG)
  data_guard.DataGuard(cache, batches).set_state(state)
  assert (next(batches)["encoder_input_tokens"] == expected).all()
  batches.close()


def test_a_place_saved_before_data_was_named_is_accepted(cache):
  place = _Place()
  data_guard.DataGuard(cache, place).set_state({"at": 3})
  assert place.state == {"at": 3}


def test_places_of_shards_are_told_to_process_0(cache, monkeypatch):
  store = process_fakes.KeyValueStore()
  places = []
  for index in (1, 0):
    process_fakes.join(monkeypatch, distributed, index, 2, store)
    # A process each, so each counts for itself.
    monkeypatch.setattr(distributed, "_uses", collections.Counter())
    place = _Place()
    place.state = {"shards": {str(index): {"at": index}}}
    places.append(data_guard.DataGuard(cache, place).get_state()["iterator"])
    assert place.state == {"shards": {str(index): {"at": index}}}
  # Process 0 writes.
  assert places[1] == {"shards": {"0": {"at": 0}, "1": {"at": 1}}}


def test_a_copy_of_the_data_elsewhere_is_the_same(cache, tmp_path):
  state = data_guard.DataGuard(cache, _Place()).get_state()
  cache.path = shutil.copytree(cache.path, tmp_path / "copy")
  data_guard.DataGuard(cache, _Place()).set_state(state)


def test_a_run_is_not_resumed_on_other_bytes(cache, tmp_path):
  state = data_guard.DataGuard(cache, _Place()).get_state()
  other = make_cache(tmp_path / "other", 6)
  # Made with the same settings, so of the same name.
  assert other.path.name == cache.path.name
  guard = data_guard.DataGuard(other, _Place())
  with pytest.raises(UserError, match="other bytes than those the run was"):
    guard.set_state(state)


def _overwrite(cache, tmp_path):
  del tmp_path
  content = bytearray(_file(cache).read_bytes())
  content[len(content) // 2] ^= 1
  _file(cache).write_bytes(bytes(content))


def _replace(cache, tmp_path):
  other = make_cache(tmp_path / "other", 6)
  shutil.rmtree(cache.path)
  other.path.rename(cache.path)


def _remove_file(cache, tmp_path):
  del tmp_path
  _file(cache).unlink()


def _remove_all(cache, tmp_path):
  del tmp_path
  shutil.rmtree(cache.path)


@pytest.mark.parametrize(
  "change,message",
  [
    (_overwrite, "changed under the running job. .*other bytes than written"),
    (_replace, "was replaced under the running job"),
    (_remove_file, "changed under the running job. .*is missing"),
    (_remove_all, "changed under the running job. .*not a readable"),
  ],
)
def test_data_changed_under_the_run_stops_it(cache, tmp_path, change, message):
  guard = data_guard.DataGuard(cache, _Place())
  guard.check()
  change(cache, tmp_path)
  with pytest.raises(UserError, match=message) as raised:
    guard.get_state()
  assert "checkpoints so far are intact" in str(raised.value)


def test_the_same_size_and_time_hide_nothing_but_the_inode(cache):
  """A tool that keeps the times still makes another file."""
  guard = data_guard.DataGuard(cache, _Place())
  stat = _file(cache).stat()
  content = bytearray(_file(cache).read_bytes())
  content[-1] ^= 1
  _file(cache).rename(_file(cache).with_suffix(".old"))
  _file(cache).write_bytes(bytes(content))
  os.utime(_file(cache), ns=(stat.st_atime_ns, stat.st_mtime_ns))
  with pytest.raises(UserError, match="under the running job"):
    guard.check()


def test_a_file_that_goes_while_it_is_looked_at(cache, monkeypatch):
  guard = data_guard.DataGuard(cache, _Place())
  _file(cache).unlink()
  _file(cache).symlink_to(cache.path / "nowhere")
  with pytest.raises(UserError, match="changed under the running job"):
    guard.check()


def test_files_that_were_only_touched_are_the_same(cache, monkeypatch):
  guard = data_guard.DataGuard(cache, _Place())
  os.utime(_file(cache), (1, 1))
  guard.check()
  # Read again once, and not at every checkpoint from then on.
  monkeypatch.setattr(data_guard, "TokenCache", None)
  guard.check()
