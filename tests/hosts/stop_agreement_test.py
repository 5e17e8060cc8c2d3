"""Tests of hosts/stop_agreement.py.

Each process is a `StopAgreement` with a thread of its own, over one store.
"""

import threading
import time

import jax
import process_fakes
import pytest

from distill_jax.hosts import stop_agreement


@pytest.fixture(name="start")
def fixture_start(monkeypatch):
  """(steps that two processes start from) -> their agreements."""
  monkeypatch.setattr(stop_agreement, "_POLL_SECONDS", 0.02)
  store = process_fakes.KeyValueStore()

  def start(start_step, indices=(0, 1)):
    return [
      stop_agreement.StopAgreement(store, index, 2, start_step)
      for index in indices
    ]

  yield start
  store.is_gone = True


def run(agreement, steps, seconds=0.0, stopped_after=None):
  """Makes steps until all stop; returns the one it stopped after."""
  for step in steps:
    time.sleep(seconds)
    if agreement.is_reached(step):
      if stopped_after is not None:
        stopped_after.append(step)
      return step
  return None


@pytest.mark.parametrize("asked", [0, 1])
@pytest.mark.parametrize("start_step", [0, 500])
def test_all_stop_after_the_same_step_that_none_has_passed(
  start, asked, start_step
):
  agreements = start(start_step)
  stopped_after = []
  # The one is ten times as fast as the other.
  threads = [
    threading.Thread(
      target=run,
      args=(agreement, range(start_step + 1, start_step + 10_000)),
      kwargs={"seconds": seconds, "stopped_after": stopped_after},
    )
    for agreement, seconds in zip(agreements, (0.001, 0.01), strict=True)
  ]
  for thread in threads:
    thread.start()
  time.sleep(0.2)
  before = max(agreement._last_step for agreement in agreements)
  agreements[asked].request()
  for thread in threads:
    thread.join(20)
  first, second = stopped_after
  assert first == second
  assert before < first < before + 2000


def test_who_is_asked_before_the_first_step_stops_after_it(start):
  agreements = start(500)
  agreements[1].request()
  time.sleep(0.3)
  assert [run(agreement, range(501, 600)) for agreement in agreements] == [
    501,
    501,
  ]


def test_who_starts_later_is_waited_for(start):
  (first,) = start(7, [0])
  first.request()
  time.sleep(0.1)
  stopped_after = []
  thread = threading.Thread(
    target=run, args=(first, range(8, 20), 0.0, stopped_after)
  )
  thread.start()
  time.sleep(0.2)
  # It does not pass a step that the other may stop after.
  assert thread.is_alive() and stopped_after == []
  (second,) = start(7, [1])
  stopped_at = run(second, range(8, 20), 0.05)
  thread.join(20)
  assert stopped_after == [stopped_at]


def test_without_a_request_nobody_stops(start):
  agreements = start(0)
  time.sleep(0.1)
  assert [run(agreement, range(1, 50)) for agreement in agreements] == [
    None
  ] * 2
  for agreement in agreements:
    agreement.close()


def test_one_at_its_end_keeps_no_other_waiting(start):
  first, second = start(0)
  assert run(first, range(1, 10)) is None
  first.close()
  second.request()
  assert run(second, range(1, 10), 0.05) is None
  second.close()


def test_a_store_that_is_gone_stops_nobody(start, monkeypatch):
  (agreement,) = start(0, [0])
  agreement._client.is_gone = True
  agreement.request()
  time.sleep(0.1)
  assert run(agreement, range(1, 10)) is None
  agreement.close()


@pytest.mark.parametrize(
  "call", ["key_value_set", "key_value_dir_get", "blocking_key_value_get"]
)
def test_a_call_that_fails_is_made_again(start, monkeypatch, call):
  agreements = start(0)
  store = agreements[0]._client
  original, failed = getattr(store, call), []

  def fail_first(*args, **kwargs):
    if agreements[0]._is_wanted and len(failed) < 3:
      failed.append(args)
      if call == "key_value_set":
        original(*args, **kwargs)  # It was set, but nobody knows.
      raise jax.errors.JaxRuntimeError("UNAVAILABLE: try again")
    return original(*args, **kwargs)

  monkeypatch.setattr(store, call, fail_first)
  agreements[0].request()
  stopped_after = []
  threads = [
    threading.Thread(
      target=run, args=(agreement, range(1, 10_000), seconds, stopped_after)
    )
    for agreement, seconds in zip(agreements, (0.001, 0.01), strict=True)
  ]
  for thread in threads:
    thread.start()
  for thread in threads:
    thread.join(20)
  assert len(failed) == 3
  assert stopped_after[0] == stopped_after[1]


def test_what_was_told_is_not_told_otherwise(start):
  """Another may have read it, and a third may not have."""
  agreements = start(0)
  store = agreements[0]._client
  agreements[0].request()
  threads = [
    threading.Thread(target=run, args=(agreement, range(1, 10_000), 0.005))
    for agreement in agreements
  ]
  for thread in threads:
    thread.start()
  for thread in threads:
    thread.join(20)
  told = dict(store.values)
  for agreement in agreements:
    agreement.close()
  assert store.values == told
