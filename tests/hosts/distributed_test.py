"""Tests of hosts/distributed.py: how processes join, and agree."""

import concurrent.futures
import logging
import socket
import threading

import process_fakes
import pytest

from distill_jax.errors import LostProcessError, UserError
from distill_jax.hosts import distributed

_TOLD = {
  "coordinator_address": "a:1",
  "process_count": 2,
  "process_index": 1,
}


@pytest.mark.parametrize(
  "flags,environment,expected",
  [
    ({}, {}, distributed.Launch()),
    (_TOLD, {}, distributed.Launch("a:1", 2, 1, is_several=True)),
    (
      {"process_index": 0},
      {"JAX_COORDINATOR_ADDRESS": "b:2", "JAX_NUM_PROCESSES": "3"},
      distributed.Launch("b:2", 3, 0, is_several=True),
    ),
    (
      {"multiprocess_gpu": True},
      {},
      distributed.Launch(detects=True, is_several=True),
    ),
    (
      {},
      {"SLURM_STEP_NODELIST": "n[1-2]", "SLURM_NTASKS": "2"},
      distributed.Launch(detects=True, is_several=True),
    ),
    # A shell in an allocation, and a step of one task, are one process.
    ({}, {"SLURM_NTASKS": "2"}, distributed.Launch()),
    (
      {},
      {"SLURM_STEP_NODELIST": "n1", "SLURM_NTASKS": "1"},
      distributed.Launch(),
    ),
  ],
)
def test_how_a_process_is_told_to_join(
  flags, environment, expected, monkeypatch
):
  monkeypatch.setattr(
    distributed.importlib.util, "find_spec", lambda name: None
  )
  assert distributed.read_launch(flags, environment) == expected


def test_a_tpu_host_asks_jax_whether_there_are_others(monkeypatch):
  monkeypatch.setattr(
    distributed.importlib.util, "find_spec", lambda name: object()
  )
  found = distributed.read_launch({}, {})
  assert found.detects and not found.is_several
  assert not distributed.read_launch({}, {"JAX_PLATFORMS": "cpu"}).detects


@pytest.mark.parametrize(
  "flags,environment,message",
  [
    ({"process_count": 2}, {}, "coordinator_address and process_index must"),
    (_TOLD | {"process_index": 2}, {}, "--process_index is 2 and --process_c"),
    (_TOLD | {"process_count": 0}, {}, "processes are counted from 0"),
    (_TOLD | {"coordinator_address": "a"}, {}, "is 'a'; it is a host and a"),
    ({}, {"JAX_PROCESS_ID": "one"}, "JAX_PROCESS_ID is 'one'; it must be"),
  ],
)
def test_what_does_not_fit_together(flags, environment, message):
  with pytest.raises(UserError, match=message):
    distributed.read_launch(flags, environment)


def test_one_process_joins_nobody_and_agrees_with_itself(monkeypatch):
  monkeypatch.setattr(distributed.jax.distributed, "initialize", None)
  assert not distributed.join(distributed.Launch(), 1, 1)
  assert not distributed.join(distributed.Launch("a:1", 1, 0), 1, 1)
  assert distributed.gather("x", {"a": 1}) == [{"a": 1}]
  assert distributed.collect("x", {"a": 1}) == [{"a": 1}]
  assert distributed.share("x", lambda: 3) == 3
  distributed.agree("x", None)
  distributed.check_equal("x", "same")
  with pytest.raises(UserError, match="^mine$"):
    distributed.agree("x", "mine")


def test_no_cluster_detected_is_one_process(monkeypatch):
  def initialize(*args, **kwargs):
    raise ValueError("coordinator_address should be defined.")

  monkeypatch.setattr(distributed.jax.distributed, "initialize", initialize)
  assert not distributed.join(distributed.Launch(detects=True), 1, 1)
  # Alone, each of them would take MODEL_DIR for its own.
  asked = distributed.Launch(detects=True, is_several=True)
  with pytest.raises(UserError, match="detects no cluster. Give --coordin"):
    distributed.join(asked, 1, 1)


@pytest.fixture(name="slurm")
def fixture_slurm(monkeypatch):
  """(index) -> this process is that one of two tasks of `srun`."""
  with socket.socket() as probe:
    probe.bind(("127.0.0.1", 0))
    port = probe.getsockname()[1]

  def be(index):
    for name, value in {
      "JAX_COORDINATOR_PORT": port,
      "SLURM_JOB_ID": 7,
      "SLURM_STEP_NODELIST": "localhost,south",
      "SLURM_NTASKS": 2,
      "SLURM_PROCID": index,
      "SLURM_LOCALID": 0,
    }.items():
      monkeypatch.setenv(name, str(value))
    return distributed.read_launch({})

  monkeypatch.setattr(distributed.jax.distributed, "initialize", None)
  return be


