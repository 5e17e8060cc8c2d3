"""A teacher on this machine that answers alike, for golden runs."""

import contextlib
import http.server
import json
import re
import threading
from collections.abc import Iterator
from typing import Any

import golden_outputs


def answer_question(prompt: str, seed: int) -> str:
  """Returns what the teacher says: right, wrong, bare or no answer."""
  first, second = re.findall(r"amy has (\d+) [^?]* (\d+) more", prompt)[-1]
  number = int(first) + seed
  if number % 4 == 0:
    return "amy has pens and i do not know"
  if number % 4 == 1:
    return f"the answer is {first} + {second} ."
  sign = "-" if number % 4 == 2 else "+"
  return (
    f"amy starts with {first} pens . amy gets {second} more . {first} {sign}"
    f" {second} . the answer is {first} {sign} {second} ."
  )


class _Teacher(http.server.BaseHTTPRequestHandler):
  """Answers as OpenAI's API does, and keeps what it was asked."""

  protocol_version = "HTTP/1.1"
  asked: list[str]

  def do_POST(self):
    asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
    is_chat = "messages" in asked
    prompt = json.dumps(asked["messages"]) if is_chat else asked["prompt"]
    text = answer_question(prompt, asked.get("seed", 0))
    choice: dict[str, Any] = {"index": 0, "finish_reason": "stop"}
    if is_chat:
      choice["message"] = {"role": "assistant", "content": text}
    else:
      choice["text"] = text
    body = json.dumps(
      {
        "id": "answer",
        "object": "chat.completion" if is_chat else "text_completion",
        "created": 1,
        "model": asked["model"],
        "choices": [choice],
        "usage": {
          "prompt_tokens": len(prompt.split()),
          "completion_tokens": len(text.split()),
          "total_tokens": len(prompt.split()) + len(text.split()),
        },
      }
    ).encode()
    request = json.dumps(asked, sort_keys=True).encode()
    self.asked.append(f"{self.path} {golden_outputs.hash_bytes(request)}")
    self.send_response(200)
    self.send_header("content-type", "application/json")
    self.send_header("content-length", str(len(body)))
    self.end_headers()
    self.wfile.write(body)

  def log_message(self, *_):
    """Says nothing."""


@contextlib.contextmanager
def serve() -> Iterator[tuple[str, list[str]]]:
  """Yields a teacher's address, and what it was asked until then."""
  asked: list[str] = []
  handler = type("Teacher", (_Teacher,), {"asked": asked})
  with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
      yield f"http://127.0.0.1:{server.server_address[1]}", asked
    finally:
      server.shutdown()
      thread.join()
