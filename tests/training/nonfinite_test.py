"""Tests of training/nonfinite.py: found, kept, counted, ended."""

import collections
import contextlib
import json
import math

import jax.numpy as jnp
import numpy as np
import process_fakes
import pytest

from distill_jax.data.feed import batch as batch_lib
from distill_jax.errors import UserError
from distill_jax.hosts import distributed
from distill_jax.training import nonfinite


class _Late:
  """A device scalar that has not arrived until it is asked for."""

  def __init__(self, value):
    self._value, self.is_asked = value, False

  def is_ready(self):
    return False

  def __float__(self):
    self.is_asked = True
    return self._value


# Of steps 2, 4 and 5, found together: no more than end the run.
_KEPT_OF_THREE = pytest.mark.parametrize(
  "policy,limit,kept",
  [("stop", 10, [2]), ("skip", 10, [2, 4, 5]), ("skip", 1, [2, 4])],
)


def _make_batch(step):
  arrays = batch_lib.make_empty_batch(2, 3, 4)
  arrays["encoder_input_tokens"][:] = step
  return arrays | {batch_lib.EXAMPLE_IDS: [[f"a-{step}", f"b-{step}"], []]}


def _take(hook, losses, first_step=1, norm=1.0, scalar=jnp.float32):
  for step, loss in enumerate(losses, start=first_step):
    metrics = {"loss": scalar(loss), "gradient_norm": scalar(norm)}
    hook.after_step(step, "state", _make_batch(step), metrics)


def _list(folder):
  return sorted(path.name for path in (folder / "nonfinite").glob("*"))


def _list_steps(folder):
  return sorted(int(path.stem) for path in folder.glob("nonfinite/*.json"))


@pytest.mark.parametrize("loss", [math.nan, math.inf, -math.inf])
def test_a_loss_that_is_no_number_stops_the_run(tmp_path, loss):
  hook = nonfinite.NonfiniteHook(tmp_path, "stop", 10)
  _take(hook, [1.0, loss])
  with pytest.raises(
    UserError,
    match=f"The loss is {loss}, gradient norm is 1.0 at step 2.*LEARNING_RATE",
  ):
    hook.check()
  assert _list(tmp_path) == ["2.json", "2.npz"]
  assert hook.metrics() == {}


def test_so_does_a_gradient(tmp_path):
  hook = nonfinite.NonfiniteHook(tmp_path, "stop", 10)
  _take(hook, [1.0], norm=math.inf)
  with pytest.raises(UserError, match="gradient norm is inf at step 1"):
    hook.check()


def test_what_is_kept_names_the_examples(tmp_path):
  hook = nonfinite.NonfiniteHook(tmp_path, "skip", 10)
  _take(hook, [1.0, 2.0, math.nan], norm=0.5)
  hook.settle()
  record = json.loads((tmp_path / "nonfinite" / "3.json").read_text())
  assert record == {
    "step": 3,
    "metrics": {"loss": "nan", "gradient_norm": 0.5},
    "example_ids": [["a-3", "b-3"], []],
    "batch": "3.npz",
  }
  found = np.load(tmp_path / "nonfinite" / "3.npz", allow_pickle=False)
  arrays, _ = batch_lib.split_example_ids(_make_batch(3))
  assert set(found.files) == set(arrays)
  for key, value in arrays.items():
    np.testing.assert_array_equal(found[key], value)


def test_skipped_steps_are_counted_to_a_limit(tmp_path):
  hook = nonfinite.NonfiniteHook(tmp_path, "skip", 2)
  _take(hook, [1.0, math.nan, 1.0, math.inf, 1.0])
  hook.check()
  assert hook.metrics() == {"skipped_steps": 2}
  _take(hook, [math.nan], first_step=6)
  with pytest.raises(UserError, match="3 steps .* MAX_SKIPPED_STEPS allows 2"):
    hook.check()
  assert len(_list(tmp_path)) == 6


def test_a_limit_of_none_stops_at_the_first(tmp_path):
  hook = nonfinite.NonfiniteHook(tmp_path, "skip", 0)
  _take(hook, [math.nan])
  with pytest.raises(UserError, match="1 steps .* allows 0"):
    hook.check()


def test_the_count_goes_on_after_a_restart(tmp_path):
  hook = nonfinite.NonfiniteHook(tmp_path, "skip", 3)
  _take(hook, [math.nan, 1.0, math.nan, 1.0, math.nan])
  hook.check()
  # Resumed from step 3: step 5 is made again, and counted when it is.
  hook = nonfinite.NonfiniteHook(tmp_path, "skip", 3, start_step=3)
  assert hook.num_skipped == 2
  assert "5.superseded.json" in _list(tmp_path)
  assert "5.superseded.npz" in _list(tmp_path)
  assert "5.json" not in _list(tmp_path)
  _take(hook, [1.0, math.nan], first_step=4)
  hook.check()
  assert hook.num_skipped == 3
  # And once more: what was superseded before stays.
  nonfinite.NonfiniteHook(tmp_path, "skip", 3, start_step=3)
  assert {
    *("5.superseded.json", "5.superseded-2.json"),
    *("5.superseded.npz", "5.superseded-2.npz"),
  } <= set(_list(tmp_path))


