"""A teacher that misbehaves on purpose: an HTTP server for tests, on loopback.

  with FaultServer([status(500), dropped()]) as server:
    ...                                   # talk to server.base_url
    assert len(server.received) == 3      # 500, a dropped connection, an answer

Each request gets the next reply of the script, and once the script is used up
`answer` makes the reply: by default a right one that says "answer to ..." and
repeats the prompt's last 40 characters. A function from the request to a reply
may stand wherever a reply may. The replies below are all that tests need; make
others with `Reply`. The server runs in a thread of its own and is ready when
`with` begins, so a test may use asyncio, threads or another process.

`BatchServer` has the provider's batch endpoints besides.
"""

import asyncio
import dataclasses
import email
import email.policy
import email.utils
import gzip
import itertools
import json
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

# Comes back from llama.cpp's server and from OpenAI's for a prompt that is too
# long; the same status, and not the same words.
LLAMA_CPP_CONTEXT_ERROR = {
  "error": {
    "code": 400,
    "message": "the request exceeds the available context size, try increasing"
    " it",
    "type": "exceed_context_size_error",
    "n_prompt_tokens": 9000,
    "n_ctx": 2048,
  }
}
OPENAI_CONTEXT_ERROR = {
  "error": {
    "message": "This model's maximum context length is 4097 tokens. However,"
    " your messages resulted in 9000 tokens.",
    "type": "invalid_request_error",
    "param": "messages",
    "code": "context_length_exceeded",
  }
}
# Both come with status 400.
ANTHROPIC_NO_CREDIT = {
  "error": {
    "type": "invalid_request_error",
    "message": "Your credit balance is too low to access the API. Please go to"
    " Plans & Billing to upgrade or purchase credits.",
  }
}
GOOGLE_BAD_KEY = [
  {
    "error": {
      "code": 400,
      "message": "API key not valid. Please pass a valid API key.",
      "status": "INVALID_ARGUMENT",
      "details": [{"reason": "API_KEY_INVALID"}],
    }
  }
]
HTML_PAGE = b"<!doctype html><html><body><h1>Bad gateway</h1></body></html>"


@dataclasses.dataclass(frozen=True)
class Received:
  """A request as it came.

  Attributes:
    method: "POST", ...
    path: with its query, e.g. "/v1/chat/completions".
    headers: names in lower case.
    body: as sent.
  """

  method: str
  path: str
  headers: Mapping[str, str]
  body: bytes

  @property
  def json(self) -> Any:
    """The body, read."""
    return json.loads(self.body)

  @property
  def prompt(self) -> str:
    """The prompt's text; of a chat, its last message's."""
    if "messages" in self.json:
      return self.json["messages"][-1]["content"]
    return self.json["prompt"]


@dataclasses.dataclass(frozen=True)
class Reply:
  """What the server does with one request.

  Attributes:
    status: of the response.
    body: sent as it is.
    content_type: None: no such header.
    headers: besides.
    num_sent_bytes: how much of the body is sent before the connection breaks;
      None: all, and the connection stays.
    is_silent: nothing is ever sent; the client must give up.
    is_dropped: the connection breaks before anything is sent.
    delay_seconds: before the reply.
    seconds_a_byte: sent byte by byte, this slowly.
    has_length: the size is announced; else the connection's end is the body's.
    num_tokens: of prompt and answer, billed once all of it was delivered; None:
      nothing is.
  """

  status: int = 200
  body: bytes = b""
  content_type: str | None = "application/json"
  headers: Mapping[str, str] = dataclasses.field(default_factory=dict)
  num_sent_bytes: int | None = None
  is_silent: bool = False
  is_dropped: bool = False
  delay_seconds: float = 0.0
  seconds_a_byte: float = 0.0
  has_length: bool = True
  num_tokens: tuple[int, int] | None = None


ReplyFn = Callable[[Received], Reply]


# --- Right answers ----------------------------------------------------------


