"""Processes meet at the coordinator's address before JAX joins them.

Layer 1; imports errors. `jax.distributed.initialize` aborts the program when a
process does not come, and cannot say which. So process 0 first listens at the
coordinator's address itself; every other process tells it its number, and all
go on when all have come. Whoever waits in vain says for whom.
"""

import socket
import time

from distill_jax.errors import UserError

_RETRY_SECONDS = 0.2
# A stranger at the port is not listened to for long.
_HELLO_SECONDS = 5.0
_MAX_LINE_BYTES = 4096
_GO = "go"


def meet(
  address: str, process_count: int, process_index: int, timeout_seconds: float
) -> None:
  """Waits until all processes have come.

  Args:
    address: host:port of process 0, free there.
    process_count: how many they are.
    process_index: which one this is.
    timeout_seconds: the longest to wait.

  Raises:
    UserError: names the processes that did not come, the coordinator that
      cannot be reached, or what two processes were told differently.
  """
  host, port = split_address(address)
  deadline = time.monotonic() + timeout_seconds
  if process_index == 0:
    _wait_for_all(address, port, process_count, deadline, timeout_seconds)
  else:
    reply = _report(
      address, (host, port), process_count, process_index, deadline
    )
    if reply != _GO:
      raise UserError(reply)


def split_address(address: str) -> tuple[str, int]:
  """Splits host:port.

  Raises:
    UserError: it is something else.
  """
  host, _, port = address.rpartition(":")
  if not host or not port.isdecimal() or not 0 < int(port) < 2**16:
    raise UserError(
      f"The coordinator's address is {address!r}; it is a host and a port, such"
      " as 10.0.0.1:1234."
    )
  return host.strip("[]"), int(port)


def _wait_for_all(address, port, process_count, deadline, timeout_seconds):
  hosts = {0: socket.gethostname()}
  connections: dict[int, socket.socket] = {}
  try:
    server = _listen(port)
  except OSError as error:
    raise UserError(
      f"Process 0 cannot listen at the coordinator's address {address}:"
      f" {error}. Give a free port of the host that process 0 runs on."
    ) from error
  try:
    while len(hosts) < process_count:
      server.settimeout(max(deadline - time.monotonic(), 0.001))
      try:
        connection, _ = server.accept()
        index, count, name = _read_hello(connection)
      except TimeoutError:
        if time.monotonic() < deadline:
          continue
        missing = sorted(set(range(process_count)) - hosts.keys())
        come = ", ".join(f"{i} ({hosts[i]})" for i in sorted(hosts))
        raise UserError(
          f"{len(missing)} of {process_count} processes did not come to the"
          f" coordinator {address} within {timeout_seconds:g} seconds:"
          f" {_list(missing)}. These did: {come}. Look at the others' logs and"
          " at the network between the hosts."
        ) from None
      except (OSError, ValueError):
        continue
      if count != process_count or not 0 < index < process_count:
        connections[-1] = connection
        raise UserError(
          f"Process 0 was told that there are {process_count} processes; one on"
          f" {name}, that it is number {index} of {count}. Give every process"
          " the same count, and numbers from 0."
        )
      if index in hosts:
        connections[-1] = connection
        raise UserError(
          f"Two processes were told that they are number {index}: on"
          f" {hosts[index]} and on {name}. Give each another number."
        )
      hosts[index], connections[index] = name, connection
  except UserError as error:
    _reply_all(connections, str(error))
    raise
  else:
    _reply_all(connections, _GO)
  finally:
    server.close()


def _listen(port: int) -> socket.socket:
  if socket.has_dualstack_ipv6():
    return socket.create_server(
      ("", port), family=socket.AF_INET6, dualstack_ipv6=True
    )
  return socket.create_server(("", port))


def _read_hello(connection: socket.socket) -> tuple[int, int, str]:
  connection.settimeout(_HELLO_SECONDS)
  index, count, name = _read_line(connection).split(" ", 2)
  return int(index), int(count), name


def _read_line(connection: socket.socket) -> str:
  received = b""
  while not received.endswith(b"\n"):
    part = connection.recv(_MAX_LINE_BYTES)
    if not part or len(received) > _MAX_LINE_BYTES:
      raise ValueError("no line")
    received += part
  return received.decode(errors="replace").strip()


def _reply_all(connections: dict[int, socket.socket], text: str) -> None:
  for connection in connections.values():
    try:
      connection.sendall(f"{text}\n".encode())
      connection.close()
    except OSError:
      pass  # It has gone; the next to need it will say so.


def _report(address, host_and_port, process_count, process_index, deadline):
  """Tells process 0 who has come; returns its answer."""
  hello = f"{process_index} {process_count} {socket.gethostname()}\n".encode()
  reason: Exception | None = None
  started = time.monotonic()
  while (left := deadline - time.monotonic()) > 0:
    try:
      with socket.create_connection(host_and_port, timeout=left) as connection:
        connection.sendall(hello)
        # Process 0 gives up at its own deadline, and says for whom it waited.
        connection.settimeout(left + _HELLO_SECONDS)
        return _read_line(connection)
    except (OSError, ValueError) as error:
      reason = error
    time.sleep(_RETRY_SECONDS)
  raise UserError(
    f"Process {process_index} on {socket.gethostname()} could not reach the"
    f" coordinator, process 0 at {address}, within"
    f" {time.monotonic() - started:.0f} seconds: {reason}. Start process 0 with"
    " the same address, or mend the name or the network."
  )


def _list(indices: list[int]) -> str:
  shown = ", ".join(map(str, indices[:16]))
  return shown + (f" and {len(indices) - 16} more" * (len(indices) > 16))
