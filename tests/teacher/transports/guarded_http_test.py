"""Tests of guarded_http.py: what is never read, unpacked or followed."""

import asyncio
import gzip
import zlib

import fault_server
import pytest
from fault_server import FaultServer, Reply
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("openai")

import httpx2
import openai

from distill_jax.teacher.transports import guarded_http
from distill_jax.teacher.transports.config import TeacherConfig


def _get(reply, max_bytes):
  """Returns the body, or the error, and how many requests the server saw."""

  async def run(base_url):
    sdk = guarded_http.make_sdk(TeacherConfig(base_url), "key", max_bytes)
    try:
      response = await sdk.get("/x", cast_to=httpx2.Response)
      return guarded_http.unpack(response, max_bytes or 10**6)
    except (guarded_http.RefusedReplyError, openai.APIStatusError) as error:
      return error
    finally:
      await sdk.close()

  with FaultServer(answer=reply) as server:
    return asyncio.run(run(server.base_url)), len(server.received)


@pytest.mark.parametrize("has_length", [True, False])
@pytest.mark.parametrize("num_bytes, is_read", [(100, True), (101, False)])
def test_a_reply_is_read_up_to_its_limit(num_bytes, is_read, has_length):
  reply = Reply(200, b"x" * num_bytes, has_length=has_length)
  outcome, _ = _get(reply, 100)
  if is_read:
    assert outcome == b"x" * num_bytes
  else:
    assert "longer than 100 bytes (MAX_RESPONSE_BYTES)" in str(outcome)
  assert _get(reply, None)[0] == b"x" * num_bytes


@pytest.mark.parametrize(
  ("body", "unpacked"),
  [
    (gzip.compress(b"text"), b"text"),
    (zlib.compress(b"text"), b"text"),
    (b"plain after all", b"plain after all"),
    (b"", b""),
  ],
  ids=["gzip", "deflate", "plain", "empty"],
)
def test_what_came_compressed_is_unpacked(body, unpacked):
  reply = Reply(200, body, headers={"content-encoding": "gzip"})
  assert _get(reply, 100)[0] == unpacked


def test_a_few_bytes_do_not_become_many():
  body = gzip.compress(bytes(10**7))
  reply = Reply(200, body, headers={"content-encoding": "gzip"})
  assert "longer than 20000 bytes" in str(_get(reply, 20_000)[0])
  assert "is compressed, which was not asked" in str(_get(reply, None)[0])


def test_no_redirect_is_followed():
  outcome, num_requests = _get(
    fault_server.status(302, location="/v1/elsewhere"), 1000
  )
  assert isinstance(outcome, openai.APIStatusError)
  assert (outcome.status_code, num_requests) == (302, 1)


@given(
  st.lists(st.binary(max_size=6) | st.sampled_from([b"\n", b"a\r", b"\xe2"])),
  st.integers(1, 8),
)
def test_lines_are_those_of_the_whole_file_however_it_is_cut(chunks, max_bytes):
  async def read():
    async def send():
      for chunk in chunks:
        yield chunk

    return [line async for line in guarded_http.split_lines(send(), max_bytes)]

  lines = (line[:max_bytes] for line in b"".join(chunks).split(b"\n"))
  assert asyncio.run(read()) == [line for line in lines if line.strip()]
