"""Tests of runs/eval_parts.py; eval_test has whole evaluations."""

import pytest
from synthetic_cache import make_cache

from distill_jax.decoding.strategy import DecodingConfig
from distill_jax.errors import UserError
from distill_jax.runs import eval_parts


@pytest.fixture(name="cache", scope="module")
def fixture_cache(tmp_path_factory):
  folder = tmp_path_factory.mktemp("cache")
  return make_cache(folder, 5, splits=("train", "test"))


def test_parts_are_the_tasks_and_splits_asked_for(cache):
  parts = eval_parts.list_parts([cache], ("test", "test"), 2)
  assert [part.name for part in parts] == [
    f"{task}/test" for task in cache.tasks
  ]
  assert all(len(part.examples) == 2 for part in parts)


@pytest.mark.parametrize("splits", ["dev", (), ("test", "dev")])
def test_a_split_that_there_is_not_is_refused(cache, splits):
  with pytest.raises(UserError, match=r"EVAL_SPLITS is .*'test', 'train'"):
    eval_parts.list_parts([cache], splits, None)


def test_a_task_that_is_named_twice_is_refused(cache):
  with pytest.raises(UserError, match="more than once"):
    eval_parts.list_parts([cache, cache], "test", None)


def test_rationales_alone_cannot_be_ranked(cache):
  parts = [
    part
    for part in eval_parts.list_parts([cache], "test", None)
    if not part.info.has_labels
  ]
  assert parts
  with pytest.raises(UserError, match="EVAL_PREDICTION is 'rank'"):
    eval_parts.add_choices(parts, DecodingConfig())
