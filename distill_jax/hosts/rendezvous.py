"""Processes meet at the coordinator's address before JAX joins them.

`jax.distributed.initialize` aborts the program when a process does not come,
and cannot say which. So process 0 first listens at the coordinator's address
itself; every other process tells it its number, and all go on when all have
come. Whoever waits in vain says for whom.
"""

import socket
import time

from distill_jax.errors import LostProcessError, UserError

_RETRY_SECONDS = 0.2
# A stranger at the port is not listened to for long.
_HELLO_SECONDS = 5.0
_MAX_HELLO_BYTES = 4096
_MAX_REPLY_BYTES = 2**20
_GO = "0"  # A reply is an exit code and a message.


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
    LostProcessError: names the processes that did not come, or the coordinator
      that cannot be reached.
    UserError: what two processes were told differently; the port is not free.
  """
  if process_index == 0:
    _wait_for_all(address, process_count, timeout_seconds)
  else:
    reply = _report(address, process_count, process_index, timeout_seconds)
    code, _, message = reply.partition(" ")
    if code != _GO:
      is_lost = code == str(LostProcessError.exit_code)
      raise LostProcessError(message) if is_lost else UserError(message)


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


def _wait_for_all(address, process_count, timeout_seconds):
  deadline = time.monotonic() + timeout_seconds
  hosts = {0: socket.gethostname()}
  connections: dict[int, socket.socket] = {}
  try:
    server = _listen(split_address(address)[1])
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
        _forget_closed(connections, hosts)
        missing = sorted(set(range(process_count)) - hosts.keys())
        come = [f"{i} ({hosts[i]})" for i in sorted(hosts)]
        raise LostProcessError(
          f"{len(missing)} of {process_count} processes did not come to the"
          f" coordinator {address} within {timeout_seconds:g} seconds:"
          f" {_list(missing)}. These did: {_list(come)}. Look at the others'"
          " logs and at the network between the hosts."
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
      _forget_closed(connections, hosts)
      if index in hosts:
        connections[-1] = connection
        raise UserError(
          f"Two processes were told that they are number {index}: on"
          f" {hosts[index]} and on {name}. Give each another number."
        )
      hosts[index], connections[index] = name, connection
  except UserError as error:
    _reply_all(connections, f"{error.exit_code} {error}")
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
  try:
    line = _read_line(connection, _MAX_HELLO_BYTES)
    index, count, name = line.split(" ", 2)
    return int(index), int(count), name
  except (OSError, ValueError):
    connection.close()
    raise


def _forget_closed(connections, hosts) -> None:
  """Forgets who is gone: it may be started again, and come again."""
  for index in [i for i in connections if _is_closed(connections[i])]:
    connections.pop(index).close()
    del hosts[index]


def _is_closed(connection: socket.socket) -> bool:
  """Whether the other side is gone; it sends nothing after its hello."""
  connection.settimeout(0)
  try:
    return not connection.recv(1)
  except BlockingIOError:
    return False
  except OSError:
    return True
  finally:
    connection.settimeout(_HELLO_SECONDS)


def _read_line(connection: socket.socket, max_bytes: int) -> str:
  received = b""
  while not received.endswith(b"\n"):
    part = connection.recv(max_bytes)
    if not part or len(received) > max_bytes:
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


def _report(address, process_count, process_index, timeout_seconds):
  """Tells process 0 who has come; returns its answer."""
  hello = f"{process_index} {process_count} {socket.gethostname()}\n".encode()
  reason: Exception | None = None
  started = time.monotonic()
  while (left := started + timeout_seconds - time.monotonic()) > 0:
    try:
      with socket.create_connection(
        split_address(address), timeout=left
      ) as connection:
        connection.sendall(hello)
        # Process 0, which may have started later, gives up at its own
        # deadline, and says for whom it waited.
        connection.settimeout(timeout_seconds + _HELLO_SECONDS)
        return _read_line(connection, _MAX_REPLY_BYTES)
    except (OSError, ValueError) as error:
      reason = error
    time.sleep(_RETRY_SECONDS)
  raise LostProcessError(
    f"Process {process_index} on {socket.gethostname()} could not reach the"
    f" coordinator, process 0 at {address}, within"
    f" {time.monotonic() - started:.0f} seconds: {reason}. Start process 0 with"
    " the same address, or mend the name or the network."
  )


def _list(names: list) -> str:
  shown = ", ".join(map(str, names[:16]))
  return shown + (f" and {len(names) - 16} more" * (len(names) > 16))
