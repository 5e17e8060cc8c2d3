"""Tests of hosts/rendezvous.py: all come, or it is said who did not."""

import concurrent.futures
import socket
import time

import pytest

from distill_jax.errors import LostProcessError, UserError
from distill_jax.hosts import rendezvous


@pytest.fixture(name="address")
def fixture_address():
  with socket.socket() as probe:
    probe.bind(("127.0.0.1", 0))
    return f"127.0.0.1:{probe.getsockname()[1]}"


def meet_all(address, told, timeout_seconds=20.0):
  """Lets processes meet; returns what each ran into, None where all is well.

  Args:
    address: where.
    told: (index, count) of each.
    timeout_seconds: of each.
  """

  def meet(index, count):
    try:
      rendezvous.meet(address, count, index, timeout_seconds)
    except UserError as error:
      return str(error)
    return None

  with concurrent.futures.ThreadPoolExecutor(len(told)) as pool:
    return list(pool.map(lambda arguments: meet(*arguments), told))


def test_all_go_on_when_all_have_come(address):
  assert meet_all(address, [(2, 3), (1, 3), (0, 3)]) == [None] * 3
  # The port is free again, for JAX.
  assert meet_all(address, [(0, 2), (1, 2)]) == [None] * 2


def test_those_that_do_not_come_are_named_to_all(address):
  found = meet_all(address, [(0, 4), (2, 4)], timeout_seconds=1.0)
  for message in found:
    assert message.startswith("2 of 4 processes did not come to the coordinat")
    assert (
      f"within 1 seconds: 1, 3. These did: 0 ({socket.gethostname()}), 2"
      in (message)
    )


def test_who_comes_late_may_be_given_the_command_again(address):
  """And who was told wrongly may not."""
  for index in (0, 1):
    with pytest.raises(LostProcessError):
      rendezvous.meet(address, 2, index, 0.3)

  def find_exit_codes(told, seconds):
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
      futures = [
        pool.submit(rendezvous.meet, address, count, index, seconds)
        for index, count in told
      ]
      return [future.exception().exit_code for future in futures]

  # The second is told so by the first.
  assert find_exit_codes([(0, 3), (1, 3)], 0.5) == [75, 75]
  assert find_exit_codes([(0, 2), (1, 3)], 3.0) == [2, 2]


def test_process_0_may_start_later_by_almost_the_whole_time(address):
  """The others then wait as long as it does, not as long as they would."""
  with concurrent.futures.ThreadPoolExecutor(3) as pool:
    first = pool.submit(rendezvous.meet, address, 3, 1, 1.5)
    time.sleep(1.2)
    coordinator = pool.submit(rendezvous.meet, address, 3, 0, 10.0)
    time.sleep(1.5)
    assert not first.done()
    rendezvous.meet(address, 3, 2, 5.0)
    assert first.result(5) is coordinator.result(5) is None


def test_one_that_was_started_again_may_come_again(address):
  host, port = rendezvous.split_address(address)
  with concurrent.futures.ThreadPoolExecutor(2) as pool:
    coordinator = pool.submit(rendezvous.meet, address, 3, 0, 10.0)
    deadline = time.monotonic() + 5
    while True:
      try:
        former = socket.create_connection((host, port))
        break
      except OSError:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    former.sendall(b"1 3 a_host\n")
    time.sleep(0.3)
    former.close()  # It was killed, and is started on another host.
    time.sleep(0.3)
    again = pool.submit(rendezvous.meet, address, 3, 1, 5.0)
    time.sleep(0.3)  # Nobody else comes in between.
    assert not again.done() and not coordinator.done()
    rendezvous.meet(address, 3, 2, 5.0)
    assert again.result(5) is coordinator.result(5) is None


def test_a_reply_may_be_long(address, monkeypatch):
  monkeypatch.setattr(socket, "gethostname", lambda: "host" * 1000)
  found = meet_all(address, [(0, 5), (1, 5), (2, 5)], timeout_seconds=1.0)
  for message in found:
    assert message.startswith("2 of 5 processes did not come")
    assert message.count("host" * 1000) == 3


def test_a_coordinator_that_does_not_answer_is_named(address):
  started = time.monotonic()
  (message,) = meet_all(address, [(1, 2)], timeout_seconds=0.5)
  assert time.monotonic() - started < 10
  assert f"Process 1 on {socket.gethostname()} could not reach the" in message
  assert f"process 0 at {address}, within" in message
  assert "refused" in message


@pytest.mark.parametrize(
  "told,message",
  [
    ([(0, 2), (1, 3)], "told that there are 2 processes; one on .* 1 of 3"),
    ([(0, 3), (1, 3), (1, 3)], "Two processes were told that they are numbe"),
  ],
)
def test_processes_that_were_told_different_things(address, told, message):
  found = [text for text in meet_all(address, told, 3.0) if text is not None]
  # Both sides of the contradiction are told of it.
  assert len(found) >= 2
  for text in found[:2]:
    with pytest.raises(UserError, match=message):
      raise UserError(text)


def test_a_stranger_at_the_port_is_not_counted(address):
  with concurrent.futures.ThreadPoolExecutor(1) as pool:
    waiting = pool.submit(meet_all, address, [(0, 2)], 20.0)
    host_and_port = rendezvous.split_address(address)
    for _ in range(100):
      try:
        with socket.create_connection(host_and_port) as stranger:
          stranger.sendall(b"GET / HTTP/1.1\r\n\r\n")
        break
      except OSError:
        time.sleep(0.05)
    assert meet_all(address, [(1, 2)]) == [None]
    assert waiting.result() == [None]


def test_a_port_that_is_taken(address):
  with socket.create_server(rendezvous.split_address(address)):
    with pytest.raises(UserError, match="cannot listen at the coordinator's"):
      rendezvous.meet(address, 2, 0, 1.0)


@pytest.mark.parametrize("address", ["host", "host:", ":1", "h:70000", "h:a"])
def test_what_is_no_address(address):
  with pytest.raises(UserError, match="a host and a port, such as"):
    rendezvous.split_address(address)