def make_answer(
  received: Received,
  text: str | None,
  finish_reason: str | None = "stop",
  **message: Any,
) -> dict[str, Any]:
  """Returns the body that answers a request, in its endpoint's form.

  Args:
    received: the request.
    text: what the teacher says.
    finish_reason: why it ended.
    **message: more fields of a chat's message, such as `reasoning_content`.
  """
  is_chat = "/chat/" in received.path
  choice: dict[str, Any] = {"index": 0, "finish_reason": finish_reason}
  if is_chat:
    choice["message"] = {"role": "assistant", "content": text, **message}
  else:
    choice["text"] = text
  return {
    "id": "answer-1",
    "object": "chat.completion" if is_chat else "text_completion",
    "created": 1,
    "model": received.json["model"],
    "choices": [choice],
    "usage": {"prompt_tokens": 11, "completion_tokens": 7, "total_tokens": 18},
  }


def answer(text: str | None, **fields: Any) -> ReplyFn:
  """A right answer with this text; `fields` as in `make_answer`."""
  return lambda received: json_body(make_answer(received, text, **fields))


def echo(received: Received) -> Reply:
  """The right answer that a server gives of itself."""
  return answer(f"answer to {received.prompt[-40:]}")(received)


def json_body(body: Any, status: int = 200, **headers: str) -> Reply:
  """Any JSON with any status."""
  return Reply(status, json.dumps(body).encode(), headers=headers)


# --- The same answer, wrapped ----------------------------------------------


def as_events(reply: Reply) -> Reply:
  """The answer as server-sent events, a few letters each, usage at the end."""
  body = json.loads(reply.body)
  (choice,) = body["choices"]
  fields = choice.get("message") or {"text": choice.get("text")}
  chunks = []
  for name, value in fields.items():
    for start in range(0, len(value or ""), 5):
      delta = {name: value[start : start + 5]}
      is_chat = "message" in choice
      chunks.append({"index": 0, **({"delta": delta} if is_chat else delta)})
  chunks.append({"index": 0, "finish_reason": choice["finish_reason"]})
  events = [
    *({"model": body["model"], "choices": [chunk]} for chunk in chunks),
    {"model": body["model"], "choices": [], "usage": body["usage"]},
  ]
  text = ": keep-alive\n\n" + "".join(
    f"data: {event}\n\n" for event in [*map(json.dumps, events), "[DONE]"]
  )
  return dataclasses.replace(
    reply, body=text.encode(), content_type="text/event-stream"
  )


def as_compressed(reply: Reply) -> Reply:
  """The answer, packed though that was not asked."""
  return dataclasses.replace(
    reply,
    body=gzip.compress(reply.body),
    headers={"content-encoding": "gzip"},
  )


def prefixed(reply: Reply, prefix: bytes) -> Reply:
  """The answer behind a byte order mark, blank lines or comments."""
  return dataclasses.replace(reply, body=prefix + reply.body)


# --- Wrong ones -------------------------------------------------------------


def status(code: int, message: str = "as the test asked", **headers) -> Reply:
  """An error in OpenAI's form; `retry_after="3"` is the header Retry-After."""
  headers = {name.replace("_", "-"): value for name, value in headers.items()}
  error = {"message": message, "type": "test_error", "code": None}
  return json_body({"error": error}, code, **headers)


def rate_limited(
  *,
  seconds: float | None = None,
  date_in_seconds: float | None = None,
  milliseconds: float | None = None,
) -> Reply:
  """A 429 that says when to come back in one of three ways, or does not."""
  headers = {}
  if seconds is not None:
    headers["retry_after"] = f"{seconds:g}"
  if date_in_seconds is not None:
    # A date has whole seconds; the server's own clock goes with it.
    now = int(time.time())
    headers["date"] = email.utils.formatdate(now, usegmt=True)
    headers["retry_after"] = email.utils.formatdate(
      now + date_in_seconds, usegmt=True
    )
  if milliseconds is not None:
    headers["retry_after_ms"] = f"{milliseconds:g}"
  return status(429, "slow down", **headers)


def silent() -> Reply:
  """Takes the request and never replies."""
  return Reply(is_silent=True)


def dropped() -> Reply:
  """Breaks the connection instead of replying."""
  return Reply(is_dropped=True)


def dropped_within_body(num_sent_bytes: int = 20) -> ReplyFn:
  """Announces a whole answer and breaks the connection in the middle."""
  return lambda received: dataclasses.replace(
    echo(received), num_sent_bytes=num_sent_bytes
  )


def truncated_json() -> ReplyFn:
  """A right answer whose end is missing, though HTTP says it is whole."""
  return lambda received: dataclasses.replace(
    echo(received), body=echo(received).body[:-30]
  )