@pytest.mark.parametrize(
  "index,message",
  [
    (0, "1 of 2 processes did not come to the .*localhost:.* 1 seconds: 1"),
    (1, "Process 1 on .* could not reach .* process 0 at localhost:"),
  ],
)
def test_who_is_missing_is_named_where_jax_detects_the_cluster(
  slurm, index, message
):
  with pytest.raises(LostProcessError, match=message):
    distributed.join(slurm(index), 1, 1)


@pytest.fixture(name="together")
def fixture_together(monkeypatch):
  """Runs a function as each of several processes, each in a thread."""
  process_fakes.join(
    monkeypatch, distributed, 0, 1, process_fakes.KeyValueStore()
  )
  local = threading.local()
  uses = distributed.collections.Counter

  class Uses:
    """A count for each thread, as each process has its own."""

    def __getitem__(self, name):
      return local.uses[name]

    def __setitem__(self, name, value):
      local.uses[name] = value

  monkeypatch.setattr(distributed, "_uses", Uses())
  monkeypatch.setattr(distributed, "process_index", lambda: local.index)
  monkeypatch.setattr(distributed, "_hosts", ["north", "south", "west"])

  def run(fn, count=3):
    monkeypatch.setattr(distributed, "process_count", lambda: count)

    def run_as(index):
      local.index, local.uses = index, uses()
      try:
        return fn(index)
      except UserError as error:
        return str(error)

    with concurrent.futures.ThreadPoolExecutor(count) as pool:
      return list(pool.map(run_as, range(count)))

  return run


def test_values_are_gathered_in_order_as_often_as_wanted(together):
  def run(index):
    return [distributed.gather("x", index * factor) for factor in (1, 2)]

  assert together(run) == [[[0, 1, 2], [0, 2, 4]]] * 3


def test_values_are_collected_by_process_0_while_others_go_on(together):
  others_are_gone = threading.Barrier(3)

  def run(index):
    if index == 0:
      others_are_gone.wait(10)
    found = [distributed.collect("x", index * factor) for factor in (1, 2)]
    if index:
      others_are_gone.wait(10)
    return found

  assert together(run) == [[[0, 1, 2], [0, 2, 4]], [None] * 2, [None] * 2]
  # It may be done at every step, and leaves nothing behind.
  assert not distributed.client().values


def test_process_0_makes_and_all_have(together):
  made = []

  def make():
    made.append(distributed.process_index())
    return {"path": "/a"}

  assert (
    together(lambda _: distributed.share("x", make)) == [{"path": "/a"}] * 3
  )
  assert made == [0]


def test_a_refusal_by_process_0_is_everybodys(together):
  def refuse():
    raise UserError("not here")

  assert together(lambda _: distributed.share("x", refuse)) == ["not here"] * 3


def test_a_problem_of_one_is_everybodys_and_names_it(together):
  found = together(
    lambda index: distributed.agree("x", "no disk" if index == 1 else None)
  )
  assert found == ["Process 1 (south): no disk"] * 3
  assert together(lambda _: distributed.agree("y", None)) == [None] * 3
  assert together(lambda _: distributed.agree("z", "bad")) == ["bad"] * 3


def test_what_two_were_told_is_compared(together):
  found = together(
    lambda index: distributed.check_equal(
      "settings", f"A = 1\nB = {int(index == 2)}\n"
    )
  )
  assert (
    found
    == [
      "All processes must be given the same settings. Process 0 (north) has"
      " 'B = 0', process 2 (west) has 'B = 1'."
    ]
    * 3
  )


def test_a_wait_names_for_whom_and_may_end(together, monkeypatch, caplog):
  monkeypatch.setattr(distributed, "_NOTICE_SECONDS", 0.05)
  monkeypatch.setattr(logging.getLogger("distill_jax"), "propagate", True)

  def run(index):
    if index == 2:
      return None
    return distributed.gather("x", index, timeout_seconds=0.15)

  message = "Process 2 (west) did not come to 'x' within 0.15 seconds. Look at"
  found = together(run)
  assert [text[: len(message)] for text in found[:2]] == [message] * 2
  assert "Waiting for process 2 (west) at 'x' since" in caplog.text
