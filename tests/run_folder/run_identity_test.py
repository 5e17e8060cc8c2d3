"""Tests of run_folder/run_identity.py: what makes two runs the same run."""

import dataclasses

import pytest
import toy_run
from synthetic_cache import make_cache

from distill_jax.errors import UserError
from distill_jax.optim import factory, schedules
from distill_jax.partitioning import mesh as mesh_lib
from distill_jax.run_folder import run_identity, run_record


@pytest.fixture(name="cache", scope="module")
def fixture_cache(tmp_path_factory):
  return make_cache(tmp_path_factory.mktemp("cache"), 5)


def make_record(cache, mesh, **changes):
  settings = dataclasses.replace(toy_run.make_run("/run", 4), **changes)
  return run_identity.make_record(
    settings, cache, 1234, mesh_lib.make_mesh(mesh)
  )


def test_the_mesh_and_the_number_of_steps_make_no_other_run(cache):
  first = make_record(cache, {"data": 8})
  second = make_record(cache, {"fsdp": 4, "model": 2}, train_steps=9)
  assert first.identity == second.identity
  assert first.mesh != second.mesh
  assert first.num_params == second.num_params == 1234


@pytest.mark.parametrize(
  "changes,message",
  [
    ({"seed": 1}, "seed: 0 before, 1 now"),
    ({"num_microbatches": 2}, "num_microbatches: 1 before, 2 now"),
    (
      {"feed": toy_run.make_run("/run", 4, num_shards=2).feed},
      "feed.num_shards: 1 before, 2 now",
    ),
    (
      {"optimizer": factory.adafactor(schedules.constant(1e-2))},
      "optimizer_updates",
    ),
    ({"learning_rate": schedules.constant(1.0)}, "learning_rates"),
  ],
)
def test_what_decides_the_losses_does(cache, changes, message):
  found = make_record(cache, {"data": 8})
  wanted = make_record(cache, {"data": 8}, **changes)
  with pytest.raises(UserError, match=message):
    run_record.check_resumable(found, wanted, "/run")


def test_schedules_that_part_after_a_long_warmup_are_told_apart(cache):
  def record(name, train_steps):
    rate = schedules.make_schedule(name, 1e-3, train_steps, 10_000)
    return make_record(cache, {"data": 8}, learning_rate=rate)

  linear = record("linear", 20_000)
  run_record.check_resumable(linear, record("linear", 20_000), "/run")
  for other in (
    record("cosine", 20_000),
    record("linear", 40_000),
    record("constant", 20_000),
    record("rsqrt", 20_000),
  ):
    with pytest.raises(UserError, match="later_learning_rates: "):
      run_record.check_resumable(linear, other, "/run")
  # Runs of earlier versions have not noted them.
  del linear.identity["later_learning_rates"]
  run_record.check_resumable(linear, record("cosine", 20_000), "/run")


def test_a_run_of_before_there_were_shards_had_one(cache):
  found, wanted = (make_record(cache, {"data": 8}) for _ in range(2))
  del found.identity["feed"]["num_shards"]
  run_record.check_resumable(found, wanted, "/run")
  wanted.identity["feed"]["num_shards"] = 2
  with pytest.raises(UserError, match="feed.num_shards: 1 before, 2 now"):
    run_record.check_resumable(found, wanted, "/run")


def test_what_a_tasks_name_tells_is_not_of_the_identity(cache):
  (task, *_) = make_record(cache, {"data": -1}).identity["tasks"].values()
  # As in the runs of earlier versions, which may be resumed.
  assert "target" not in task
