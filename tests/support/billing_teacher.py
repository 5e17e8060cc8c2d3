"""A teacher that answers sums and bills them, with questions and settings."""

import collections
import json
import threading

import fault_server

from distill_jax.runs import label
from distill_jax.teacher.transports.config import TeacherConfig


class Bill:
  """Answers sums and bills each answer, as a provider does."""

  def __init__(self, prompt_tokens=50, completion_tokens=30):
    self.tokens = collections.Counter()
    self._lock = threading.Lock()
    self._prompt_tokens = prompt_tokens
    self._completion_tokens = completion_tokens

  @property
  def total(self):
    return sum(self.tokens.values())

  def answer(self, received, **fields):
    first = get_number(received)
    text = f"Add both. The answer is ({first} + {first + 1})."
    usage = {
      "prompt_tokens": self._prompt_tokens + first % 7,
      "completion_tokens": self._completion_tokens + first % 3,
    }
    with self._lock:
      self.tokens.update(usage)
    body = fault_server.make_answer(received, text) | {"usage": usage}
    return fault_server.json_body(body | fields)


def get_number(received):
  return int(received.prompt.split("Ann has ")[-1].split(" and ")[0])


def write_sums(folder, numbers, name="questions.jsonl"):
  lines = [
    {"id": f"q{i}", "input": f"Ann has {number} and {number + 1}\nHow many?"}
    for i, number in enumerate(numbers)
  ]
  (folder / name).write_text("".join(json.dumps(line) + "\n" for line in lines))


def make_settings(server, folder, **fields):
  base_url = server if isinstance(server, str) else server.base_url
  client_fields = {
    "base_url": base_url,
    "max_concurrency": 3,
    "timeout_seconds": 5.0,
    "max_attempts": 3,
  } | fields.pop("client", {})
  defaults = {
    "input_path": str(folder / "questions.jsonl"),
    "output_path": str(folder / "out"),
    "teacher_model": "m",
    "prompt": "svamp",
  }
  return label.LabelRun(
    client=TeacherConfig(**client_fields), **(defaults | fields)
  )


def read_paid(folder):
  return json.loads((folder / "out" / "summary.json").read_text())["paid"]