def test_nothing_waits_for_a_step_under_way(tmp_path):
  hook = nonfinite.NonfiniteHook(tmp_path, "stop", 10)
  scalars = []

  def scalar(value):
    scalars.append(_Late(value))
    return scalars[-1]

  _take(hook, [1.0] * 20 + [math.nan], scalar=scalar)
  assert not any(late.is_asked for late in scalars)
  with pytest.raises(UserError, match="loss is nan.* at step 21"):
    hook.check()
  assert all(late.is_asked for late in scalars)


def test_a_loss_that_arrived_is_seen_at_the_next_step(tmp_path):
  hook = nonfinite.NonfiniteHook(tmp_path, "stop", 10)
  _take(hook, [math.nan], scalar=float)
  with pytest.raises(UserError, match="at step 1"):
    _take(hook, [1.0], first_step=2, scalar=float)


def test_what_is_remembered_has_a_limit(tmp_path):
  hook = nonfinite.NonfiniteHook(tmp_path, "skip", 10)
  scalars = []

  def scalar(value):
    scalars.append(_Late(value))
    return scalars[-1]

  _take(hook, [math.nan] + [1.0] * 60, scalar=scalar)
  assert hook.num_skipped == 1
  assert sum(late.is_asked for late in scalars[::2]) == pytest.approx(28, abs=2)


def test_one_of_several_processes_writes_and_ends_the_run(tmp_path):
  first = nonfinite.NonfiniteHook(tmp_path, "stop", 10)
  other = nonfinite.NonfiniteHook(tmp_path, "stop", 10, is_primary=False)
  for hook in (other, first):
    _take(hook, [1.0, math.nan])
  other.check()
  assert _list(tmp_path) == []
  with pytest.raises(UserError, match="at step 2"):
    first.check()
  assert _list(tmp_path) == ["2.json", "2.npz"]
  # Nor does the other rename what will be made again.
  nonfinite.NonfiniteHook(tmp_path, "skip", 3, is_primary=False)
  assert _list(tmp_path) == ["2.json", "2.npz"]


@_KEPT_OF_THREE
def test_no_more_than_ends_the_run_is_kept(tmp_path, policy, limit, kept):
  """Of steps that arrive together."""
  hook = nonfinite.NonfiniteHook(tmp_path, policy, limit)
  losses = [1.0, math.nan, 1.0, math.nan, math.nan]
  _take(hook, losses, scalar=_Late)
  with contextlib.suppress(UserError):
    hook.check()
  assert _list_steps(tmp_path) == kept


@_KEPT_OF_THREE
def test_a_batch_is_kept_whole_by_several_processes(
  tmp_path, monkeypatch, policy, limit, kept
):
  """Each has its rows, and the third has none; others' are padding to it."""
  store = process_fakes.KeyValueStore()
  losses = [1.0, math.nan, 1.0, math.nan, math.nan]
  for index in (1, 2, 0):
    process_fakes.join(monkeypatch, distributed, index, 3, store)
    monkeypatch.setattr(distributed, "_uses", collections.Counter())
    rows = np.array([index][: 2 - index], np.int64)
    hook = nonfinite.NonfiniteHook(tmp_path, policy, limit, 0, index == 0, rows)
    for step, loss in enumerate(losses, start=1):
      batch, ids = _make_batch(step), [[], []]
      others = np.setdiff1d([0, 1], rows)
      batch["encoder_input_tokens"][others] = 0
      for row in rows:
        ids[row] = [f"{row}-{step}"]
      batch[batch_lib.EXAMPLE_IDS] = ids
      hook.after_step(step, None, batch, {"loss": loss})
    # Until all have come to the same step nothing is told, nor waited for.
    assert not _list(tmp_path)
    if index == 0 and (policy == "stop" or limit == 1):
      with pytest.raises(UserError):
        hook.check()
    else:
      hook.check()
  assert _list_steps(tmp_path) == kept
  for step in kept:
    record = json.loads((tmp_path / "nonfinite" / f"{step}.json").read_text())
    assert record["example_ids"] == [[f"0-{step}"], [f"1-{step}"]]
    found = np.load(tmp_path / "nonfinite" / f"{step}.npz")
    arrays, _ = batch_lib.split_example_ids(_make_batch(step))
    assert set(found.files) == set(arrays)
    for key, value in arrays.items():
      np.testing.assert_array_equal(found[key], value)
  assert not store.values


def test_a_folder_that_cannot_be_written(tmp_path):
  (tmp_path / "nonfinite").write_text("")
  hook = nonfinite.NonfiniteHook(tmp_path, "skip", 10)
  _take(hook, [math.nan])
  with pytest.raises(UserError, match="batch cannot be written .*intact"):
    hook.settle()


def test_batches_without_ids_are_kept_too(tmp_path):
  hook = nonfinite.NonfiniteHook(tmp_path, "skip", 10)
  hook.after_step(1, None, {"a": np.ones(2)}, {"loss": math.nan})
  hook.settle()
  record = json.loads((tmp_path / "nonfinite" / "1.json").read_text())
  assert record["example_ids"] is None
