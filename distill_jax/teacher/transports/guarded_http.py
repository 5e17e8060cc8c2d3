"""The `openai` SDK's client, guarded against what a server may send.

Owns what is never done: no reply is read or unpacked beyond a size, or fetched
from where a redirect points. Knows no retry.
"""

import zlib
from collections.abc import AsyncIterator
from typing import Any

import httpx2
import openai

from distill_jax.teacher.transports.config import TeacherConfig, read_extras

_PACKED = "distill_jax.packed"
# zlib's words for gzip and zlib by their heads, and for the bare format.
_ANY_HEAD, _NO_HEAD = 32 + zlib.MAX_WBITS, -zlib.MAX_WBITS


class RefusedReplyError(Exception):
  """A reply that is not read to its end.

  Attributes:
    response: the reply, its body unread.
  """

  def __init__(self, message: str, response: httpx2.Response):
    super().__init__(message)
    self.response = response


class _LimitedStream(httpx2.AsyncByteStream):
  """A reply's body, cut off with an error after so many bytes."""

  def __init__(self, response: httpx2.Response, max_bytes: int):
    self._response = response
    self._stream: Any = response.stream
    self._max_bytes = max_bytes

  async def __aiter__(self) -> AsyncIterator[bytes]:
    num_bytes = 0
    async for chunk in self._stream:
      num_bytes += len(chunk)
      if num_bytes > self._max_bytes:
        raise RefusedReplyError(
          f"The reply is longer than {self._max_bytes} bytes"
          " (MAX_RESPONSE_BYTES)",
          self._response,
        )
      yield chunk

  async def aclose(self) -> None:
    await self._stream.aclose()


def make_sdk(
  config: TeacherConfig, key: str, max_bytes: int | None
) -> openai.AsyncOpenAI:
  """Makes the SDK's client; replies above `max_bytes` are refused."""

  async def guard(response: httpx2.Response) -> None:
    encoding = response.headers.get("content-encoding", "identity")
    if encoding != "identity":
      # A few bytes may unpack to any number of them: `unpack` bounds it.
      if max_bytes is None:
        raise RefusedReplyError(
          "The reply is compressed, which was not asked", response
        )
      del response.headers["content-encoding"]
      response.extensions[_PACKED] = True
    if max_bytes is not None:
      response.stream = _LimitedStream(response, max_bytes)

  async def leave_out_key(request: httpx2.Request) -> None:
    # Azure takes this header for a token of another kind.
    request.headers.pop("authorization", None)

  hooks: dict[str, list[Any]] = {"response": [guard]}
  if config.api_key_variable is None and not _has_authorization(config):
    hooks["request"] = [leave_out_key]
  return openai.AsyncOpenAI(
    api_key=key,
    base_url=config.base_url,
    max_retries=0,
    timeout=config.timeout_seconds,
    default_headers={
      "Accept-Encoding": "identity",
      **read_extras(config.extra_headers),
    },
    default_query=read_extras(config.extra_query),
    http_client=httpx2.AsyncClient(
      timeout=config.timeout_seconds,
      # The caller bounds concurrency; a queue here would eat into timeouts.
      limits=httpx2.Limits(
        max_connections=None, max_keepalive_connections=config.max_concurrency
      ),
      # A redirected POST becomes a GET, or a key goes to another host.
      follow_redirects=False,
      event_hooks=hooks,
      # A proxy of the environment's cannot reach this machine.
      trust_env=not config.is_local,
    ),
  )


def _has_authorization(config: TeacherConfig) -> bool:
  return any(name.lower() == "authorization" for name in config.extra_headers)


def unpack(response: httpx2.Response, max_bytes: int) -> bytes:
  """Returns a reply's body, unpacked where it came compressed.

  Compression is not asked for; what is called compressed and is not stays as
  it is.

  Args:
    response: read to its end.
    max_bytes: no more than these are unpacked.

  Raises:
    RefusedReplyError: it is longer.
  """
  content = response.content
  if not response.extensions.get(_PACKED):
    return content
  for head in (_ANY_HEAD, _NO_HEAD):
    try:
      unpacked = zlib.decompressobj(head).decompress(content, max_bytes + 1)
    except zlib.error:
      continue
    if len(unpacked) > max_bytes:
      raise RefusedReplyError(
        f"The unpacked reply is longer than {max_bytes} bytes"
        " (MAX_RESPONSE_BYTES)",
        response,
      )
    return unpacked
  return content


async def split_lines(
  chunks: AsyncIterator[bytes], max_bytes: int
) -> AsyncIterator[bytes]:
  """Yields lines without their ends; only "\n" ends one, as in JSONL.

  Args:
    chunks: the file.
    max_bytes: what a line has beyond these is left out.
  """
  line = bytearray()
  async for chunk in chunks:
    for index, part in enumerate(chunk.split(b"\n")):
      if index > 0:
        if line.strip():
          yield bytes(line)
        line.clear()
      line += part[: max_bytes - len(line)]
  if line.strip():
    yield bytes(line)