def html_page(code: int = 200) -> Reply:
  """What a proxy says in a server's place."""
  return Reply(code, HTML_PAGE, "text/html; charset=utf-8")


def empty_choices() -> ReplyFn:
  """An answer with no choice in it."""
  return lambda received: json_body(
    make_answer(received, None) | {"choices": []}
  )


def null_content() -> ReplyFn:
  """An answer whose text is null."""
  return answer(None)


def wrong_content_type(content_type: str | None = "text/plain") -> ReplyFn:
  """A right answer called something else."""
  return lambda received: dataclasses.replace(
    echo(received), content_type=content_type
  )


def invalid_utf8() -> ReplyFn:
  """A right answer with bytes that are no text."""
  return lambda received: dataclasses.replace(
    echo(received), body=echo(received).body.replace(b"answer to", b"\xff\xfe")
  )


def huge_answer(
  num_bytes: int = 10_000_000, has_length: bool = True
) -> ReplyFn:
  """A right answer of this size, announced or not."""
  return lambda received: dataclasses.replace(
    answer("x" * num_bytes)(received), has_length=has_length
  )


def dripping(seconds_a_byte: float = 0.01) -> ReplyFn:
  """A right answer, byte by byte."""
  return lambda received: dataclasses.replace(
    echo(received), seconds_a_byte=seconds_a_byte
  )


def context_error(body: Mapping[str, Any] = OPENAI_CONTEXT_ERROR) -> Reply:
  """The prompt is too long; `LLAMA_CPP_CONTEXT_ERROR` is the other form."""
  return json_body(body, 400)


# --- The server -------------------------------------------------------------


class FaultServer:
  """Replies by a script; see the module.

  Attributes:
    base_url: what TEACHER_BASE_URL takes.
    received: every request so far, in the order they came.
    max_concurrent: the most requests that were being served at once.
    num_connections: connections opened so far.
    num_sent_bytes: bytes of bodies that were handed to the network.
    billed: prompt and answer tokens of each reply that was delivered whole.
  """

  def __init__(
    self,
    script: Iterable[Reply | ReplyFn] = (),
    answer: Reply | ReplyFn = echo,
  ):
    self._script = iter(script)
    self._answer = answer
    self.received: list[Received] = []
    self.max_concurrent = 0
    self.num_connections = 0
    self.num_sent_bytes = 0
    self.billed: list[tuple[int, int]] = []
    self._num_concurrent = 0
    self._writers: set[asyncio.StreamWriter] = set()
    self._is_ready = threading.Event()
    self._thread = threading.Thread(
      target=lambda: asyncio.run(self._run()), daemon=True
    )
    self._port = 0

  @property
  def base_url(self) -> str:
    return f"http://127.0.0.1:{self._port}/v1"

  def __enter__(self):
    self._thread.start()
    self._is_ready.wait()
    return self

  def __exit__(self, *_):
    self.stop()

  def stop(self) -> None:
    """Ends the server before `with` does."""
    if self._thread.is_alive():
      self._loop.call_soon_threadsafe(self._stop.set)
      self._thread.join()

  def break_connections(self) -> None:
    """Breaks all there are; from a reply's function only.

    What a reply still sends on one of them is neither delivered nor billed.
    """
    for writer in self._writers:
      writer.transport.abort()

  async def _run(self):
    self._loop = asyncio.get_running_loop()
    self._stop = asyncio.Event()
    server = await asyncio.start_server(
      self._serve, "127.0.0.1", 0, limit=2**20
    )
    self._port = server.sockets[0].getsockname()[1]
    self._is_ready.set()
    await self._stop.wait()
    server.close()
    for writer in self._writers:
      writer.transport.abort()
    # What still serves is cancelled where the loop ends.

  async def _serve(self, reader, writer):
    self._writers.add(writer)
    self.num_connections += 1
    try:
      while (received := await _read_request(reader)) is not None:
        self.received.append(received)
        self._num_concurrent += 1
        self.max_concurrent = max(self.max_concurrent, self._num_concurrent)
        try:
          if not await self._reply(self._choose(received), writer):
            break
        finally:
          self._num_concurrent -= 1
    except (ConnectionError, asyncio.IncompleteReadError):
      pass  # The client went away, as it may.
    except asyncio.CancelledError:
      pass  # The test is over; the stream's own callback would report this.
    finally:
      self._writers.discard(writer)
      # Not close(): what the client must see is a broken connection.
      writer.transport.abort()

  def _choose(self, received: Received) -> Reply:
    reply = next(self._script, self._answer)
    return reply if isinstance(reply, Reply) else reply(received)

  async def _reply(self, reply: Reply, writer) -> bool:
    """Sends a reply; returns whether the connection goes on."""
    await asyncio.sleep(reply.delay_seconds)
    if reply.is_silent:
      await asyncio.Event().wait()
    if reply.is_dropped:
      return False
    headers = dict(reply.headers)
    if reply.content_type is not None:
      headers["content-type"] = reply.content_type
    if reply.has_length:
      headers["content-length"] = str(len(reply.body))
    head = [f"HTTP/1.1 {reply.status} Test"]
    head += [f"{name}: {value}" for name, value in headers.items()]
    writer.write("\r\n".join([*head, "", ""]).encode("latin-1"))
    body = reply.body[: reply.num_sent_bytes]
    step = 1 if reply.seconds_a_byte else 2**16
    for start in range(0, len(body), step):
      chunk = body[start : start + step]
      writer.write(chunk)
      # With the last byte, and before anything else runs.
      if start + step >= len(reply.body) and not writer.transport.is_closing():
        self._bill(reply)
      await writer.drain()
      self.num_sent_bytes += len(chunk)
      await asyncio.sleep(reply.seconds_a_byte)
    if not reply.has_length:
      writer.write_eof()
    if reply.num_sent_bytes is not None or not reply.has_length:
      await asyncio.sleep(0.02)  # Or aborting would take the bytes back.
      return False
    return True

  def _bill(self, reply: Reply) -> None:
    if reply.num_tokens is not None:
      self.billed.append(reply.num_tokens)


