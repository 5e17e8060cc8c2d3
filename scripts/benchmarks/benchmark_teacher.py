"""Measures the teacher's client against a server that answers at once.

  python scripts/benchmarks/benchmark_teacher.py
  python scripts/benchmarks/benchmark_teacher.py --requests=2000 --concurrency=1

The server runs in a process of its own, reads whole requests and writes a fixed
answer. The client and a bare loop over the same HTTP library, without SDK,
checks, limits or retries, take turns in blocks of requests, so that a busy
machine slows both alike. Each line printed is a JSON object: the machine, the
peak memory as requests go by, and at the end what a request costs, as medians
over the blocks. Overhead is the client's time less the bare loop's, by the
wall's clock and by the processor's.
"""

import asyncio
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable

import httpx2
from absl import flags

from distill_jax.config import command_line, console_logging
from distill_jax.teacher.asking.exchange import Request
from distill_jax.teacher.transports import client

_REQUESTS = flags.DEFINE_integer("requests", 10_000, "Requests of the client.")
_CONCURRENCY = flags.DEFINE_integer("concurrency", 8, "Requests under way.")
_BLOCK = flags.DEFINE_integer("block", 500, "Requests before the other's turn.")
_SERVE = flags.DEFINE_bool("serve", False, "Be the server; used by itself.")

_ANSWER = {
  "model": "stub",
  "choices": [
    {
      "index": 0,
      "finish_reason": "stop",
      "message": {
        "role": "assistant",
        "content": "There are 3 cars and 2 more arrive. 3 + 2 = 5. The answer"
        " is (3 + 2).",
      },
    }
  ],
  "usage": {"prompt_tokens": 700, "completion_tokens": 25},
}
# As long as a prompt with eight demonstrations.
_PROMPT = "Q: There are 3 cars and 2 more arrive. How many?\nA: " * 55


class _StubServer(asyncio.Protocol):
  """Answers every request alike, as fast as Python can."""

  def __init__(self):
    body = json.dumps(_ANSWER).encode()
    self._reply = (
      b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n"
      b"content-length: %d\r\n\r\n%s" % (len(body), body)
    )
    self._received = bytearray()

  def connection_made(self, transport):
    self._transport = transport

  def data_received(self, data):
    self._received += data
    head_bytes = self._received.find(b"\r\n\r\n") + 4
    if head_bytes < 4:
      return
    head = bytes(self._received[:head_bytes]).lower()
    length = head.split(b"content-length:")[1].split(b"\r\n")[0]
    if len(self._received) >= head_bytes + int(length):
      self._received.clear()  # A client sends the next after the answer.
      self._transport.write(self._reply)


async def _serve() -> None:
  loop = asyncio.get_running_loop()
  server = await loop.create_server(_StubServer, "127.0.0.1", 0)
  print(server.sockets[0].getsockname()[1], flush=True)
  await server.serve_forever()


async def _run_block(
  send_fn: Callable[[int], Awaitable[object]], indices: range, concurrency: int
) -> tuple[float, float]:
  """Returns the wall and the processor seconds a request took."""
  remaining = iter(indices)

  async def work():
    for index in remaining:
      await send_fn(index)

  start, start_cpu = time.perf_counter(), time.process_time()
  await asyncio.gather(*(work() for _ in range(concurrency)))
  wall, cpu = time.perf_counter() - start, time.process_time() - start_cpu
  return wall / len(indices), cpu / len(indices)


def _get_peak_mib() -> float:
  return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _report(**fields) -> None:
  print(json.dumps(fields), flush=True)


async def _measure(base_url: str) -> None:
  concurrency = _CONCURRENCY.value
  teacher = client.TeacherClient(
    client.TeacherConfig(base_url, max_concurrency=concurrency)
  )
  bare = httpx2.AsyncClient(timeout=60, trust_env=False)
  messages = [{"role": "user", "content": _PROMPT}]

  async def ask(index: int):
    request = Request("stub", "chat", messages, {"max_tokens": 64}, index)
    assert (await teacher.send(request)).prompt_tokens == 700

  async def ask_bare(index: int):
    del index
    body = {"model": "stub", "messages": messages, "max_tokens": 64}
    reply = await bare.post(f"{base_url}/chat/completions", json=body)
    assert reply.json()["usage"]["prompt_tokens"] == 700

  # Connections, imports and caches are not what is measured.
  for send_fn in (ask, ask_bare):
    await _run_block(send_fn, range(4 * concurrency), concurrency)
  blocks = {ask: [], ask_bare: []}
  marks = {_REQUESTS.value * tenths // 10 for tenths in (1, 5, 10)}
  for start in range(0, _REQUESTS.value, _BLOCK.value):
    indices = range(start, min(start + _BLOCK.value, _REQUESTS.value))
    for send_fn, taken in blocks.items():
      taken.append(await _run_block(send_fn, indices, concurrency))
    if indices.stop in marks:
      _report(requests=indices.stop, peak_rss_mib=round(_get_peak_mib(), 1))
  await teacher.close()
  await bare.aclose()

  wall, cpu = (
    {
      send_fn: statistics.median(pair[column] for pair in taken) * 1e6
      for send_fn, taken in blocks.items()
    }
    for column in (0, 1)
  )
  _report(
    concurrency=concurrency,
    requests_per_second=round(1e6 / wall[ask]),
    bare_requests_per_second=round(1e6 / wall[ask_bare]),
    wall_us_per_request=round(wall[ask]),
    cpu_us_per_request=round(cpu[ask]),
    overhead_wall_us=round(wall[ask] - wall[ask_bare]),
    overhead_cpu_us=round(cpu[ask] - cpu[ask_bare]),
  )


def main(argv):
  del argv
  console_logging.set_up()  # Or the HTTP library tells of every request.
  if _SERVE.value:
    asyncio.run(_serve())
    return
  _report(
    python=platform.python_version(),
    cpus=os.cpu_count(),
    load=[round(load, 2) for load in os.getloadavg()],
  )
  server = subprocess.Popen(
    [sys.executable, __file__, "--serve"], stdout=subprocess.PIPE, text=True
  )
  try:
    assert server.stdout is not None
    port = int(server.stdout.readline())
    asyncio.run(_measure(f"http://127.0.0.1:{port}/v1"))
  finally:
    server.kill()
    server.wait()


if __name__ == "__main__":
  command_line.run("benchmark_teacher.py", main, sys.argv)
