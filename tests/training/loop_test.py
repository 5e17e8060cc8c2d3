"""The order of things in the loop, also when it ends in an error."""

import itertools

import pytest

from distill_jax.training import loop


class Recorder:
  """A hook that notes its calls, and fails where it is told to."""

  def __init__(self, name, calls, fail_at=None, fail_to_close=False):
    self._name, self._calls = name, calls
    self._fail_at, self._fail_to_close = fail_at, fail_to_close

  def after_step(self, step, state, batch, metrics):
    self._calls.append((self._name, step, state, batch, metrics))
    if step == self._fail_at:
      raise RuntimeError(f"{self._name} at step {step}")

  def close(self):
    self._calls.append((self._name, "close"))
    if self._fail_to_close:
      raise OSError(f"{self._name} at close")


def run(hooks, start_step=0, train_steps=2, **others):
  return loop.run_loop(
    state=100,
    batches=((batch, 10 * batch) for batch in itertools.count(7)),
    step_fn=lambda state, batch: (state + batch, {"loss": batch}),
    hooks=hooks,
    start_step=start_step,
    train_steps=train_steps,
    **others,
  )


def test_hooks_are_called_in_order_and_closed_in_reverse():
  calls = []
  state = run([Recorder("a", calls), Recorder("b", calls)])
  assert state == 100 + 70 + 80
  # The state after the step, the host's batch, the step's metrics.
  assert calls == [
    ("a", 1, 170, 7, {"loss": 70}),
    ("b", 1, 170, 7, {"loss": 70}),
    ("a", 2, 250, 8, {"loss": 80}),
    ("b", 2, 250, 8, {"loss": 80}),
    ("b", "close"),
    ("a", "close"),
  ]


@pytest.mark.parametrize(
  "start_step,train_steps,steps",
  [(0, 3, [1, 2, 3]), (4, 6, [5, 6]), (6, 6, []), (7, 6, [])],
)
def test_steps_from_start_to_stop(start_step, train_steps, steps):
  calls = []
  run([Recorder("a", calls)], start_step, train_steps)
  assert [call[1] for call in calls] == [*steps, "close"]


def test_an_error_stops_the_loop_and_closes_every_hook():
  calls = []
  hooks = [Recorder("a", calls), Recorder("b", calls, 2), Recorder("c", calls)]
  with pytest.raises(RuntimeError, match="b at step 2"):
    run(hooks, train_steps=9)
  names = [call[:2] for call in calls]
  assert names[3:] == [
    ("a", 2),
    ("b", 2),
    ("c", "close"),
    ("b", "close"),
    ("a", "close"),
  ]


def test_an_error_is_told_before_a_hook_is_closed():
  """What closes may wait for other processes, which must know first."""
  calls = []
  with pytest.raises(RuntimeError, match="a at step 2"):
    run(
      [Recorder("a", calls, 2)], on_error_fn=lambda error: calls.append(error)
    )
  assert [type(call) for call in calls[-2:]] == [RuntimeError, tuple]
  run([Recorder("a", calls)], on_error_fn=lambda error: calls.append(error))
  assert calls[-2:] == [None, ("a", "close")]


def test_a_hook_that_fails_to_close_keeps_none_from_closing():
  """A checkpoint that meets a full disk must not cost the metrics' files."""
  calls = []
  hooks = [Recorder("a", calls), Recorder("b", calls, fail_to_close=True)]
  with pytest.raises(OSError, match="b at close"):
    run(hooks)
  assert calls[-2:] == [("b", "close"), ("a", "close")]


def test_the_batches_running_out_is_an_error():
  calls = []
  with pytest.raises(StopIteration):
    loop.run_loop(
      0, iter([]), max, [Recorder("a", calls)], start_step=0, train_steps=1
    )
  assert calls == [("a", "close")]


def test_a_hook_may_end_the_loop():
  calls, ended = [], []

  class Stopper(Recorder):
    def after_step(self, step, state, batch, metrics):
      super().after_step(step, state, batch, metrics)
      if step == 2:
        raise loop.StopTraining

  hooks = [Stopper("a", calls), Recorder("b", calls)]
  state = run(hooks, train_steps=9, on_error_fn=ended.append)
  assert state == 100 + 70 + 80
  assert [call[:2] for call in calls] == [
    ("a", 1), ("b", 1), ("a", 2), ("b", "close"), ("a", "close")
  ]  # fmt: skip
  assert ended == [None]