async def _read_request(reader) -> Received | None:
  """Returns the next request of a connection; None at its end."""
  head = await reader.readuntil(b"\r\n\r\n")
  first, *lines = head.decode("latin-1").split("\r\n")
  method, path, _ = first.split(" ")
  headers = {}
  for line in filter(None, lines):
    name, _, value = line.partition(":")
    headers[name.lower()] = value.strip()
  if "chunked" in headers.get("transfer-encoding", ""):
    body = await _read_chunks(reader)
  else:
    body = await reader.readexactly(int(headers.get("content-length", 0)))
  return Received(method, path, headers, body)


async def _read_chunks(reader) -> bytes:
  body = b""
  while num_bytes := int((await reader.readline()).split(b";")[0], 16):
    body += (await reader.readexactly(num_bytes + 2))[:-2]
  await reader.readline()
  return body


# --- The provider's batch API -----------------------------------------------


@dataclasses.dataclass
class _Batch:
  id: str
  endpoint: str
  input_file_id: str
  num_polls: int = 0
  output_file_id: str | None = None
  error_file_id: str | None = None


class BatchServer(FaultServer):
  """Files and batches besides the other endpoints.

  A batch is in progress for `polls_until_done` polls, then ends as
  `final_status`. Its requests are answered by `answer`, as single ones are: a
  reply below 400 goes into the output file, any other into the error file. The
  script of faults is used up first, by whatever requests come.

  Attributes:
    files: contents by id, uploaded and made.
    batches: by id.
    custom_ids: of every request in every batch created, in order.
  """

  def __init__(
    self,
    script: Iterable[Reply | ReplyFn] = (),
    answer: Reply | ReplyFn = echo,
    *,
    polls_until_done: int = 1,
    final_status: str = "completed",
    errors: Sequence[Mapping[str, Any]] = (),
    left_out: Callable[[str], bool] = lambda custom_id: False,
  ):
    """Makes the server.

    Args:
      script: as of `FaultServer`.
      answer: as above; it answers the requests inside batches.
      polls_until_done: how often a batch is said to be in progress.
      final_status: "completed", "failed", "expired" or "cancelled".
      errors: why a batch failed, e.g. {"code": ..., "message": ...}.
      left_out: says of which custom ids a batch says nothing, as one that
        expired does.
    """
    super().__init__(script, self._answer_batches)
    self._answer_one = answer
    self._polls_until_done = polls_until_done
    self._final_status = final_status
    self._errors = list(errors)
    self._left_out = left_out
    self._ids = itertools.count(1)
    self.files: dict[str, bytes] = {}
    self.batches: dict[str, _Batch] = {}
    self.custom_ids: list[str] = []

  def count(self, method: str, path: str) -> int:
    """Returns how many requests came for a path, its query left out."""
    return sum(
      received.method == method and received.path.partition("?")[0] == path
      for received in self.received
    )

  def _answer_batches(self, received: Received) -> Reply:
    path = received.path.partition("?")[0]
    match received.method, path.removeprefix("/v1/").split("/"):
      case "POST", ["files"]:
        return json_body({"id": self._add_file(_read_upload(received))})
      case "GET", ["files", file_id, "content"]:
        return Reply(200, self.files[file_id], "application/octet-stream")
      case "POST", ["batches"]:
        return json_body(self._create(received.json))
      case "GET", ["batches"]:
        listed = [self._describe(batch) for batch in self.batches.values()]
        return json_body({"object": "list", "data": listed, "has_more": False})
      case "GET", ["batches", batch_id] if batch_id in self.batches:
        return json_body(self._poll(self.batches[batch_id]))
      case "GET", _:
        return status(404)
    reply = self._answer_one
    return reply if isinstance(reply, Reply) else reply(received)

  def _add_file(self, content: bytes) -> str:
    file_id = f"file-{next(self._ids)}"
    self.files[file_id] = content
    return file_id

  def _create(self, asked: Mapping[str, Any]) -> dict[str, Any]:
    batch = _Batch(
      f"batch_{next(self._ids)}", asked["endpoint"], asked["input_file_id"]
    )
    self.batches[batch.id] = batch
    self.custom_ids += [
      line["custom_id"] for line in self._read_lines(batch.input_file_id)
    ]
    return self._describe(batch)

  def _read_lines(self, file_id):
    return [json.loads(line) for line in self.files[file_id].splitlines()]

  def _poll(self, batch: _Batch) -> dict[str, Any]:
    batch.num_polls += 1
    if self._is_done(batch) and self._final_status != "failed":
      self._make_files(batch)
    return self._describe(batch)

  def _is_done(self, batch):
    return batch.num_polls > self._polls_until_done

  def _describe(self, batch: _Batch) -> dict[str, Any]:
    is_done = self._is_done(batch)
    num_requests = len(self._read_lines(batch.input_file_id))
    return {
      "id": batch.id,
      "object": "batch",
      "endpoint": batch.endpoint,
      "input_file_id": batch.input_file_id,
      "completion_window": "24h",
      "status": self._final_status if is_done else "in_progress",
      "errors": {"object": "list", "data": self._errors} if is_done else None,
      "output_file_id": batch.output_file_id,
      "error_file_id": batch.error_file_id,
      "created_at": 1000,
      "completed_at": 1060 if is_done else None,
      "request_counts": {
        "total": num_requests,
        "completed": num_requests if is_done else 0,
        "failed": 0,
      },
    }

  def _make_files(self, batch: _Batch) -> None:
    if batch.output_file_id or batch.error_file_id:
      return
    outputs, failed = [], []
    # In another order than they were asked, as a provider may.
    for line in reversed(self._read_lines(batch.input_file_id)):
      if self._left_out(line["custom_id"]):
        continue
      received = Received(
        "POST", line["url"], {}, json.dumps(line["body"]).encode()
      )
      reply = self._answer_one
      reply = reply if isinstance(reply, Reply) else reply(received)
      result = {
        "id": f"batch_req_{line['custom_id'][:8]}",
        "custom_id": line["custom_id"],
        "response": {
          "status_code": reply.status,
          "request_id": "1",
          "body": json.loads(reply.body),
        },
        "error": None,
      }
      (outputs if reply.status < 400 else failed).append(json.dumps(result))
    if outputs:
      batch.output_file_id = self._add_file("\n".join(outputs).encode() + b"\n")
    if failed:
      batch.error_file_id = self._add_file("\n".join(failed).encode() + b"\n")


def _read_upload(received: Received) -> bytes:
  """Returns the file inside a multipart body."""
  head = f"content-type: {received.headers['content-type']}\r\n\r\n".encode()
  message = email.message_from_bytes(
    head + received.body, policy=email.policy.HTTP
  )
  for part in message.iter_parts():
    if part.get_filename():
      return part.get_payload(decode=True)
  raise ValueError("no file in the upload")
